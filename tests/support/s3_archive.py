"""A bucket to keep an archive in, on a server that a test started."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from app.adapters.s3_place import S3Place

REGION = "ap-northeast-1"
BUCKET = "kikitori-archive"
_made: set[str] = set()


class S3Server(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def kms_key(self) -> str: ...


def sign_in(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> None:
    """Let botocore's chain find the server's credentials, and nothing else of this machine's."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@asynccontextmanager
async def plain_client(server: S3Server, service: str = "s3") -> AsyncIterator[Any]:
    """botocore's own client with the server's credentials: what another program would use."""
    config = AioConfig(signature_version="s3v4" if service == "s3" else "v4")
    async with get_session().create_client(
        service,
        region_name=REGION,
        endpoint_url=server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=config,
    ) as client:
        yield client


async def new_place(server: S3Server) -> S3Place:
    """A prefix that nothing is under, in a bucket that is made with a server's first one."""
    if server.url not in _made:
        async with plain_client(server) as client:
            await client.create_bucket(
                Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
            )
        _made.add(server.url)
    return S3Place(BUCKET, f"tests/{uuid.uuid4().hex}/")

"""Servers whose archive is in S3, and what lies there as another program sees it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.s3_archive import REGION, S3Server, new_place, plain_client
from tests.support.s3_proxy import Request
from tests.support.server import ServerProcess

POLL_SECONDS = 0.1
_SIGNER = re.compile(r"Credential=([^/]+)/")


def credentials_of(server: S3Server) -> dict[str, str]:
    """The environment in which botocore's chain finds the server's credentials, and nothing else of this machine's."""
    return {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@dataclass(frozen=True)
class ArchiveInS3:
    """An archive of its own under a prefix of a server's bucket. Keys are without that prefix."""

    server: S3Server
    bucket: str
    prefix: str

    @classmethod
    async def new(cls, server: S3Server) -> ArchiveInS3:
        """One that is empty."""
        place = await new_place(server)
        return cls(server, place.bucket, place.prefix)

    def served(self, data_dir: Path, endpoint: str, **settings: str) -> ServerProcess:
        """A server that keeps its archive here, and reaches it at ``endpoint``."""
        archive = {
            "archive_url": f"s3://{self.bucket}/{self.prefix}",
            "aws_regions": REGION,
            "s3_endpoint": endpoint,
            "kms_key": self.server.kms_key,
        }
        return ServerProcess(data_dir, environment=credentials_of(self.server), **{**archive, **settings})

    async def keys(self, under: str = "") -> list[str]:
        """All objects, in order."""
        async with plain_client(self.server) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + under
            )
            return [
                row["Key"][len(self.prefix) :] async for page in pages for row in page.get("Contents", ())
            ]

    async def uploads(self) -> list[str]:
        """Keys of the multipart uploads that were begun and neither completed nor aborted."""
        async with plain_client(self.server) as client:
            answer = await client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix)
        return [row["Key"][len(self.prefix) :] for row in answer.get("Uploads", ())]

    async def encryption(self, under: str) -> set[tuple[str, str]]:
        """(scheme, key) of all objects."""
        async with plain_client(self.server) as client:
            heads: list[Any] = [
                await client.head_object(Bucket=self.bucket, Key=self.prefix + key)
                for key in await self.keys(under)
            ]
        return {(head.get("ServerSideEncryption", ""), head.get("SSEKMSKeyId", "")) for head in heads}

    async def assert_tidy(self, clinic: str, session_id: str, seconds: float = 10.0) -> None:
        """One audio, one transcript, one manifest, the session and its epochs; nothing else, within ``seconds``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        folder = f"{clinic}/{session_id}/"
        while not _is_tidy(left := [key[len(folder) :] for key in await self.keys(folder)]):
            assert loop.time() < until, left
            await asyncio.sleep(POLL_SECONDS)


def signer(request: Request) -> str:
    """The access key that signed it."""
    found = _SIGNER.search(request.headers["authorization"])
    assert found is not None
    return found[1]


def _is_tidy(names: Sequence[str]) -> bool:
    kinds = [name.partition("-")[0] for name in names if not name.startswith("epochs/")]
    return sorted(kinds) == ["audio", "manifest.json", "session.json", "transcript"]

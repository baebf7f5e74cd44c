"""Clients of AWS's services as this program wants them: no retries of their own, time limits, one signer for many credentials."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.loaders import Loader

from app.adapters.s3_calls import SIGN_WITH, S3Limits
from app.adapters.s3_refusals import CALL_FAILURES, refusal_of
from app.archive.store import StoreUnavailable

_KEEP_ALIVE_SECONDS: Final = 15.0
"""Shorter than S3's own, so that a connection is seldom closed by the other side just as it is used."""


@asynccontextmanager
async def aws_client(
    service: str, *, region: str, endpoint: str | None, limits: S3Limits
) -> AsyncIterator[Any]:
    """A client of ``service``; its credentials are those of botocore's chain, unless ``SIGN_WITH`` says otherwise.

    One connection pool serves all credentials. An ``endpoint`` of one's own is addressed by path
    (``https://endpoint/bucket/key``), for its name rarely has the buckets' below it.

    ``total_max_attempts`` 1 turns botocore's retries off; aiohttp sends a put or get once more if a connection that was
    kept open turns out to be closed. Writes are safe against that, as they are against any lost answer.

    Raises:
        StoreUnavailable: who keeps the credentials does not give them; ``credentials``.
    """
    config = AioConfig(
        region_name=region,
        user_agent="kikitori",  # Else it is put together anew for each request.
        signature_version="s3v4" if service == "s3" else "v4",
        connect_timeout=limits.connect_seconds,
        read_timeout=limits.read_seconds,
        max_pool_connections=limits.connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Checksums are sent and compared by the store itself; botocore would add a CRC to each request.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if endpoint else "auto"},
        connector_args={"keepalive_timeout": _KEEP_ALIVE_SECONDS},
    )
    session = get_session()
    session.register_component("data_loader", _models())
    if service == "s3":
        # A list has a time in each row, which nobody asks for: reading them would be two thirds of its cost.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    async with AsyncExitStack() as stack:
        try:
            made = session.create_client(service, endpoint_url=endpoint, config=config)
            client = await stack.enter_async_context(made)
        except CALL_FAILURES as error:
            refusal = refusal_of(service, error)
            raise StoreUnavailable(service, refusal.words, refusal.reason) from error
        client.meta.events.register(f"before-sign.{service}", _choose_credentials)
        yield client


@functools.cache
def _models() -> Any:
    """What botocore knows of services; read once in a process, for reading S3's takes 100 ms."""
    return Loader()


def _choose_credentials(request: Any, **_: Any) -> None:
    signing = SIGN_WITH.get()
    if signing is not None:
        request.context.setdefault("signing", {})["request_credentials"] = signing

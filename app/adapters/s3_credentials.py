"""Whose credentials touch a clinic's objects: the task's own, or ones that STS holds to that clinic."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Protocol

from botocore.credentials import ReadOnlyCredentials

from app.adapters.s3_calls import Answer, S3Calls, S3Limits, Signing, Surroundings
from app.adapters.s3_client import aws_client
from app.archive.store import StoreUnavailable

_REFRESH_SECONDS: Final = 300.0
"""So long before their end credentials are renewed, and up to as long again, at random: clinics do not come all at once."""

_USABLE_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 30.0


class CredentialScope(Protocol):
    """Credentials for one clinic's objects. The system's own objects are always the task's affair."""

    async def credentials_for(self, clinic: str) -> Signing | None:
        """What to sign with; None is the task's own credentials.

        Raises:
            StoreUnavailable: they cannot be had now.
        """

    def reject(self, clinic: str, credentials: Signing) -> None:
        """S3 does not take them; do not give them out again."""


class TaskScope:
    """No scope: the task's own credentials for every clinic."""

    async def credentials_for(self, clinic: str) -> Signing | None:
        return None

    def reject(self, clinic: str, credentials: Signing) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True)
class ClinicCredentials:
    """What STS gave. ``expires`` is in seconds since 1970."""

    frozen: ReadOnlyCredentials = field(repr=False)
    expires: float

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """See ``Signing``."""
        return self.frozen


class _Entry:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.credentials: ClinicCredentials | None = None
        self.renew_at = 0.0


class StsScope:
    """``CredentialScope`` by STS AssumeRole with a session policy: what the role may do *and* the policy allows.

    A clinic's credentials are kept until shortly before their end; callers that come meanwhile wait for one call. If STS
    fails then, what is still valid serves on. The least recently used clinic is dropped when there are too many.

    Args:
        role_arn: the role to assume; its trust policy names the task's role.
        policy_of: a clinic's session policy, see ``s3_place.clinic_policy``.
        endpoint: instead of AWS's regional one.
        seconds: how long credentials live; AWS allows at most 3 600 to a task that is itself in a role.
    """

    def __init__(
        self,
        role_arn: str,
        policy_of: Callable[[str], str],
        *,
        region: str,
        endpoint: str | None = None,
        limits: S3Limits | None = None,
        around: Surroundings | None = None,
        clinics_max: int = 2_048,
        seconds: int = 3_600,
    ) -> None:
        """Nothing happens before ``start``."""
        self._role_arn, self._policy_of = role_arn, policy_of
        self._region, self._endpoint = region, endpoint
        self._limits, self._around = limits or S3Limits(connections=8), around or Surroundings()
        self._clinics_max, self._seconds = clinics_max, seconds
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._stack = AsyncExitStack()
        self._calls: S3Calls | None = None

    async def start(self) -> None:
        """Make the client; STS is not asked yet.

        Raises:
            StoreUnavailable: the task's credentials cannot be had.
        """
        client = await self._stack.enter_async_context(
            aws_client("sts", region=self._region, endpoint=self._endpoint, limits=self._limits)
        )
        self._calls = S3Calls(client, self._limits, self._around)

    async def close(self) -> None:
        """Give the connections back."""
        self._calls = None
        await self._stack.aclose()

    async def __aenter__(self) -> StsScope:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def credentials_for(self, clinic: str) -> Signing:
        """See ``CredentialScope``. Cancelling a caller does not harm the others."""
        entry = self._entry(clinic)
        if entry.credentials is None or self._around.wall() >= entry.renew_at:
            async with entry.lock:
                if entry.credentials is None or self._around.wall() >= entry.renew_at:
                    await self._renew(clinic, entry)
        assert entry.credentials is not None
        return entry.credentials

    def reject(self, clinic: str, credentials: Signing) -> None:
        """See ``CredentialScope``."""
        entry = self._entries.get(clinic)
        if entry is not None and entry.credentials is credentials:
            del self._entries[clinic]

    def _entry(self, clinic: str) -> _Entry:
        entry = self._entries.get(clinic)
        if entry is None:
            entry = self._entries[clinic] = _Entry()
            if len(self._entries) > self._clinics_max:
                self._entries.popitem(last=False)
        self._entries.move_to_end(clinic)
        return entry

    async def _renew(self, clinic: str, entry: _Entry) -> None:
        try:
            fresh = await self._assume(clinic)
        except StoreUnavailable:
            now = self._around.wall()
            if entry.credentials is None or entry.credentials.expires - now < _USABLE_SECONDS:
                raise
            entry.renew_at = now + _RETRY_SECONDS
        else:
            entry.credentials = fresh
            entry.renew_at = fresh.expires - _REFRESH_SECONDS * (1 + self._around.random())

    async def _assume(self, clinic: str) -> ClinicCredentials:
        if self._calls is None:
            raise StoreUnavailable(clinic, "the store is closed", "closed")
        params = {
            "RoleArn": self._role_arn,
            "RoleSessionName": f"kikitori-{clinic}"[:64],
            "Policy": self._policy_of(clinic),
            "DurationSeconds": self._seconds,
        }
        return _credentials(await self._calls.call(clinic, "assume_role", params))


def _credentials(answer: Answer) -> ClinicCredentials:
    given = answer["Credentials"]
    frozen = ReadOnlyCredentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    return ClinicCredentials(frozen, given["Expiration"].timestamp())

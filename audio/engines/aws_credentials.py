"""Credentials through botocore's default chain: environment, profiles, web identity, container, instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError, PartialCredentialsError

from audio.engine import Rejected, Unavailable
from audio.engines.aws_signing import Credentials


class CredentialSource(Protocol):
    """Where the credentials of a new stream come from."""

    async def fresh(self) -> Credentials:
        """Credentials that are good now.

        Raises:
            Unavailable: there are none now; there may be some later.
            Rejected: what is set is incomplete.
        """


class BotocoreCredentials:
    """botocore's chain, asked in a thread because it reads files and asks servers; one thread at a time, however many wait.

    Temporary credentials are renewed before they expire. A thread cannot be cancelled: one that hangs is left to its end,
    and those who wait meanwhile wait for it too, each for as long as it likes.
    """

    def __init__(
        self, session: Callable[[], botocore.session.Session] = botocore.session.get_session
    ) -> None:
        """``session`` is called in a thread, when credentials are needed for the first time."""
        self._make: Final = session
        self._session: botocore.session.Session | None = None
        self._asking: asyncio.Future[Credentials] | None = None

    async def fresh(self) -> Credentials:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().run_in_executor(None, self._ask)
            # Whoever asked may have left before it fails.
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._asking)

    def _ask(self) -> Credentials:
        try:
            if self._session is None:
                self._session = self._make()
            found = self._session.get_credentials()
            if found is None:
                raise Unavailable(
                    "credentials_missing",
                    "no AWS credentials were found: the task needs a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            frozen = found.get_frozen_credentials()
        except PartialCredentialsError as error:
            variable = error.kwargs.get("cred_var", "a part")
            raise Rejected(
                "credentials_partial", f"the AWS credentials are incomplete: {variable} is missing"
            ) from None
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            # The text of the error may quote what a credential process printed.
            raise Unavailable(
                "credentials_unavailable", f"AWS credentials could not be had: {type(error).__name__}"
            ) from None
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from botocore.credentials import Credentials as Found
from botocore.exceptions import CredentialRetrievalError, PartialCredentialsError

from audio.engine import Rejected, Unavailable
from audio.engines.aws_credentials import BotocoreCredentials
from audio.engines.aws_signing import Credentials


class FakeSession:
    """Gives what it is told, one after another."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def get_credentials(self) -> Found | None:
        self.go_on.wait(10)
        self.asked += 1
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        found: Found | None = answer
        return found


def source(session: FakeSession) -> BotocoreCredentials:
    return BotocoreCredentials(lambda: session)


async def test_each_stream_gets_credentials_of_its_moment() -> None:
    it = source(FakeSession(Found("A", "B"), Found("C", "D", "token")))
    assert await it.fresh() == Credentials("A", "B")
    assert await it.fresh() == Credentials("C", "D", "token")


async def test_missing_credentials_are_named_and_may_come_later() -> None:
    it = source(FakeSession(None, Found("A", "B")))
    with pytest.raises(Unavailable) as caught:
        await it.fresh()
    assert caught.value.code == "credentials_missing"
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    assert await it.fresh() == Credentials("A", "B")


async def test_incomplete_credentials_say_which_part_is_missing() -> None:
    it = source(FakeSession(PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY")))
    with pytest.raises(Rejected) as caught:
        await it.fresh()
    assert caught.value.code == "credentials_partial"
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        CredentialRetrievalError(provider="process", error_msg="SECRET"),
        OSError("SECRET"),
        ValueError("SECRET"),
    ],
)
async def test_credentials_that_cannot_be_had_say_so_without_secrets(error: Exception) -> None:
    with pytest.raises(Unavailable) as caught:
        await source(FakeSession(error)).fresh()
    assert caught.value.code == "credentials_unavailable"
    assert type(error).__name__ in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_one_thread_asks_for_all_who_wait_and_outlives_those_who_leave() -> None:
    session = FakeSession(Found("A", "B"))
    session.go_on.clear()
    it = source(session)
    async with asyncio.TaskGroup() as tasks:
        gone = tasks.create_task(it.fresh())
        waiting = [tasks.create_task(it.fresh()) for _ in range(20)]
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        session.go_on.set()
    assert {task.result() for task in waiting} == {Credentials("A", "B")}
    assert session.asked == 1

"""The budget of calls: attempts, pauses, turns, time limits, cancellation. The clock jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from app.adapters.s3_calls import Refused, S3Calls, S3Limits, Surroundings, settled
from app.archive.store import StoreUnavailable
from tests.support.virtual_time import run

LIMITS = S3Limits()
FINE: dict[str, Any] = {"ETag": "x"}


def refusal(code: str, status: int = 503) -> ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")


class Script:
    """A client that answers what it is told to, in order; a number is seconds of waiting before the next answer."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []
        self.finished = 0

    async def put_object(self, **_: object) -> dict[str, Any]:
        self.asked.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if self.answers else FINE
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = self.answers.pop(0) if self.answers else FINE
        self.finished += 1
        if isinstance(answer, Exception):
            raise answer
        return FINE


def calls_of(client: Script, limits: S3Limits = LIMITS, random: Callable[[], float] = lambda: 1.0) -> S3Calls:
    loop = asyncio.get_running_loop()
    return S3Calls(client, limits, Surroundings(clock=loop.time, random=random))


async def put(calls: S3Calls, **options: Any) -> dict[str, Any]:
    return await calls.call("c/s/n", "put_object", {}, **options)


def test_pauses_double_up_to_a_limit_and_end_with_the_budget() -> None:
    async def scenario() -> None:
        client = Script(*[refusal("SlowDown")] * 99)
        with pytest.raises(StoreUnavailable) as caught:
            await put(calls_of(client, replace(LIMITS, budget_seconds=11.0)))
        pauses = [
            round(after - before, 6) for before, after in zip(client.asked, client.asked[1:], strict=False)
        ]
        assert pauses == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0]
        assert caught.value.reason == "throttled"
        assert str(caught.value) == "c/s/n: S3 asks for fewer requests (attempts: 7)"

    run(scenario())


def test_jitter_is_full() -> None:
    async def scenario() -> None:
        client = Script(*[refusal("SlowDown")] * 20)
        await put(calls_of(client, random=lambda: 0.0))
        assert client.asked == pytest.approx([0.0] * 21, abs=1e-6)

    run(scenario())


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("NoSuchBucket", 404), ("InvalidArgument", 400)]
)
def test_what_will_not_change_is_not_asked_again(code: str, status: int) -> None:
    async def scenario() -> None:
        client = Script(refusal(code, status))
        with pytest.raises(StoreUnavailable):
            await put(calls_of(client))
        assert len(client.asked) == 1

    run(scenario())


def test_an_expected_answer_is_told_apart_from_a_failure() -> None:
    async def scenario() -> None:
        with pytest.raises(Refused) as caught:
            await put(calls_of(Script(refusal("PreconditionFailed", 412))), expect=("precondition",))
        assert caught.value.reason == "precondition"
        with pytest.raises(StoreUnavailable):
            await put(calls_of(Script(refusal("PreconditionFailed", 412))))

    run(scenario())


def test_a_conflict_is_tried_again_unless_it_is_expected() -> None:
    async def scenario() -> None:
        conflict = refusal("ConditionalRequestConflict", 409)
        assert await put(calls_of(Script(conflict, conflict))) == FINE
        with pytest.raises(Refused):
            await put(calls_of(Script(conflict)), expect=("conflict",))

    run(scenario())


def test_an_attempt_has_a_time_limit_and_the_next_one_may_succeed() -> None:
    async def scenario() -> None:
        client = Script(1_000.0, FINE)
        assert await put(calls_of(client, random=lambda: 0.0)) == FINE
        assert client.asked == pytest.approx([0.0, LIMITS.attempt_seconds], abs=1e-3)

    run(scenario())


def test_a_large_body_has_more_time() -> None:
    async def scenario() -> None:
        client = Script(17.0)
        calls = calls_of(client)
        answer = await calls.call("c/s/n", "put_object", {"Body": bytes(8 * 1024 * 1024)})
        assert (answer, len(client.asked)) == (FINE, 1)

    run(scenario())


def test_tries_are_shared_and_come_back_with_successes() -> None:
    async def scenario() -> None:
        client = Script(*[refusal("SlowDown")] * 3, FINE)
        calls = calls_of(client, replace(LIMITS, retry_tokens=10))
        with pytest.raises(StoreUnavailable):
            await put(calls)
        assert len(client.asked) == 3
        for _ in range(5):
            await put(calls)
        client.answers = [refusal("SlowDown"), FINE]
        assert await put(calls) == FINE

    run(scenario())


def test_who_waits_for_a_turn_waits_within_the_budget() -> None:
    async def scenario() -> None:
        client = Script(9.0)
        calls = calls_of(client, replace(LIMITS, connections=1, budget_seconds=5.0))
        async with asyncio.TaskGroup() as group:
            first = group.create_task(put(calls))
            await asyncio.sleep(0)
            with pytest.raises(StoreUnavailable) as caught:
                await put(calls)
        assert caught.value.reason == "timeout"
        assert (await first, await put(calls)) == (FINE, FINE)

    run(scenario())


@pytest.mark.parametrize(("settle", "finished"), [(True, 1), (False, 0)])
def test_a_cancelled_write_waits_for_its_answer(settle: bool, finished: int) -> None:
    async def scenario() -> None:
        client = Script(3.0)
        calls = calls_of(client)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await put(calls, settle=settle)
        assert client.finished == finished
        assert asyncio.get_running_loop().time() == pytest.approx(3.0 if settle else 1.0, abs=1e-3)

    run(scenario())


def test_it_waits_so_long_and_no_longer() -> None:
    async def scenario() -> None:
        ended = []

        async def work() -> None:
            try:
                await asyncio.sleep(1_000.0)
            finally:
                ended.append(asyncio.get_running_loop().time())

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await settled(work(), 5.0)
        assert ended == pytest.approx([6.0], abs=1e-3)

    run(scenario())


def test_a_cancelled_write_gives_its_turn_back() -> None:
    async def scenario() -> None:
        calls = calls_of(Script(3.0, FINE, 3.0, FINE), replace(LIMITS, connections=1))
        for settle in (True, False):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await put(calls, settle=settle)
        assert await put(calls) == FINE

    run(scenario())

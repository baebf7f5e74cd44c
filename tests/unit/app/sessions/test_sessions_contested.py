"""Two clients with one ticket, both alive: neither may be sent back to the session for ever."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.auth.tickets import Ticket
from app.sessions.errors import Busy
from tests.support.archives import Scribe, disk, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.memory_log import MemoryLog
from tests.support.session_world import Rows, World

BACKOFF_SECONDS = 0.1
"""Of a client that got somewhere with its last connection."""


async def insist(world: World, ticket: Ticket, codes: list[int]) -> None:
    """A client as the contract has it: speaks, and comes back after each close that is retryable."""
    while not codes or codes[-1] == 1012:
        try:
            speaker = await world.speaker(ticket)
        except Busy:
            await asyncio.sleep(BACKOFF_SECONDS)
            continue
        while speaker.closed is None:
            speaker.send(sound(0, 1600))
            await asyncio.sleep(BACKOFF_SECONDS)
            speaker.read()
        codes.append(speaker.closed)


@pytest.mark.parametrize("tasks", [1, 2])
def test_two_clients_with_one_ticket_do_not_take_the_session_from_each_other_for_ever(
    tmp_path: Path, tasks: int
) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with disk(tmp_path) as inner:
            await Scribe(inner).session()
            log, rows = MemoryLog(), Rows()
            worlds = [World(inner, task=f"task-{n}", log=log, rows=rows) for n in range(tasks)]
            async with AsyncExitStack() as stack:
                for world in worlds:
                    await stack.enter_async_context(world.running())
                first = await worlds[0].speaker(10)
                ticket = first.resume_ticket
                first.drop()
                codes: tuple[list[int], list[int]] = ([], [])
                async with asyncio.TaskGroup() as group:
                    clients = [
                        group.create_task(insist(world, ticket, seen))
                        for world, seen in zip((worlds[0], worlds[-1]), codes, strict=True)
                    ]
                    await asyncio.sleep(60)
                    for client in clients:
                        client.cancel()
                epochs = len((await worlds[0].history()).epochs)
                assert (len(codes[0]) + len(codes[1]), epochs) < (12, 12)
                assert [seen[-1:] for seen in codes].count([4409]) == 1

    scenario()

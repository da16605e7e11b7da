"""Background tasks: owned, logged when they fail, and gone with their owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

import pytest

from clarion_fanout.tasks import Tasks
from support.edges import turns


async def test_work_runs_and_is_forgotten_when_it_ends() -> None:
    tasks = Tasks()
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    tasks.start(work(), "work")
    assert len(tasks) == 1
    async with asyncio.timeout(5):
        await done.wait()
    await turns()
    assert len(tasks) == 0


async def test_an_error_is_logged_with_the_name_of_the_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Tasks()

    async def work() -> None:
        raise LookupError("the shard is gone")

    tasks.start(work(), "history")
    await turns()
    assert len(tasks) == 0
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "history failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


async def test_the_end_of_the_owner_is_the_end_of_its_tasks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Work that has begun is interrupted, and can clean up; that is no error."""
    tasks = Tasks()
    begun = asyncio.Event()
    cleaned: list[str] = []

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("yes")

    tasks.start(work(), "work")
    async with asyncio.timeout(5):
        await begun.wait()
        await tasks.close()
    assert (cleaned, len(tasks), caplog.records) == (["yes"], 0, [])


async def test_work_that_has_not_begun_is_not_left_behind_either() -> None:
    """A coroutine that is never awaited would say so (`filterwarnings` makes that an error)."""
    tasks = Tasks()
    inner_ran = False

    async def inner() -> None:
        nonlocal inner_ran
        inner_ran = True
        await asyncio.Event().wait()

    async def outer(work: Coroutine[object, object, None]) -> None:
        await work

    tasks.start(outer(inner()), "just started")
    async with asyncio.timeout(5):
        await tasks.close()
    assert inner_ran
    assert len(tasks) == 0


async def test_work_that_is_started_by_work_that_ends_ends_too() -> None:
    """An interrupted task may make room for the next; closing means that none is left."""
    tasks = Tasks()
    started = 0

    async def work() -> None:
        nonlocal started
        started += 1
        try:
            await asyncio.Event().wait()
        finally:
            if started < 5:
                tasks.start(work(), "the next")

    tasks.start(work(), "the first")
    async with asyncio.timeout(5):
        await tasks.close()
    assert (started, len(tasks)) == (5, 0)


async def test_closing_twice_does_nothing() -> None:
    tasks = Tasks()
    await tasks.close()
    await tasks.close()
    assert len(tasks) == 0

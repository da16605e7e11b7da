"""The pool: a job's outcome whatever becomes of its process, bounds, fairness, and clean ends."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from clarion_server.pipeline.pool import Busy, Pool, PoolOptions, Stopped
from clarion_server.pipeline.step import Failed, Refused
from support import jobs
from support.steps import Gate, Killer
from support.waiting import until

LONG = 60.0
"""Seconds that no test waits for."""


@asynccontextmanager
async def pool(**options: float) -> AsyncIterator[Pool]:
    made = Pool(jobs.make, PoolOptions(**{"processes": 1, **options}))  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        await made.close()
        assert not made.processes


async def pid(of: Pool) -> int:
    return int(await of.submit("a", b"pid"))


def gone(process: int) -> bool:
    """Whether a process that is not our child has ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


# Outcomes


async def test_a_job_is_what_became_of_its_data() -> None:
    async with pool() as made:
        assert await made.submit("a", b"echo one") == b"one"
        assert await made.submit("b", b"echo \xc3\xa4\x00") == b"\xc3\xa4\x00"
        assert await made.submit("a", b"echo ") == b""


async def test_large_documents_go_there_and_back() -> None:
    async with pool() as made:
        large = os.urandom(2_000_000).hex().encode()
        assert await made.submit("a", b"double " + large) == large * 2


async def test_a_refusal_comes_with_its_step() -> None:
    async with pool() as made:
        with pytest.raises(Refused, match=r"^no: \xe4\x00$") as refused:
            await made.submit("a", "refuse no: \xe4\x00".encode())
        assert refused.value.step == "strict"
        assert not isinstance(refused.value, Failed)
        with pytest.raises(Failed, match=r"^not found$") as failed:
            await made.submit("a", b"fail not found")
        assert failed.value.step == "careless"


async def test_an_unexpected_exception_fails_the_job_and_tells_its_publisher_nothing() -> None:
    async with pool() as made:
        before = await pid(made)
        with pytest.raises(Failed) as failed:
            await made.submit("a", b"bug secret")
        assert "secret" not in str(failed.value)
        assert await pid(made) == before


async def test_a_process_that_takes_too_long_is_killed_and_replaced() -> None:
    async with pool(deadline_s=0.6) as made:
        before = await pid(made)
        with pytest.raises(Stopped, match=r"deadline of 0\.6 s") as stopped:
            await made.submit("a", b"spin 60")
        assert stopped.value.cause == "deadline"
        assert await pid(made) != before
        assert made.ended == {"deadline": 1}
        assert gone(before)


async def test_a_job_that_needs_too_much_memory_fails_and_says_so() -> None:
    async with pool(memory_bytes=100 << 20) as made:
        before = await pid(made)
        assert await made.submit("a", b"take 30") == str(30 << 20).encode()
        with pytest.raises(Stopped, match="100 MiB") as stopped:
            await made.submit("a", b"take 200")
        assert stopped.value.cause == "memory"
        assert made.ended == {"memory": 2}
        assert await pid(made) != before


async def test_a_job_whose_process_dies_is_tried_once_more(tmp_path: Path) -> None:
    async with pool() as made:
        assert await made.submit("a", f"die_once {tmp_path / 'died'}".encode()) == b"lived"
        assert made.ended == {"crash": 1}


async def test_a_job_that_kills_every_process_fails_and_harms_no_other() -> None:
    async with pool() as made:
        bad = made.submit("a", b"die")
        good = [made.submit("a", b"echo %d" % number) for number in range(5)]
        with pytest.raises(Stopped, match="SIGKILL, twice") as stopped:
            await bad
        assert stopped.value.cause == "crash"
        assert await asyncio.gather(*good) == [b"%d" % number for number in range(5)]


async def test_a_process_that_closes_its_socket_and_goes_on_is_killed() -> None:
    async with pool(deadline_s=30) as made:
        began = time.monotonic()
        with pytest.raises(Stopped, match="SIGKILL, twice"):
            await made.submit("a", b"hang_up")
        assert time.monotonic() - began < 15
        assert await made.submit("a", b"echo x") == b"x"


async def test_closing_while_a_process_ends_leaves_nothing_of_it() -> None:
    made = Pool(jobs.make, PoolOptions(processes=1))
    before = await pid(made)
    os.kill(before, signal.SIGKILL)
    await until(lambda: made.ended["crash"])
    await made.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(before, os.WNOHANG)  # noqa: ASYNC222 - it does not wait


async def test_an_idle_process_that_dies_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async with pool() as made:
        before = await pid(made)
        os.kill(before, signal.SIGKILL)
        await until(lambda: made.ended["crash"] == 1 and len(made.processes) == 1)
        assert await pid(made) != before
    assert f"pid {before}, was killed by SIGKILL; another starts now" in caplog.text


async def test_no_job_is_lost_or_done_wrong_while_processes_are_killed_at_random() -> None:
    async with pool(processes=2, queue=10_000) as made:
        outcomes: list[str] = []
        killer = Killer(made, outcomes.__len__, random.Random(7))

        async def publisher(name: str) -> None:
            number = 0
            while killer.kills < 8:
                number += 1
                try:
                    data = await made.submit(name, b"echo %d" % number)
                    assert data == b"%d" % number
                    outcomes.append("done")
                except Stopped as stopped:
                    outcomes.append(stopped.cause)

        async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
            group.create_task(killer.run())
            async with asyncio.TaskGroup() as publishers:
                for name in "aabbc":
                    publishers.create_task(publisher(name))
            killer.over = True
        assert set(outcomes) <= {"done", "crash"}
        assert made.ended["crash"] >= 3


# Bounds and fairness


async def test_a_namespace_may_have_so_many_jobs_waiting_and_is_told_when_to_come_back() -> None:
    async with pool(queue=3) as made:
        running = made.submit("a", b"sleep 0.3")
        await until(lambda: made.busy)
        waiting = [made.submit("a", b"echo x") for _ in range(3)]
        with pytest.raises(Busy, match="3 publications wait") as busy:
            made.submit("a", b"echo x")
        assert 100 <= busy.value.retry_ms <= 30_000
        other = made.submit("b", b"echo y")
        patient = made.submit("a", b"echo z", patient=True)
        assert await other == b"y"
        assert [await each for each in (running, *waiting, patient)] == [
            b"slept", b"x", b"x", b"x", b"z",
        ]  # fmt: skip


async def test_free_processes_go_to_the_namespaces_in_turn() -> None:
    async with pool() as made:
        first = made.submit("a", b"sleep 0.2")
        await until(lambda: made.busy)
        order: list[str] = []
        for name in "aaaaabbc":
            job = made.submit(name, b"echo x")
            job.add_done_callback(partial(_note, order, name))
        await first
        await until(lambda: len(order) == 8)
        assert "".join(order) == "abcabaaa"


def _note(order: list[str], name: str, _job: object) -> None:
    order.append(name)


async def test_what_has_waited_for_too_long_is_given_up_unless_it_is_patient() -> None:
    async with pool(wait_s=0.1) as made:
        long = made.submit("a", b"sleep 0.6", patient=True)
        await until(lambda: made.busy)
        patient = made.submit("b", b"echo x", patient=True)
        with pytest.raises(Busy, match=r"within 0\.1 s"):
            await made.submit("a", b"echo x")
        assert not long.done()
        assert await patient == b"x"


async def test_a_job_that_nobody_wants_any_more_is_not_begun() -> None:
    async with pool() as made:
        running = made.submit("a", b"sleep 0.2")
        await until(lambda: made.busy)
        unwanted = made.submit("a", b"die")
        unwanted.cancel()
        assert await made.submit("a", b"echo x") == b"x"
        await running
        assert not made.ended


async def test_processes_start_when_they_are_needed_and_no_more_than_may_be(
    tmp_path: Path,
) -> None:
    gate = Gate(tmp_path)
    async with pool(processes=2) as made:
        await pid(made)
        assert len(made.processes) == 1
        many = [made.submit("a", f"wait {gate}".encode()) for _ in range(5)]
        await until(lambda: made.busy == 2)
        gate.open()
        await asyncio.gather(*many)
        assert len(made.processes) == 2


async def test_jobs_are_told_when_no_process_starts() -> None:
    made = Pool(jobs.broken, PoolOptions(wait_s=0.1))
    try:
        made.start()
        await until(lambda: made.ended["start"])
        with pytest.raises(Busy, match="no process for them starts: ended with exit code 3"):
            await made.submit("a", b"echo x")
    finally:
        await made.close()


async def test_closing_tells_every_job_and_leaves_no_process() -> None:
    async with pool(processes=2) as made:
        await pid(made)
        (process,) = made.processes
        many = [made.submit("a", b"spin 60") for _ in range(5)]
        await until(lambda: made.busy)
    outcomes = await asyncio.gather(*many, return_exceptions=True)
    assert all(isinstance(each, Busy) for each in outcomes)
    assert gone(process.pid)
    with pytest.raises(Busy):
        made.submit("a", b"echo x")


# What a process has of its parent's


async def test_a_process_inherits_no_sockets() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()):
        async with pool() as made:
            found = (await made.submit("a", b"descriptors")).decode().split("\n")
            assert sum(each.startswith("socket:") for each in found) == 1


async def test_a_process_stands_back_and_is_deaf_to_the_terminal() -> None:
    async with pool() as made:
        assert await made.submit("a", b"settings") == b"10 [True, True] True"


async def test_what_a_job_has_started_ends_with_its_process() -> None:
    async with pool(deadline_s=1.5) as made:
        started = int(await made.submit("a", b"start"))
        with pytest.raises(Stopped):
            await made.submit("a", b"sleep 60")
        await until(lambda: gone(started))


async def test_what_a_job_has_started_ends_although_its_process_was_killed_by_others() -> None:
    async with pool() as made:
        started = int(await made.submit("a", b"start"))
        os.kill(await pid(made), signal.SIGKILL)
        await until(lambda: gone(started))


PARENT = """
import asyncio, sys, uvloop
from clarion_server.pipeline.pool import Pool, PoolOptions
from support import jobs
from support.steps import Gate, Killer
async def main():
    pool = Pool(jobs.make, PoolOptions(processes=2, deadline_s=600))
    first = pool.submit("a", b"spin 600")
    while not pool.busy: await asyncio.sleep(0.01)
    print((await pool.submit("a", b"pid")).decode())
    print(*(each.pid for each in pool.processes), flush=True)
    await first
uvloop.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an alarm ends a busy orphan")
async def test_processes_end_with_a_parent_that_is_killed_busy_ones_too() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    async with asyncio.timeout(20):
        await parent.stdout.readline()
        processes = [int(each) for each in (await parent.stdout.readline()).split()]
    assert len(processes) == 2
    began = time.monotonic()
    parent.kill()
    await parent.wait()
    await until(lambda: all(map(gone, processes)))
    assert time.monotonic() - began < 5

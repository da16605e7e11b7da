"""Processes that run jobs: bounded in number, time and memory, replaced when they fail.

Nothing here is lost silently: each job that was submitted has an outcome, whatever becomes of the
process that runs it.

    the steps let it pass      what became of the data
    a step refuses             `Refused`, with the step and its reason
    a step fails               `Failed`: a bug, or something that the step needs is missing
    it takes too long          `Stopped`: its process is killed and replaced; not tried again
    its process ends           it is tried once more, as some other job before it or the kernel may
      (crash, kill, memory)    have been the cause; when that process ends too, `Stopped`
    it waits for too long,     `Busy`, with the time when it may be tried again
      or too much waits

A process does one job at a time, so its end harms no other job. Processes start when they are
needed, one at first, and stay.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from clarion_fanout.tasks import Tasks
from clarion_server.pipeline.child import Make, Setup
from clarion_server.pipeline.process import Died, OutOfMemory, Process
from clarion_server.pipeline.step import Failed, Refused
from clarion_server.pipeline.turns import Turns
from clarion_server.timing import Histogram

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Processes that may end under a job."""

START_SECONDS = 30.0
"""Until a process must have made its steps: a hundred times what it takes."""

END_SECONDS = 1.0
"""For a process that has closed its socket to end by itself; then it is killed."""

AGAIN_SECONDS = (0.1, 30.0)
"""The bounds of the pause before a process is started again that could not start."""

LOOK_SECONDS = 0.1
"""Between two looks for jobs that have waited for too long."""

RETRY_MS = (100, 30_000)
"""The bounds of what a publisher is told to wait."""

BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the histograms, seconds."""

Cause: TypeAlias = Literal["crash", "deadline", "memory", "start"]
"""Why a process ended: by itself or by another's hand, by ours, for want of memory, or before it
could do anything."""


class Busy(Exception):
    """There is too much to do. retry_ms: when there may be less."""

    def __init__(self, message: str, retry_ms: int) -> None:
        super().__init__(message)
        self.retry_ms = retry_ms


class Stopped(Failed):
    """The process that worked on the job has ended, and so has the job."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause


class PoolOptions(NamedTuple):
    """processes: at most. queue: jobs of a namespace that may wait. deadline_s: of a job, from when
    it begins. wait_s: how long it may wait before. memory_bytes: of a process."""

    processes: int = 2
    queue: int = 1000
    deadline_s: float = 5.0
    wait_s: float = 10.0
    memory_bytes: int = 256 * 1024 * 1024


class _Job:
    __slots__ = ("attempts", "data", "future", "name", "patient", "since")

    def __init__(
        self, name: str, data: bytes, future: asyncio.Future[bytes], since: float, patient: bool
    ) -> None:
        self.name = name
        self.data = data
        self.future = future
        self.since = since
        self.patient = patient
        self.attempts = 0


class Pool:
    """See the module's text. Make and use it inside one event loop, in its process's main thread:
    Linux ends a child with the thread that started it.

    make: makes the work that a process can do, by name; called once in each process.
    """

    def __init__(self, make: Make, options: PoolOptions) -> None:
        self.options = options
        self.ended: Counter[Cause] = Counter()
        """Processes that ended and were replaced."""
        self.waits: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(BOUNDS))
        """How long jobs waited, by name, seconds."""
        self.runs: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(BOUNDS))
        """How long they took then, whatever came of it."""
        self.busy = 0
        """Processes that are working."""
        self.processes: set[Process] = set()
        """Those that can work, or do."""
        self._setup = Setup(
            path=tuple(sys.path),
            make=pickle.dumps(make),
            memory_bytes=options.memory_bytes,
            deadline_s=options.deadline_s,
            log_level=logging.getLogger().getEffectiveLevel(),
        )
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._turns: Turns[_Job] = Turns()
        self._unfinished: set[_Job] = set()
        self._idle: list[asyncio.Future[_Job | None]] = []  # a place each for those that wait
        self._places = 0
        self._starting = 0
        self._usual_s = 0.01  # about what a job has taken of late
        self._trouble = ""  # why no process starts, if that is so
        self._look: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self) -> None:
        """Begins with one process."""
        self._grow()

    async def close(self) -> None:
        """Ends all processes. Jobs that are not done fail. A second call does nothing."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        for job in list(self._unfinished):
            self._fail(job, Busy("the server is stopping", RETRY_MS[0]))
        await self._tasks.close()

    # Jobs

    def submit(self, name: str, data: bytes, *, patient: bool = False) -> asyncio.Future[bytes]:
        """Has a job done; the future is what becomes of `data`, or fails as the module's text says.

        patient: it may exceed the bound on what waits, and waits for as long as it takes. For those
        who have a bound of their own.
        Raises `Busy`.
        """
        if self._closed:
            raise Busy("the server is stopping", RETRY_MS[0])
        waiting = self._turns.waiting(name)
        if waiting >= self.options.queue and not patient:
            text = f"{waiting} publications wait for the namespace's steps already"
            raise Busy(self._with_trouble(text), self._retry_ms(waiting))
        future: asyncio.Future[bytes] = self._loop.create_future()
        job = _Job(name, data, future, self._loop.time(), patient)
        self._unfinished.add(job)
        self._turns.put(name, job)
        self._hand_out()
        return future

    def waiting(self, name: str) -> int:
        """Jobs of that name that wait."""
        return self._turns.waiting(name)

    def _hand_out(self) -> None:
        """Gives jobs to processes that have none."""
        while self._idle and (job := self._next()) is not None:
            place = self._idle.pop()  # who worked last has the warmest caches
            if place.done():
                self._turns.put_first(job.name, job)  # its process has just ended
            else:
                place.set_result(job)
        if self._turns:
            self._grow()
            if self._look is None:
                self._look = self._loop.call_later(LOOK_SECONDS, self._sweep)

    def _next(self) -> _Job | None:
        while (job := self._turns.next()) is not None:
            if not job.future.done():
                return job
            self._unfinished.discard(job)  # nobody wants it any more
        return None

    def _sweep(self) -> None:
        """Fails what has waited for too long."""
        self._look = None
        now = self._loop.time()
        for name in self._turns.names:
            while (job := self._turns.peek(name)) is not None:
                late = now - job.since > self.options.wait_s and not job.patient
                if not late and not job.future.done():
                    break
                self._turns.drop_first(name)
                text = f"the namespace's steps had no time for it within {self.options.wait_s:g} s"
                retry_ms = self._retry_ms(self._turns.waiting(name))
                self._fail(job, Busy(self._with_trouble(text), retry_ms))
        if self._turns:
            self._look = self._loop.call_later(LOOK_SECONDS, self._sweep)

    def _with_trouble(self, text: str) -> str:
        return f"{text}; {self._trouble}" if self._trouble else text

    def _retry_ms(self, waiting: int) -> int:
        """When about half of so many will be done."""
        least, most = RETRY_MS
        needed = 1000 * self._usual_s * waiting / (2 * self.options.processes)
        return int(min(max(needed, least), most))

    def _fail(self, job: _Job, error: Exception) -> None:
        self._unfinished.discard(job)
        if not job.future.done():
            job.future.set_exception(error)

    # Processes

    def _grow(self) -> None:
        """Starts another process, one at a time."""
        if not self._closed and not self._starting and self._places < self.options.processes:
            self._places += 1
            self._starting += 1
            self._tasks.start(self._keep(), "a process of the pipeline")

    async def _keep(self) -> None:
        """Has a process, always."""
        failures = 0
        first = True
        while True:
            try:
                async with asyncio.timeout(START_SECONDS):
                    process = await Process.start(self._setup)
            except (OSError, Died, OutOfMemory) as error:  # a TimeoutError is an OSError
                self.ended["start"] += 1
                self._trouble = f"no process for them starts: {error or 'it takes too long'}"
                log.error("a process of the pipeline does not start: %s", error)
                least, most = AGAIN_SECONDS
                await asyncio.sleep(min(most, least * 2**failures))
                failures = min(failures + 1, 16)
                continue
            failures = 0
            self._trouble = ""
            if first:
                first = False
                self._starting -= 1
            self.processes.add(process)
            try:
                if self._turns:
                    self._grow()
                await self._serve(process)
            finally:
                self.processes.discard(process)
                process.kill()
                await process.reaped()

    async def _serve(self, process: Process) -> None:
        """Gives jobs to a process until it has ended."""
        while process.alive:
            job = self._next()
            if job is None:
                place: asyncio.Future[_Job | None] = self._loop.create_future()
                process.when_ended = partial(_give_up, place)
                self._idle.append(place)
                job = await place
                if job is None:
                    if place in self._idle:
                        self._idle.remove(place)
                    self.ended["crash"] += 1
                    with suppress(TimeoutError):
                        async with asyncio.timeout(END_SECONDS):
                            await process.reaped()  # it says then what ended it
                    text = "an idle process of the pipeline, pid %d, %s; another starts now"
                    log.error(text, process.pid, process.how)
                    return
                if not process.alive:
                    self.ended["crash"] += 1
                    self._turns.put_first(job.name, job)
                    self._hand_out()
                    return
            await self._do(process, job)

    async def _do(self, process: Process, job: _Job) -> None:
        began = self._loop.time()
        self.waits[job.name].add(began - job.since)
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            process.kill()

        self.busy += 1
        timer = self._loop.call_later(self.options.deadline_s, expire)
        try:
            data = await process.run(job.name, job.data)
        except Refused as refused:
            self._fail(job, refused)
        except OutOfMemory:
            self._end(process, "memory", "needed more memory than it may have", job)
        except Died as died:
            if expired:
                text = f"took longer than the deadline of {self.options.deadline_s:g} s"
                self._end(process, "deadline", text, job)
            else:
                self._end(process, "crash", str(died), job)
        else:
            self._unfinished.discard(job)
            if not job.future.done():
                job.future.set_result(data)
        finally:
            timer.cancel()
            self.busy -= 1
            taken = self._loop.time() - began
            self.runs[job.name].add(taken)
            self._usual_s += 0.1 * (taken - self._usual_s)

    def _end(self, process: Process, cause: Cause, how: str, job: _Job) -> None:
        """The process has ended under a job."""
        self.ended[cause] += 1
        log.error("a job of namespace %s, pid %d: %s", job.name, process.pid, how)
        job.attempts += 1
        if cause == "deadline":
            self._fail(job, Stopped(cause, f"the steps {how}; trying again may take as long"))
        elif job.attempts < ATTEMPTS:
            self._turns.put_first(job.name, job)
            self._hand_out()
        else:
            megabytes = self.options.memory_bytes / 1_048_576
            text = {
                "memory": f"the steps need more memory than the {megabytes:g} MiB they may have",
                "crash": f"the process that ran the steps {how}, twice",
            }[cause]
            self._fail(job, Stopped(cause, f"{text}; trying again is of little use"))


def _give_up(place: asyncio.Future[_Job | None]) -> None:
    """The process has ended that waits for a job."""
    if not place.done():
        place.set_result(None)

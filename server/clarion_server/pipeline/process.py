"""One process of the pool, from outside: started, given a job at a time, ended. See `child`.

Why not `multiprocessing`, `pebble` or `anyio.to_process`, and what each was measured to do, stands
in server/README.md.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from clarion_server.pipeline.child import (
    DONE,
    FAILED,
    HEAD,
    JOB,
    MEMORY,
    READY,
    REFUSED,
    SETUP,
    Setup,
    frame,
)
from clarion_server.pipeline.step import Failed, Refused

REAP_SECONDS = 0.005
"""Between two looks whether a process that has closed its socket has ended: it is about to."""


LINGER_SECONDS = 1.0
"""For a process that has closed its socket, to write why, and end; then it is killed."""


class OutOfMemory(Exception):
    """A job needed more memory than its process may have. The process ends."""


class Died(Exception):
    """The process has ended in the midst of a job. The text says how."""


class _Gone(Exception):
    """The process has closed its end of the socket."""


class Process:
    """See the module's text. Make one with `start`."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self.alive = True
        """Whether it may be given a job: it has not ended, and nobody has ended it."""
        self.when_ended: Callable[[], object] = lambda: None
        """Called when it ends, whatever ends it."""
        self._popen = popen
        self._answer: asyncio.Future[bytes] | None = None
        self._gone = False
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def start(cls, setup: Setup) -> Process:
        """Starts a process; it makes its steps meanwhile, which takes some 0.2 s. Raises `OSError`
        when there can be none, `Died` when it ended at once."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # Not asyncio's: uvloop forks, which takes 400 ms with 2 GB of memory; this 0.4 ms.
                # All that is open here is closed there but the one socket. A process group of its
                # own: the terminal's signals do not reach it, and what it starts ends with it. Not
                # a session: Linux gives each of them as much of a processor as ours has, however
                # nice it is (sched(7), autogroup).
                popen = subprocess.Popen(  # noqa: ASYNC220
                    [
                        *(sys.executable, "-P", "-m", "clarion_server.pipeline.child"),
                        *(str(theirs.fileno()), str(os.getpid())),
                    ],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        process = cls(popen)
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        try:
            process._transport, _ = await loop.create_unix_connection(
                lambda: _Reader(process), sock=ours
            )
            await process._ask(SETUP, pickle.dumps(setup))
        except BaseException:
            process.kill()
            await process.reaped()
            raise
        return process

    async def run(self, name: str, data: bytes) -> bytes:
        """Does a job. Raises `Refused`, `Failed`, `OutOfMemory` or `Died`."""
        return await self._ask(JOB, b"%b\0%b" % (name.encode(), data))

    def kill(self) -> None:
        """Ends it at once, and what it has started with it. A second call does nothing."""
        if self._popen.returncode is None:
            self.alive = False
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        if self._transport is not None:
            self._transport.abort()

    async def reaped(self) -> None:
        """Returns when nothing is left of it, also when it is cancelled: that takes a moment. Only
        of one that was killed, or has closed its socket."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + LINGER_SECONDS
        cancelled: asyncio.CancelledError | None = None
        while not self._has_ended():  # SIGCHLD is the loop's own
            if loop.time() > patience:
                self.kill()
            try:
                await asyncio.sleep(REAP_SECONDS)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _has_ended(self) -> bool:
        """Takes note of the end. What it has started and left behind ends with it: while it is a
        zombie, nobody else can have its number."""
        if self._popen.returncode is None and hasattr(os, "waitid"):
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self.pid, options) is None:
                return False
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._popen.poll() is not None

    @property
    def how(self) -> str:
        """How it ended."""
        code = self._popen.returncode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    async def _ask(self, kind: int, body: bytes) -> bytes:
        assert self._answer is None, "one job at a time"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answer = answer
        if self._gone or self._transport is None:
            answer.set_exception(_Gone())
        else:
            self._transport.write(frame(kind, body))
        try:
            return await answer
        except _Gone:
            await self.reaped()
            raise Died(self.how) from None
        finally:
            self._answer = None

    def answered(self, kind: int, body: bytes) -> None:
        """The process has answered."""
        if kind == MEMORY:
            self.alive = False
        answer = self._answer
        if answer is None or answer.done():
            return
        if kind in (DONE, READY):
            answer.set_result(body)
        elif kind == MEMORY:
            answer.set_exception(OutOfMemory())
        else:
            assert kind in (REFUSED, FAILED)
            step, _, text = body.decode(errors="replace").partition("\0")
            refused = Failed(text) if kind == FAILED else Refused(text)
            refused.step = step
            answer.set_exception(refused)

    def ended(self) -> None:
        """The process has closed its end."""
        self.alive = False
        self._gone = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Gone())
        self.when_ended()


class _Reader(asyncio.Protocol):
    """Puts the answers of a process together."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pieces: list[bytes] = []
        self._size = 0

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        first = self._pieces[0]
        if len(first) < HEAD:
            first = b"".join(self._pieces)
            self._pieces = [first]
            if len(first) < HEAD:
                return
        total = HEAD + int.from_bytes(first[:4], "big")
        if self._size >= total:
            whole = first if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces, self._size = [], 0
            self._process.answered(whole[4], whole[HEAD:total])

    def connection_lost(self, exc: Exception | None) -> None:
        self._process.ended()

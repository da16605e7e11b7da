"""The parent of the workers: opens the ports, starts the workers, replaces those that end.

It has no event loop and no threads, so that it can be forked at any time, and does nothing that
could fail: `crew.py` decides, this file forks, waits and sends signals. Everything is imported
and frozen before the first fork, so that the workers share that memory.

Signals: SIGTERM or SIGINT ends the workers with SIGTERM, which lets them say goodbye; a second
SIGINT kills them. Workers take no notice of SIGINT, which a terminal sends to all of them. Should
the parent be killed, the end of its lifeline tells the workers, and they end too.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import secrets
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from clarion_server.board import Board, Seat
from clarion_server.crew import Action, Crew, Start
from clarion_server.inheritance import Inheritance
from clarion_server.listener import BACKLOG, listen
from clarion_server.options import Config

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

Work = Callable[[Inheritance], int]


class Supervisor:
    """Runs `config.workers` processes.

    work: what a worker does; runs in the child and returns its exit code.
    greet: called with the public and the private port when all workers serve.
    ending_s: how long workers may take to end, seconds.
    """

    def __init__(
        self, config: Config, *, work: Work, greet: Callable[[int, int], object], ending_s: float
    ) -> None:
        self._config = config
        self._work = work
        self._greet = greet
        self._board = Board(config.workers)
        self._crew = Crew(config.workers, ending_s)
        self._instance = secrets.token_hex(4)

    def run(self) -> int:
        """Returns the exit code. Raises `OSError` when the ports cannot be opened."""
        with ExitStack() as stack:
            config = self._config
            self._public = stack.enter_context(listen(config.host, config.port))
            self._private = stack.enter_context(listen(config.api_host, config.api_port))
            for sock in (self._public, self._private):
                # Every worker takes from it: the same time's worth as for one.
                sock.listen(BACKLOG * config.workers)
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clarion-")))
            self._lifeline, self._childrens = socket.socketpair()
            self._wakeup, self._signalled = socket.socketpair()
            for sock in (self._lifeline, self._childrens, self._wakeup, self._signalled):
                stack.enter_context(sock)
                sock.setblocking(False)
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._signalled.fileno()))
            for number in _SIGNALS:
                stack.callback(signal.signal, number, signal.signal(number, _noted))
            # Dead objects would be copied into every worker; live ones are shared as long as
            # nobody writes to them, and the collector writes to all that it looks at.
            stack.callback(gc.enable)
            gc.disable()
            gc.collect()
            gc.freeze()
            return self._supervise()

    def _supervise(self) -> int:
        crew, board = self._crew, self._board
        greeted = False
        while True:
            now = time.monotonic()
            self._reap(now)
            beats = [board.last_beat(number) for number in range(board.workers)]
            self._act(crew.turn(now, beats))
            if crew.failure is not None:
                self._act(crew.stop(now))
            if crew.stopping and not crew.running:
                return crew.failure or 0
            if crew.complete and not greeted:
                greeted = True
                self._greet(self._public.getsockname()[1], self._private.getsockname()[1])
            for number in self._wait(crew.wait(now)):
                if number == signal.SIGINT and crew.stopping:
                    return self._kill()
                if number in (signal.SIGINT, signal.SIGTERM):
                    log.info("%s: the workers end", signal.Signals(number).name)
                    self._act(crew.stop(time.monotonic()))

    def _wait(self, seconds: float) -> bytes:
        """Sleeps until a signal comes, a worker serves or time is over. Returns the signals."""
        readable, _, _ = select.select([self._wakeup, self._lifeline], [], [], seconds)
        if self._lifeline in readable:
            self._lifeline.recv(4096)  # the beats on the board say who it was
        return self._wakeup.recv(4096) if self._wakeup in readable else b""

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self._start(action.number)
            else:
                number, pid, sent, why = action
                level = logging.DEBUG if sent == signal.SIGTERM else logging.ERROR
                log.log(level, "worker %d (pid %d): %s; %s", number, pid, why, sent.name)
                with suppress(ProcessLookupError):
                    os.kill(pid, sent)

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # Until the child has put away the parent's handlers, a signal to it must wait.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                self._become(number)
        except OSError as error:
            delay = self._crew.ended(number, 1, time.monotonic())
            log.error("worker %d cannot be started: %s; %s", number, error, _again(delay))
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._crew.started(number, pid, time.monotonic())

    def _become(self, number: int) -> NoReturn:
        """Goes on as a worker, in the child."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for default in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(default, signal.SIG_DFL)
            for sock in (self._lifeline, self._wakeup, self._signalled):
                sock.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            faulthandler.enable()  # says where it was, should it crash or be aborted
            gc.enable()
            self._board.place(number, os.getpid())
            code = self._work(
                Inheritance(
                    seat=Seat(self._board, number),
                    instance=self._instance,
                    public=self._public,
                    private=self._private,
                    folder=self._folder,
                    lifeline=self._childrens,
                )
            )
        except BaseException:
            log.exception("worker %d failed", number)
        finally:
            # Not `sys.exit`: what the parent has planned for its own end is not the child's.
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self, now: float) -> None:
        """Takes note of the processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._crew.number_of(pid)
            if number is None:
                continue  # an orphan that was given to us: as process 1 of a container
            self._board.place(number, 0)
            code = os.waitstatus_to_exitcode(status)
            delay = self._crew.ended(number, code, now)
            if delay is not None:
                self._board.replaced(number)
            level = logging.INFO if code == 0 or self._crew.stopping else logging.ERROR
            log.log(level, "worker %d (pid %d) %s%s", number, pid, _how(code), _again(delay))

    def _kill(self) -> int:
        """Ends everything at once, since somebody asked twice."""
        self._act(self._crew.to_all(signal.SIGKILL, "interrupted twice"))
        while self._crew.running:
            self._wait(1)
            self._reap(time.monotonic())
        return 128 + signal.SIGINT


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The wakeup descriptor has its number."""


def _how(code: int) -> str:
    """How a process ended; a negative code is a signal's."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"  # a real-time one


def _again(delay: float | None) -> str:
    if delay is None:
        return ""
    return f"; another starts in {delay:g} s" if delay else "; another starts now"

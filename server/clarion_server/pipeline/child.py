"""A process of the pool, from inside: one job after another, for as long as its parent lives.

    python -m clarion_server.pipeline.child FD PARENT

FD is one end of a pair of sockets; nothing else of the parent's is open here. What is on it is
framed: four bytes of length, one that says what it is, and that many bytes.

    parent:  SETUP  a pickled `Setup`            child:  READY    the steps are made
             JOB    a name, NUL, the data                DONE     what became of the data
                                                         REFUSED  the step, NUL, the reason
                                                         FAILED   likewise; the step's fault
                                                         MEMORY   there was not enough; it ends

It ends with its parent, whatever ends that: when idle, because the socket ends; in the midst of a
job, because the kernel kills it (Linux) or an alarm does, a second after the job's deadline. It
takes no notice of SIGINT and SIGTERM, which a terminal or a service manager sends to everybody:
its parent ends it when the last job is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import pickle
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from clarion_server.pipeline.step import Failed, Refused

log = logging.getLogger(__name__)

SETUP, READY, JOB, DONE, REFUSED, FAILED, MEMORY = b"SRJDEFM"

HEAD = 5
"""Bytes before what is framed: its length, big-endian, and its kind."""

NICENESS = 10
"""The event loops of the machine go first: they have little to do, and everybody waits for it."""

OOM_SCORE = 500
"""Out of 1,000: a machine without memory gives up a job rather than a server."""

GRACE_SECONDS = 1.0
"""After the deadline of a job, which its parent keeps, before an alarm ends an orphan."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Work: TypeAlias = Callable[[bytes], bytes]
"""A job: what becomes of the data. Raises `Refused`."""

Make: TypeAlias = Callable[[], Mapping[str, Work]]
"""Makes the work that there is, by name. Pickled by reference."""


class Setup(NamedTuple):
    """What a process needs to begin.

    path: where modules are looked for.
    make: a pickled `Make`, which may be in a module on that path.
    memory_bytes: the most that the process may take, with its interpreter and all steps.
    deadline_s: of a job.
    """

    path: Sequence[str]
    make: bytes
    memory_bytes: int
    deadline_s: float
    log_level: int


def frame(kind: int, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + bytes((kind,)) + body


def serve(sock: socket.socket) -> None:
    """Works until the parent is gone."""
    kind, body = _received(sock)
    assert kind == SETUP
    setup: Setup = pickle.loads(body)
    sys.path[:] = setup.path
    logging.basicConfig(
        level=setup.log_level,
        format=f"%(asctime)s %(levelname)-7s pipeline {os.getpid()} %(name)s: %(message)s",
    )
    _limit(setup.memory_bytes)
    make: Make = pickle.loads(setup.make)
    work = make()
    gc.collect()
    gc.freeze()  # nothing of this is ever garbage
    sock.sendall(frame(READY, b""))
    while True:
        _, body = _received(sock)
        signal.setitimer(signal.ITIMER_REAL, setup.deadline_s + GRACE_SECONDS)
        kind, body = answer(work, body)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sock.sendall(frame(kind, body))
        if kind == MEMORY:
            return  # what it held may be in pieces everywhere


def answer(work: Mapping[str, Work], body: bytes) -> tuple[int, bytes]:
    """Does one job. Returns the kind and the bytes of the answer."""
    name, _, data = body.partition(b"\0")
    del body
    try:
        return DONE, work[name.decode()](data)
    except Refused as refused:
        kind = FAILED if isinstance(refused, Failed) else REFUSED
        return kind, f"{refused.step}\0{refused}".encode(errors="replace")
    except MemoryError:
        return MEMORY, b""
    except Exception:
        log.exception("a job of %s failed", name.decode())
        return FAILED, b"\0failed; the server's log says why"


def _received(sock: socket.socket) -> tuple[int, bytes]:
    head = _exactly(sock, HEAD)
    return head[4], _exactly(sock, int.from_bytes(head[:4], "big"))


def _exactly(sock: socket.socket, count: int) -> bytes:
    first = sock.recv(count) if count else b""
    if len(first) == count:
        return first
    pieces = [first]
    while first and count > len(first):
        count -= len(first)
        first = sock.recv(min(count, 1 << 20))
        pieces.append(first)
    if not first:
        raise SystemExit  # the parent has closed its end, or is gone
    return b"".join(pieces)


def _limit(memory_bytes: int) -> None:
    # RLIMIT_DATA has counted all private writable memory since Linux 4.7; RLIMIT_AS would count
    # what is merely reserved, too.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _settle(parent: int) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write(str(OOM_SCORE))
    if os.getppid() != parent:
        raise SystemExit  # it was gone before it could be noticed


def main() -> None:
    descriptor, parent = map(int, sys.argv[1:])
    os.set_inheritable(descriptor, False)  # what a step starts has no business with it
    _settle(parent)
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(ConnectionError):
        serve(sock)


if __name__ == "__main__":
    main()

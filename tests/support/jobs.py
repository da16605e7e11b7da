"""What the processes of tests' pools do. They import this module: it has no other imports than
they have themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from clarion_server.pipeline.child import Work
from clarion_server.pipeline.step import Failed, Refused


def make() -> Mapping[str, Work]:
    return {"a": job, "b": job, "c": job}


def broken() -> Mapping[str, Work]:
    """Cannot be made."""
    raise SystemExit(3)


def job(data: bytes) -> bytes:
    """Does what the first word of the data says; what is a JSON string stays one."""
    if data.startswith(b'"'):
        return json.dumps(_done(json.loads(data))).encode()
    return _done(data.decode()).encode()


def _done(text: str) -> str:
    word, _, rest = text.partition(" ")
    return getattr(_Jobs, word)(rest)  # type: ignore[no-any-return]


class _Jobs:
    @staticmethod
    def echo(text: str) -> str:
        return text

    @staticmethod
    def pid(_text: str) -> str:
        return str(os.getpid())

    @staticmethod
    def sleep(seconds: str) -> str:
        time.sleep(float(seconds))
        return "slept"

    @staticmethod
    def spin(seconds: str) -> str:
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            pass
        return "spun"

    @staticmethod
    def refuse(text: str) -> str:
        refused = Refused(text)
        refused.step = "strict"
        raise refused

    @staticmethod
    def fail(text: str) -> str:
        failed = Failed(text)
        failed.step = "careless"
        raise failed

    @staticmethod
    def bug(text: str) -> str:
        raise RuntimeError(text)

    @staticmethod
    def die(_text: str) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    @staticmethod
    def die_once(path: str) -> str:
        """Dies unless it has died before."""
        if not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "lived"

    @staticmethod
    def refuse_again(path: str) -> str:
        """Refuses what it has done before."""
        if Path(path).exists():
            return _Jobs.refuse("not again")
        Path(path).touch()
        return "done"

    @staticmethod
    def wait(path: str) -> str:
        """Waits until a file is there."""
        while not Path(path).exists():
            time.sleep(0.01)
        return "waited"

    @staticmethod
    def take(megabytes: str) -> str:
        return str(len(bytearray(int(megabytes) << 20)))

    @staticmethod
    def double(text: str) -> str:
        return text * 2

    @staticmethod
    def descriptors(_text: str) -> str:
        """What is open: the targets of its descriptors."""
        names = []
        for name in os.listdir("/proc/self/fd"):
            try:
                names.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:  # the one that lists them
                continue
        return "\n".join(names)

    @staticmethod
    def start(_text: str) -> str:
        """Starts a process of its own that does not end by itself."""
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        return str(subprocess.Popen(command, stdin=subprocess.DEVNULL).pid)

    @staticmethod
    def hang_up(_text: str) -> str:
        """Closes all that is open, and goes on."""
        os.closerange(3, 1000)
        time.sleep(600)
        return "never"

    @staticmethod
    def settings(_text: str) -> str:
        ignored = [signal.getsignal(each) is signal.SIG_IGN for each in (2, 15)]
        own = os.getpgid(0) == os.getpid() and os.getsid(0) != os.getpid()
        return f"{os.nice(0)} {ignored} {own}"

"""What a plan is played against: a server that is started for it and ended after it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from loadtest.carriers import Clarion
from loadtest.play.clarion import ClarionEvents, ClarionWebSocket
from loadtest.play.desk import ClarionDesk, Desk
from loadtest.play.plan import Plan
from loadtest.play.talk import Talk
from loadtest.program import Redis

CONFIG = """development = true
log_level = "warning"
[namespaces.default]
history_size = %d
presence = "%s"
"""
STOPS = ("event_loop_lag_seconds", "gc_pause_seconds")
"""What the names of the metrics begin with that tell how long a worker's loop stood still: counted
by buckets, and the longest of the last minute (`_max`)."""


class Target(Protocol):
    """A context manager: the server runs, and is ready, as long as it lasts.

    name: as in a table. version, setting: what exactly it is, and how it is configured.
    pids: the processes whose CPU time and memory count.
    """

    name: str
    version: str
    setting: str

    @property
    def pids(self) -> Sequence[int]: ...

    @property
    def port(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def talk(self, place: int) -> Talk:
        """How the client at this place speaks with it."""
        ...

    def desk(self) -> tuple[Desk, tuple[str, int]]:
        """How it is published to, and where."""
        ...

    def stops(self) -> Mapping[str, float]:
        """Counters of how long its loop stood still, where it has any; see STOPS."""
        ...

    def strike(self, event: str) -> None:
        """Kills a part of it, or starts it again; see `plan.EVENTS`."""
        ...


class _Server(Clarion):
    def __init__(self, cores: tuple[int, ...], command: str, environment: Mapping[str, str]):
        self.cores = cores
        super().__init__(command, **environment)


class ClarionTarget:
    """Clarion, with as many workers and shards as the plan wants."""

    name = "Clarion"

    def __init__(
        self,
        plan: Plan,
        command: str,
        environment: Mapping[str, str],
        *,
        cores: tuple[int, ...],
        redis: str = "redis-server",
        redis_cores: tuple[int, ...],
    ) -> None:
        self.plan = plan
        self._command, self._environment, self._cores = command, environment, cores
        self._redis, self._redis_cores = redis, redis_cores
        self._stack = ExitStack()
        self.shards: list[Redis] = []

    def __enter__(self) -> Self:
        plan = self.plan
        with ExitStack() as stack:
            for _ in range(plan.redis):
                shard = Redis(self._redis, *self._redis_cores, synced=plan.synced)
                stack.enter_context(shard)
                self.shards.append(shard)
            config = Path(stack.enter_context(tempfile.TemporaryDirectory()), "clarion.toml")
            config.write_text(CONFIG % (plan.history, "members" if plan.presence else "off"))
            options = {"CLARION_CONFIG": str(config)}
            if plan.redis:
                options["CLARION_REDIS"] = ",".join(shard.url for shard in self.shards)
                options["CLARION_WORKERS"] = str(plan.workers)
            options |= {**plan.server, **self._environment}
            self._server = stack.enter_context(_Server(self._cores, self._command, options))
            self._stack = stack.pop_all()
        info = json.loads(self._server.get("/v1/info")[1])
        self.version = info["version"]
        shown = {**plan.server, **self._environment}
        self.setting = ", ".join(
            [
                f"{plan.workers} worker{'s' * (plan.workers > 1)}",
                f"{plan.redis} Redis{', synced to disk' * plan.synced}"
                if plan.redis
                else "embedded broker",
                f"history of {plan.history}",
                "presence" if plan.presence else "no presence",
                *(f"{key}={value}" for key, value in shown.items()),
            ]
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def pids(self) -> Sequence[int]:
        return [self._server.pid]

    @property
    def port(self) -> int:
        return self._server.port

    def talk(self, place: int) -> Talk:
        share = self.plan.sse
        events = int((place + 1) * share) > int(place * share)
        return ClarionEvents() if events else ClarionWebSocket()

    def desk(self) -> tuple[Desk, tuple[str, int]]:
        port = self._server.api_port
        return ClarionDesk(port, self.plan.careful), ("127.0.0.1", port)

    def stops(self) -> Mapping[str, float]:
        try:
            return self._server.metrics(*STOPS)
        except OSError:
            return {}  # a worker that answers for all was killed just now

    def strike(self, event: str) -> None:
        if event == "kill worker":
            workers = json.loads(self._server.get("/v1/info")[1])["workers"]
            os.kill(workers[0]["pid"], signal.SIGKILL)
        elif event == "kill shard":
            self.shards[0].kill()
        elif event == "start shard":
            self.shards[0].serve()

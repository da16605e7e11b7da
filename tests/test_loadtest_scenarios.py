"""Every scenario in a short form: nothing is lost, doubled or out of order. Never how fast."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Self

import pytest
from loadtest.carriers import CLARION, has_compiler
from loadtest.peers.bare import CLoop, PythonLoop
from loadtest.peers.peer import Peer
from loadtest.play.desk import Desk, Lines
from loadtest.play.plan import Plan, load, names, parse
from loadtest.play.play import Play
from loadtest.play.stamp import FIELDS
from loadtest.play.talk import Client, Greeting, Talk, WebSocket, upgrade, upgraded
from loadtest.play.target import ClarionTarget, Target

CORES = tuple(sorted(os.sched_getaffinity(0)))
SHORT = {
    # times the clients, times the seconds: so that each has a moment of everything
    "baseline": (0.1, 0.2),
    "burst": (0.05, 0.1),
    "churn": (0.1, 0.2),
    "crowd": (0.02, 0.2),
    "deep": (0.1, 0.2),
    "failover": (0.1, 0.3),
    "half": (0.1, 0.1),
    "many": (0.01, 0.02),
    "peak": (0.1, 0.2),
    "slow": (0.1, 0.2),
    "soak": (0.02, 0.0002),
    "storm": (0.1, 0.2),
    "users": (0.01, 0.02),
    "wide": (0.1, 0.2),
}


def played(plan: Plan, target: Target) -> dict[str, object]:
    with target, Play(plan, target, CORES, plan.name) as play:
        return play.run()


def test_there_is_a_short_form_of_every_scenario() -> None:
    assert sorted([*SHORT, "compare"]) == names()  # `compare` is played against others below


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_in(name: str) -> None:
    clients, seconds = SHORT[name]
    plan = load(name).scaled(clients, seconds)
    plan = replace(plan, workers=min(plan.workers, 2))
    options = {"CLARION_WINDOW_SECONDS": "1"} if name == "slow" else {}
    take = played(plan, ClarionTarget(plan, CLARION, options, cores=CORES, redis_cores=CORES))
    assert take["faults"] == []
    assert isinstance(take["deliveries"], int)
    assert take["deliveries"] > 0


@pytest.mark.parametrize("peer", [PythonLoop, CLoop])
def test_a_bare_loop_plays_the_comparison(peer: type[Peer]) -> None:
    if peer is CLoop and not has_compiler():
        pytest.skip("there is no C compiler")
    plan = load("compare").scaled(0.05, 0.1)
    take = played(replace(plan, phases=plan.phases[:3]), peer(CORES))
    assert take["faults"] == []
    assert take["version"]


class Liar:
    """A server that leaves out every tenth publication for its first client."""

    name, version, setting, pids = "liar", "1", "", (os.getpid(),)

    def __enter__(self) -> Self:
        self.front, self.back = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.port = self.front.getsockname()[1]
        self.clients: list[socket.socket] = []
        self.threads = [threading.Thread(target=each) for each in (self.greet, self.carry)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in (self.front, self.back):
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for each in (self.front, self.back, *self.clients):
            each.close()

    def greet(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.front.accept()
                client.recv(10_000)
                client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                self.clients.append(client)

    def carry(self) -> None:
        with suppress(OSError):
            backend, _ = self.back.accept()
            with backend, backend.makefile("rb") as lines:
                for line in lines:
                    data = line.partition(b" ")[2].strip()
                    number = int(FIELDS.findall(data)[0][1])
                    frame = b"\x82\x7e" + len(data).to_bytes(2) + data
                    for client in self.clients[number % 10 == 0 :]:
                        client.sendall(frame)

    def talk(self, place: int) -> Talk:
        return Blunt()

    def desk(self) -> tuple[Desk, tuple[str, int]]:
        return Lines(), self.back.getsockname()

    def stops(self) -> Mapping[str, float]:
        return {}

    def strike(self, event: str) -> None:
        raise NotImplementedError


class Blunt(WebSocket):
    def arrive(self, client: Client, port: int) -> Greeting:
        yield from upgraded(upgrade(port, "/"))


def test_a_server_that_leaves_something_out_is_found_out() -> None:
    text = 'title="t"\nabout="a"\nclients=20\n[[phases]]\nname="a"\nseconds=1.05\nrate=100\n'
    take = played(parse("lie", text), Liar())
    assert take["faults"] == ["10 publications were skipped, 0 told"]
    assert take["deliveries"] == 105 * 20 - 10


def test_a_sample_notices_what_others_have_not_got() -> None:
    text = (
        'title="t"\nabout="a"\nclients=20\nsample=10\n'
        '[[phases]]\nname="a"\nseconds=1.05\nrate=100\n'
    )
    take = played(parse("lie", text), Liar())
    assert take["faults"] == ["10 publications were skipped, 0 told"]

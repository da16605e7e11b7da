"""Where the slots of a Redis Cluster are, as its nodes say; and which of them to believe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from clarion_fanout.redis_address import Address
from clarion_fanout.redis_query import Refusal, ask_any
from clarion_fanout.redis_slots import SLOTS, Range
from clarion_fanout.redis_wire import Reply


class Layout(NamedTuple):
    """What a node says. well: whether it finds its cluster in order. nodes: the names of all,
    replicas too."""

    well: bool
    ranges: list[Range]
    nodes: list[str]

    @property
    def slots(self) -> int:
        """How many are some node's."""
        return sum(last + 1 - first for first, last, _ in self.ranges)


def name_of(where: str, asked: Address | None) -> str:
    """The name of a node that is at `where`, as a node at `asked` says: `host:port`.

    Nodes that do not know their own host leave it out: it is the one that was asked.
    """
    host, _, port = where.rpartition(":")
    if host in ("", "?") and asked is not None:
        host = asked.host
    return f"{host}:{port}"


async def ask_layout(
    addresses: Sequence[Address], timeout_s: float, *, first: bool = False
) -> Layout:
    """Asks nodes, in random order, until one can be believed. first: whether any answer is better
    than what is known. Raises `OSError`."""
    doubtful: list[Layout] = []

    def believed(asked: Address, replies: list[Reply]) -> Layout:
        layout = _read(asked, replies)
        # One that is cut off from the others sees what was; and one that is about to become a
        # replica has forgotten its own slots. Another may know better.
        if not layout.well and not (first and layout.ranges):
            raise Refusal(f"node {asked} says that the cluster is down")
        if not layout.well or layout.slots < SLOTS:
            doubtful.append(layout)
            raise Refusal(f"node {asked} knows too little")
        return layout

    questions = [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")]
    try:
        return await ask_any(addresses, questions, timeout_s, believed)
    except OSError:
        if not doubtful:
            raise
        return max(doubtful, key=lambda layout: layout.slots)


def _read(asked: Address, replies: list[Reply]) -> Layout:
    info, slots = cast("tuple[bytes, list[list[Reply]]]", replies)
    ranges: list[Range] = []
    nodes: list[str] = []
    for first, last, *places in slots:
        names = [name_of(f"{_text(host)}:{port}", asked) for host, port, *_ in places]
        ranges.append(Range(first, last, names[0]))
        nodes += names
    return Layout(b"cluster_state:ok" in info, ranges, nodes)


def _text(host: bytes | None) -> str:
    return host.decode() if host is not None else ""

"""What one sampled subscriber received, in full: is it whole, in order, and how late was it."""

from __future__ import annotations

import re

from loadtest import wire

DATA = '{"n":"%010d","t":"%019d","pad":"%s"}'
"""A payload of constant length: a number from 1, and when it was published (ns, monotonic)."""

_FIELDS = re.compile(rb'(?:"offset":([0-9]+).*)?"n":"([0-9]+)","t":"([0-9]+)"')


def payload(number: int, size: int, now_ns: int) -> str:
    """JSON of exactly `size` bytes (at least 60)."""
    empty = DATA % (0, 0, "")
    return DATA % (number, now_ns, "x" * (size - len(empty)))


class Tail:
    """Parses every frame of one client. `size` tells the others what they must have received."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.offsets: list[int] = []
        self.latencies_ns: list[int] = []
        self.size = 0
        """Bytes of the complete message frames so far, headers included."""
        self.frame = b""
        """The last message as it came, frame header included."""
        self.strays: list[str] = []
        """What else came: it would make the byte counts of the other clients wrong."""
        self._rest = bytearray()

    def take(self, data: bytes | memoryview, now_ns: int) -> None:
        """Takes what was read from the socket at `now_ns`."""
        rest = self._rest
        rest += data
        at = 0
        for opcode, start, end in wire.frames(rest):
            fields = _FIELDS.search(rest, start, end)
            if opcode == wire.TEXT and fields:
                offset, number, then_ns = fields.groups()
                self.numbers.append(int(number))
                self.latencies_ns.append(now_ns - int(then_ns))
                if offset:
                    self.offsets.append(int(offset))
                self.frame = bytes(rest[at:end])
                self.size += end - at
            else:
                self.strays.append(f"opcode {opcode}: {bytes(rest[start:end][:120])!r}")
            at = end
        del rest[:at]

    def faults(self, first: int, last: int) -> list[str]:
        """What is wrong, given that the publications `first` to `last` were made, in order."""
        faults = [f"unexpected: {stray}" for stray in self.strays[:3]]
        missing = set(range(first, last + 1)) - set(self.numbers)
        if missing:
            faults.append(f"{len(missing)} lost, the first is {min(missing)}")
        if len(set(self.numbers)) != len(self.numbers):
            faults.append(f"{len(self.numbers) - len(set(self.numbers))} duplicates")
        if self.numbers != sorted(self.numbers):
            faults.append("out of order")
        if any(b != a + 1 for a, b in zip(self.offsets, self.offsets[1:], strict=False)):
            faults.append("offsets are not consecutive")
        return faults

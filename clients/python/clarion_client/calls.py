"""Commands that have one answer each, over the loss of connections: a machine.

A command waits for a connection, is sent, and waits for its answer. When the connection is lost in
between, one that only reads is sent again on the next. One that changes something (`publish`) is
not: it may have been carried out, and would be so twice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Call:
    text: str
    reads: bool
    sent: bool = False


class Calls:
    """Commands without an answer so far, by their ids."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, id: int, text: str, reads: bool) -> None:
        """A new command. reads: it changes nothing, so that it may be sent twice."""
        self._calls[id] = _Call(text, reads)

    def to_send(self) -> list[str]:
        """The texts of those that were not sent yet; they count as sent now."""
        calls = [call for call in self._calls.values() if not call.sent]
        for call in calls:
            call.sent = True
        return [call.text for call in calls]

    def end(self, id: int) -> bool:
        """It was answered, or nobody waits any more. Returns whether it was sent; False, too, when
        there is no such command."""
        call = self._calls.pop(id, None)
        return call is not None and call.sent

    def __contains__(self, id: object) -> bool:
        return id in self._calls

    def cut(self) -> list[int]:
        """The connection is lost. Returns those whose outcome nobody will know; they are ended."""
        unknown = [id for id, call in self._calls.items() if call.sent and not call.reads]
        for id in unknown:
            del self._calls[id]
        for call in self._calls.values():
            call.sent = False
        return unknown

    def end_all(self) -> list[int]:
        """There will be no more connection. Returns all that were not answered."""
        ids = list(self._calls)
        self._calls.clear()
        return ids

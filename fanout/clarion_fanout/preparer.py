"""The contract of what is done to letters between their inbox and their topic, where that is
anything: by the server, which knows about it.

Letters of a topic are given back in the order in which they were put, however long each takes;
those of different topics do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from clarion_fanout.letter import Letter


class Prepared(NamedTuple):
    """What is done with.

    letters: that may be published; their data may have changed.
    refused: that can never be, and why, for their authors.
    """

    letters: Sequence[Letter]
    refused: Sequence[tuple[Letter, str]]


class Preparer(Protocol):
    """See the module's text."""

    @property
    def waiting(self) -> int:
        """Letters that were put and not taken."""
        ...

    @property
    def oldest(self) -> bytes | None:
        """The entry of the one that was put first."""
        ...

    @property
    def room(self) -> int:
        """Letters that may be put; more are taken, once."""
        ...

    def most_bytes(self, topic: str) -> int:
        """That data for the topic may have before it is worked on."""
        ...

    def put(self, letter: Letter) -> bool:
        """Takes a letter to be worked on; False if there is nothing to be done, ever, to those of
        its topic. Never waits."""
        ...

    def take(self) -> Prepared:
        """What is done with by now. Never waits."""
        ...

    def clear(self) -> None:
        """Forgets what was put: another owner of the inbox works on it, or this one anew."""
        ...

"""Letters that could not be published yet, and those that must wait behind them: a machine.

Letters of one topic go in their order. So when one cannot be published, those of its topic that
follow wait here; those of other topics do not. What waits is bounded; there is no room for more
then, and whoever fills the backlog stops reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from clarion_fanout.letter import Letter

LETTERS = 10_000
"""That may wait: what a busy backend writes in a second or two. Each takes some 300 bytes here,
beside its data."""

BYTES = 16 * 1024 * 1024
"""Of their data."""

SHARE = 100
"""Letters of a topic that are tried again at once: a topic that fails for ever must leave room for
others."""


class Backlog:
    """See the module's text."""

    def __init__(self, letters: int = LETTERS, data_bytes: int = BYTES) -> None:
        self._most = letters
        self._most_bytes = data_bytes
        self._topics: dict[str, deque[Letter]] = {}  # those that were tried last, last
        self._bytes = 0
        self.letters = 0
        """That wait now."""

    @property
    def room(self) -> int:
        """Letters that may be read now; what is read may exceed the bytes once."""
        return 0 if self._bytes >= self._most_bytes else max(0, self._most - self.letters)

    def passed(self, letters: Iterable[Letter]) -> list[Letter]:
        """Those that need not wait; the others do from now on."""
        topics = self._topics
        if not topics:
            return list(letters)
        free: list[Letter] = []
        for letter in letters:
            if letter.topic in topics:
                self.keep(letter)
            else:
                free.append(letter)
        return free

    def due(self, reachable: Callable[[str], bool], most: int) -> list[Letter]:
        """At most so many that wait first in topics that can be reached. They stay."""
        due: list[Letter] = []
        for topic, letters in self._topics.items():
            if len(due) >= most:
                break
            if reachable(topic):
                due += islice(letters, min(SHARE, most - len(due)))
        return due

    def keep(self, letter: Letter) -> None:
        """Keeps a letter behind those of its topic."""
        self._topics.setdefault(letter.topic, deque()).append(letter)
        self.letters += 1
        self._bytes += len(letter.data)

    def done(self, letter: Letter) -> None:
        """A letter that waited first in its topic was published."""
        letters = self._topics[letter.topic]
        assert letters[0] is letter, "letters of a topic are published in their order"
        letters.popleft()
        self.letters -= 1
        self._bytes -= len(letter.data)
        if not letters:
            del self._topics[letter.topic]

    def failed(self, topic: str) -> None:
        """Those of a topic were tried in vain: others come first the next time."""
        self._topics[topic] = self._topics.pop(topic)

    @property
    def oldest(self) -> bytes | None:
        """The entry that waits for the longest time."""
        entries = [letters[0].entry for letters in self._topics.values()]
        return min(entries, key=place, default=None)


def place(entry: bytes) -> tuple[int, int]:
    """An entry's id as numbers: Redis' clock in ms when it was added, and a number in that ms."""
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)

"""Questions to all workers and their answers, at both ends: machines without I/O.

    {"kind":"question","id":"6f0c","worker":"a","body":{...}}    to all, or to those in "only"
    {"kind":"farewell","worker":"a"}                             to all: it is there no more
    {"id":"6f0c","worker":"b","body":{...}}                      the answer; no body: it could not

A worker may get the same question several times, over several shards, and answers each time; it
does what it is asked once. What a worker does not know it answers without a body, so that nobody
waits for a worker of another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from clarion_fanout.roll import WORKERS, Entry

REMEMBERED = 1000
"""Answers: some 300 KB, and far more than are given while somebody might ask again."""

REPEATED_BYTES = 4096
"""The longest answer that is remembered. What changes something has a short one; for a long one
the question is answered anew, since reading twice harms nobody."""

ANSWERS_BYTES = 32 * 1024 * 1024
"""That one question brings in. Redis drops a subscriber that so much waits for."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_\-]+\Z")]
"""Of a worker or a question; part of a channel's name."""


Way = TypeVar("Way")


class Question(msgspec.Struct, frozen=True, kw_only=True, tag="question", tag_field="kind"):
    """worker: who asks. only: who is to answer; everybody if it is empty."""

    id: Name
    worker: Name
    only: tuple[Name, ...] = ()
    body: msgspec.Raw


class Farewell(msgspec.Struct, frozen=True, kw_only=True, tag="farewell", tag_field="kind"):
    """worker: who leaves."""

    worker: Name


ToAll: TypeAlias = Question | Farewell


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """worker: who answers."""

    id: Name
    worker: Name
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Answers(NamedTuple):
    """What came of a question.

    answers: by worker.
    unanswered: those who are there, or were a moment ago, and did not answer, or could not.
    """

    answers: Mapping[str, bytes]
    unanswered: Sequence[Entry]


class Inquiry:
    """A question of ours: who is awaited, and what has come."""

    def __init__(self, id: str) -> None:
        self.id = id
        self._answers: dict[str, bytes] = {}
        self._bytes = 0
        self._unable: set[str] = set()
        self._gone: set[str] = set()
        self._expected: dict[str, Entry] | None = None
        self._awaited: dict[str, None] = {}

    def expect(self, workers: Sequence[Entry]) -> None:
        """Says who is there."""
        self._expected = {entry.id: entry for entry in workers}
        said = self._answers.keys() | self._unable | self._gone
        self._awaited = dict.fromkeys(id for id in self._expected if id not in said)

    def answered(self, worker: str, body: bytes | None) -> bool:
        """Takes an answer, None from a worker that cannot. Says whether it is taken: the worker's
        first, and not beyond what is kept."""
        if worker in self._answers or worker in self._unable:
            return False
        self._bytes += len(body or b"")
        if self._bytes > ANSWERS_BYTES or len(self._answers) + len(self._unable) >= WORKERS:
            return False
        if body is None:
            self._unable.add(worker)
        else:
            self._answers[worker] = body
        self._awaited.pop(worker, None)
        return True

    def left(self, worker: str) -> None:
        """A worker is not there any more, nor are its clients: nobody waits for it."""
        self._gone.add(worker)
        self._awaited.pop(worker, None)

    @property
    def awaited(self) -> list[str]:
        """Those who are expected and have said nothing yet."""
        return list(self._awaited)

    @property
    def complete(self) -> bool:
        """Whether it is known who is there, and nobody is awaited any more."""
        return self._expected is not None and not self._awaited

    def outcome(self) -> Answers:
        """What there is, whoever may still be awaited."""
        expected = self._expected or {}
        silent = [
            entry
            for worker, entry in expected.items()
            if worker not in self._answers and worker not in self._gone
        ]
        # Who says that it cannot is there, on the roll or not.
        unknown = [Entry(worker, b"") for worker in sorted(self._unable - expected.keys())]
        return Answers(self._answers, [*silent, *unknown])


class Memory(Generic[Way]):
    """The questions of others: those that are worked on, and the last that were answered."""

    def __init__(self) -> None:
        self._working: dict[str, list[Way]] = {}
        self._answers: dict[str, bytes] = {}

    @property
    def working(self) -> int:
        """Questions that have no answer yet."""
        return len(self._working)

    def __contains__(self, id: str) -> bool:
        return id in self._working or id in self._answers

    def take(self, id: str, way: Way) -> bytes | None:
        """A question came on some way. Returns None if it is new, and must be worked on, until
        `done`; otherwise what to answer at once, or nothing yet."""
        if (ways := self._working.get(id)) is not None:
            # The one on which it came first may lead nowhere.
            if way not in ways:
                ways.append(way)
            return b""
        answer = self._answers.get(id)
        if answer is None:
            self._working[id] = [way]
        return answer

    def done(self, id: str, answer: bytes) -> list[Way]:
        """A question has its answer. Returns the ways on which to give it."""
        if len(answer) <= REPEATED_BYTES:
            if len(self._answers) >= REMEMBERED:
                del self._answers[next(iter(self._answers))]
            self._answers[id] = answer
        return self._working.pop(id)

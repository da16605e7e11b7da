"""Questions from one worker to all others that share the shards, and their answers.

    ask       reads the roll, and publishes the question through a shard that is well
    (waits)   until everybody who is on the roll has answered
    (again)   after `again_s`, through every shard, to those who have not
    (over)    after `deadline_s`: who has not answered by then is named

What is asked and answered is the caller's affair: JSON, as bytes. Pub/sub may lose a question or
an answer, which is why it is asked twice; a question has an id, by which a worker knows that it
has done that already, and says again what came of it.

`Answers` says whether everybody has answered. `BrokerUnavailable` means that no shard could say
who is there, so that nothing is known of the others. A worker that no shard has heard of for
`lease_s` is taken for dead: if it has merely lost every shard, it does not hear the question, and
nobody waits for it.

Whoever can publish to Redis is believed. But what is not understood harms nobody: it is dropped,
counted by reason, and logged once a minute. Everything has a bound, see below.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import msgspec

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.inquiry import (
    Answer,
    Answers,
    Farewell,
    Inquiry,
    Memory,
    Question,
    ToAll,
)
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_lanes import Places
from clarion_fanout.redis_leases import Leases
from clarion_fanout.redis_post import Post
from clarion_fanout.roll import WORKERS, Entry
from clarion_fanout.tasks import Tasks

T = TypeVar("T")

log = logging.getLogger(__name__)

QUESTION_BYTES = 64 * 1024
"""Far more than one has, with `NAMED` workers."""

ANSWER_BYTES = 1024 * 1024
"""Redis takes it in a millisecond or two, during which it does nothing else."""

NAMED = 500
"""How many of those who have not answered are asked by name; of more, all are asked again."""

OPEN = 16
"""Questions of ours at a time: more than a few people, scripts and dashboards ask."""

WORKING = 64
"""Questions of others at a time."""

DROPPED = ("malformed", "too_large", "busy", "late", "failed")
"""Why what came in was not used. busy: more than `WORKING` questions. late: an answer to a question
that is over. failed: a question that we cannot answer, or that was not understood."""

COMPLAINT_SECONDS = 60.0
"""Between two lines of the log about what was dropped."""


class ControlOptions(NamedTuple):
    """How patient it is, seconds; see the module's text.

    again_s is also what a shard may take for a command: one that stalls delays no question longer.
    """

    lease_s: float = 15.0
    deadline_s: float = 2.0
    again_s: float = 0.5


_USUAL = ControlOptions()


class Control:
    """See the module's text.

    worker: names this one among all; letters, digits, `_` and `-`, at most 64, never used before.
    about: what it says of itself, for those whom it does not answer.
    answer: answers a question. Raises `ValueError` for one that it does not understand. It may be
        called again for an answer that was longer than `inquiry.REPEATED_BYTES`.
    tasks: own the work.
    replaces: whether this worker was started because another one has ended, which may not have been
        able to say so: then nobody needs to wait until its lease is over.
    """

    def __init__(
        self,
        shards: Places,
        *,
        keys: Keys,
        worker: str,
        about: bytes,
        answer: Callable[[bytes], Awaitable[bytes]],
        tasks: Tasks,
        replaces: Callable[[Entry], bool] = lambda _entry: False,
        options: ControlOptions = _USUAL,
    ) -> None:
        self.worker = worker
        self._shards = shards
        self._answer = answer
        self._tasks = tasks
        self._replaces = replaces
        self._options = options
        self._leases = Leases(
            shards,
            keys=keys,
            own=Entry(worker, about),
            lease_s=options.lease_s,
            timeout_s=options.again_s,
        )
        self._post = Post(
            shards,
            keys=keys,
            worker=worker,
            timeout_s=options.again_s,
            to_all=self._was_said,
            to_us=self._was_answered,
            resumed=self._leases.renew_soon,
        )
        self._open: dict[str, tuple[Inquiry, asyncio.Event]] = {}
        self._memory: Memory[str] = Memory()
        self._closed = False
        self._complained = float("-inf")
        self.answered = 0
        """Questions of others that were answered, repetitions not counted."""
        self.dropped: Counter[str] = Counter()
        """What came in and was not used, by reason; see `DROPPED`."""

    @property
    def others(self) -> int:
        """How many other workers are there, as far as is known."""
        return len(self._leases.others())

    async def start(self) -> None:
        """Begins to listen. It is on the roll then, unless there is no shard now."""
        self._post.listen()
        await self._leases.renew()
        for entry in self._leases.others():
            if self._replaces(entry):
                await self._leases.take_off(entry)
                await self._farewell(entry.id)
        names = ", ".join(shard.name for shard in self._shards.all())
        log.info("worker %s shares %s with %d others", self.worker, names, self.others)
        self._tasks.start(self._leases.run(), "control leases")
        if self._shards.sharded:
            self._tasks.start(self._follow(), "control lanes")

    async def close(self) -> None:
        """Leaves, in bounded time; before the shards are closed. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        await self._leases.leave()
        await self._farewell(self.worker)
        self._post.stop()

    async def _farewell(self, worker: str) -> None:
        await self._post.say(msgspec.json.encode(Farewell(worker=worker)), self._post.ways())

    async def _follow(self) -> None:
        """In a cluster lanes move from shard to shard."""
        while True:
            await asyncio.sleep(self._options.again_s)
            self._post.listen()

    # Asking

    async def ask(self, body: bytes) -> Answers:
        """Asks all others; takes `deadline_s` and `again_s` at most.

        Raises `BrokerUnavailable`; some may have been asked then.
        """
        if len(self._open) >= OPEN:
            raise BrokerUnavailable("too much is being asked at once")
        inquiry, news = Inquiry(secrets.token_hex(8)), asyncio.Event()
        self._open[inquiry.id] = inquiry, news
        try:
            question = Question(id=inquiry.id, worker=self.worker, body=msgspec.Raw(body))
            return await self._conduct(inquiry, news, question)
        finally:
            del self._open[inquiry.id]

    async def _conduct(self, inquiry: Inquiry, news: asyncio.Event, question: Question) -> Answers:
        options, post = self._options, self._post
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            known = group.create_task(self._leases.renew())
            said = group.create_task(post.say(msgspec.json.encode(question), post.ways()[:1]))
        if not known.result():
            raise BrokerUnavailable("no shard can be asked which workers there are")
        if self._leases.full:
            raise BrokerUnavailable(f"there are {WORKERS} workers, or more than can be known")
        inquiry.expect(self._leases.others())
        if said.result():
            await _until(inquiry, news, began + options.again_s)
        if not inquiry.complete:
            awaited = tuple(inquiry.awaited)
            if len(awaited) <= NAMED:
                question = msgspec.structs.replace(question, only=awaited)
            await post.say(msgspec.json.encode(question), post.ways())
            await _until(inquiry, news, began + options.deadline_s)
        return inquiry.outcome()

    def _was_answered(self, payload: bytes, _way: str) -> None:
        """Takes what was published to this worker."""
        answer = self._decoded(_answers, payload, ANSWER_BYTES + QUESTION_BYTES)
        if answer is None:
            return
        found = self._open.get(answer.id)
        if found is None:
            self.dropped["late"] += 1
            return
        inquiry, news = found
        body = None if isinstance(answer.body, msgspec.UnsetType) else bytes(answer.body)
        inquiry.answered(answer.worker, body)
        news.set()

    # Being asked

    def _was_said(self, payload: bytes, way: str) -> None:
        """Takes what was published to all workers."""
        said = self._decoded(_to_all, payload, QUESTION_BYTES)
        if said is None or said.worker == self.worker or self._closed:
            return
        if isinstance(said, Farewell):
            self._leases.left(said.worker)
            for inquiry, news in self._open.values():
                inquiry.left(said.worker)
                news.set()
        elif not said.only or self.worker in said.only:
            self._take(said, way)

    def _take(self, question: Question, way: str) -> None:
        memory = self._memory
        if memory.working >= WORKING and question.id not in memory:
            self._drop("busy")
            return
        known = memory.take(question.id, way)
        if known is None:
            self._tasks.start(self._work(question), "control question")
        elif known:
            self._tasks.start(self._reply(question, known, [way]), "control answer")

    async def _work(self, question: Question) -> None:
        answer = Answer(id=question.id, worker=self.worker)
        try:
            body = await self._answer(bytes(question.body))
            if len(body) > ANSWER_BYTES:
                raise ValueError(f"the answer has {len(body)} bytes")
            answer = msgspec.structs.replace(answer, body=msgspec.Raw(body))
            self.answered += 1
        except ValueError as error:
            self._drop("failed", str(error))
        except Exception:
            self.dropped["failed"] += 1
            log.exception("a question of worker %s failed", question.worker)
        encoded = msgspec.json.encode(answer)
        await self._reply(question, encoded, self._memory.done(question.id, encoded))

    async def _reply(self, question: Question, answer: bytes, ways: Sequence[str]) -> None:
        await self._post.say(answer, ways, to=question.worker)

    def _decoded(self, decoder: msgspec.json.Decoder[T], payload: bytes, most: int) -> T | None:
        if len(payload) > most:
            self._drop("too_large", payload)
            return None
        try:
            return decoder.decode(payload)
        except (ValueError, RecursionError):
            self._drop("malformed", payload)
            return None

    def _drop(self, reason: str, what: bytes | str = "") -> None:
        self.dropped[reason] += 1
        now = time.monotonic()
        if now - self._complained >= COMPLAINT_SECONDS:
            self._complained = now
            log.warning("a control message was dropped, %s: %r", reason, what[:100])


async def _until(inquiry: Inquiry, news: asyncio.Event, when: float) -> None:
    """Waits until everything has come, or `when`, monotonic seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, when - time.monotonic())):
            while not inquiry.complete:
                news.clear()
                await news.wait()


_to_all = msgspec.json.Decoder[ToAll](ToAll)
_answers = msgspec.json.Decoder(Answer)

"""The send window: what one client has not taken yet, bounded in bytes, messages and time.

A client that keeps up has none. The edge makes one when the kernel takes less than it was given,
and drops it when everything has gone out. It holds references to the frames that all subscribers
share, so a thousand slow clients share one copy.

One queue holds everything in the order in which it came: answers, and the messages of all topics.
Messages of a namespace that wants more than to close whoever is too slow wait in it as *letters*,
which can be dropped where they stand; there is an *account* of each such namespace's letters. When
a bound is reached, the namespace's policy says what follows:

    close        the client is closed; so it is also where the others below do not help
    resync       whole topics are given up, those with the most waiting first, until half is left
    drop_oldest  the oldest messages are given up, one by one
    latest       at any time only the newest message of a topic waits, or of each key in it; it
                 takes the place of the one before. The newest is never given up

A bound of a namespace is a matter of its own letters. When a bound of the whole window is reached,
letters of `resync` and `drop_oldest` make room, those of the namespace that brought the last one
first; only when there are none left is the client closed.

What is dropped in a topic with a history is told: the letters of a topic have a *share* that
knows up to which position something is missing, and a `Loss` goes out where the first of the
missing stood. Later letters follow it and earlier ones have left, so it is true where it stands.
With `latest` letters of other keys may stand between those that are missing; there a loss goes out
before the next letter of the topic, up to the last that is missing before that one.

What takes another's place (`latest`) goes out in its turn, however often it changes. But nothing
may overtake a message of its topic that has a smaller offset. So where others of the topic wait
behind that place, a message with an offset goes to the end instead, and the place is given up.

Never dropped: answers, and publications of another `op`, which say where a client stands. What is
said of a topic ends its share (`part`). Letters that come later belong to the next one, so nothing
that came before is replaced by what comes behind, and no loss is told in the wrong epoch.

Bytes that were asked for, the replay of a history, do not count against the bounds: a client that
reads them as fast as it can is not slow. That it does read is a matter of time: see `stuck`.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from clarion_fanout.hub import Form
from clarion_fanout.publication import Loss, Position, Publication

Policy: TypeAlias = Literal["close", "resync", "latest", "drop_oldest"]
"""What becomes of a namespace's messages when a client does not take them."""

Bound: TypeAlias = Literal["bytes", "messages", "seconds"]
"""What a client was closed for."""

BOUNDS: tuple[Bound, ...] = ("bytes", "messages", "seconds")

DRIP_BYTES = 2048
"""A second: a client that takes less, averaged over the window's time, does not read. It is what
`limits.message_s` asks of the other direction: a link of some 20 kbit/s."""

REASON = "you did not take what was sent"
"""Of a `Loss`, for people."""

_LETTER_BYTES = 100
"""What a letter takes beside its frame, about."""

_SWEEP = 64
"""Dropped letters that may stand in the queue before they are taken out of it."""


class Limit(NamedTuple):
    """The bounds of a whole window. ticks: within which `drip` bytes must have gone out."""

    bytes: int
    messages: int
    ticks: int
    drip: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What a namespace wants. bytes, messages, ticks: bounds of its own; 0: the window's."""

    namespace: str
    policy: Policy = "close"
    bytes: int = 0
    messages: int = 0
    ticks: int = 0
    plain: bool = field(init=False)
    """Whether its messages wait like answers, and no account is needed."""

    def __post_init__(self) -> None:
        bounded = self.bytes or self.messages or self.ticks
        object.__setattr__(self, "plain", self.policy == "close" and not bounded)


PLAIN = Rule("")
"""Of topics for which nothing is configured."""


class Account:
    """A namespace's letters in one window."""

    __slots__ = ("bytes", "letters", "messages", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.bytes = 0
        self.messages = 0
        self.letters: deque[Letter] = deque()
        """In order, the oldest first; not of `latest`, which drops none of them."""

    def exceeded(self) -> Bound | None:
        """The bound that is exceeded. A single message is always within it."""
        rule = self.rule
        if rule.bytes and self.bytes > rule.bytes and self.messages > 1:
            return "bytes"
        return "messages" if rule.messages and self.messages > rule.messages else None


class Share:
    """The letters of a topic since something else was said of it."""

    __slots__ = (
        "account",
        "epoch",
        "keyed",
        "last",
        "latest",
        "lost",
        "newest",
        "passed",
        "topic",
        "waiting",
    )

    def __init__(self, account: Account, topic: str) -> None:
        self.account = account
        self.topic = topic
        self.epoch = ""
        self.waiting = 0
        self.lost: Position | None = None
        """Up to here something is missing, and the client does not know."""
        self.latest = account.rule.policy == "latest"
        # What follows is for that policy alone.
        self.newest: Letter | None = None
        """The one that waits without a key."""
        self.keyed: dict[str, Letter] | None = None
        """The one that waits of each key."""
        self.last: Letter | None = None
        """The one of these that stands last."""
        self.passed = 0
        """Up to this offset something is missing before the next letter."""

    def end(self) -> None:
        """No letter comes any more. They and their share must not refer to each other then: the
        garbage collector is not to be needed."""
        self.newest = self.keyed = self.last = None


class Letter:
    """A message that may be dropped. Without `frame` it has been."""

    __slots__ = ("at", "frame", "key", "missing", "offset", "share")

    def __init__(self, share: Share, frame: bytes, offset: int, at: int, key: str = "") -> None:
        self.share = share
        self.frame: bytes | None = frame
        self.offset = offset
        self.at = at
        self.key = key
        self.missing = 0
        """Up to this offset something is missing before it (`latest`)."""


class Asked(NamedTuple):
    """A frame that does not count."""

    frame: bytes


class Window:
    """See the module's text. Times are ticks, as the caller counts them.

    dropped: counts what is dropped, by policy and namespace.
    """

    __slots__ = (
        "_accounts",
        "_dead",
        "_drained",
        "_drained_at",
        "_dropped",
        "_limit",
        "_peak",
        "_queue",
        "_shares",
        "_sweep_at",
        "bytes",
        "given",
        "messages",
        "since",
    )

    def __init__(self, now: int, limit: Limit, dropped: Counter[tuple[str, str]]) -> None:
        self._limit = limit
        self._dropped = dropped
        self._queue: deque[bytes | Letter | Asked] = deque()
        self._accounts: dict[str, Account] = {}
        self._shares: dict[str, Share] = {}  # each topic's present one
        self._dead = 0  # dropped letters in the queue
        self._sweep_at = _SWEEP
        self._drained: int | None = None
        self._drained_at = now
        self.since = now
        """When the client fell behind."""
        self.bytes = 0
        """Waiting bytes that count."""
        self.messages = 0
        """Waiting messages that count, answers included."""
        self._peak = 0.0
        self.given = 0
        """Bytes that were handed on since the client fell behind: the caller's count."""

    def __len__(self) -> int:
        """What stands in the queue, dropped letters included."""
        return len(self._queue)

    @property
    def peak(self) -> float:
        """How full it has been: the larger part of its two bounds, 1 and a little more at most."""
        limit = self._limit
        return max(self._peak, self.bytes / limit.bytes, self.messages / limit.messages)

    # In

    def push(self, frame: bytes, *, counts: bool = True) -> Bound | None:
        """Lets `frame` wait, which is never dropped; returns why the client must be closed."""
        if not counts:
            self._queue.append(Asked(frame))
            return None
        self._queue.append(frame)
        self.bytes += len(frame)
        self.messages += 1
        limit = self._limit
        if self.bytes > limit.bytes or self.messages > limit.messages:
            return self._make_room(None)
        return None

    def deliver(self, rule: Rule, publication: Publication, frame: bytes, now: int) -> Bound | None:
        """Lets a message wait, as `rule` wants it; returns why the client must be closed."""
        if rule.plain:
            return self.push(frame)
        share = self._share(rule, publication.topic)
        if publication.epoch:
            share.epoch = publication.epoch
        account = share.account
        if share.latest:
            self._renew(share, publication, frame, now)
        else:
            letter = Letter(share, frame, publication.offset, now)
            self._append(letter, frame)
            account.letters.append(letter)
        while (bound := account.exceeded()) is not None:
            if not self._drop(account):
                return bound
        return self._make_room(account)

    def part(self, topic: str) -> None:
        """What is pushed next says something of `topic`: what came before it stays before it."""
        share = self._shares.pop(topic, None)
        if share is not None:
            share.end()

    def clear(self) -> int:
        """Gives up everything that waits; returns how many messages that were."""
        self._peak = self.peak
        messages, self.messages, self.bytes, self._dead = self.messages, 0, 0, 0
        self._queue.clear()
        self._accounts.clear()
        for share in self._shares.values():
            share.end()
        self._shares.clear()
        return messages

    # Out

    def take(self, size: int, form: Form) -> list[bytes]:
        """The next frames to send, in order: as many as fit into `size` bytes, at least one.

        A loss that is told on the way comes on top; `form` makes a frame of it.
        """
        self._peak = self.peak  # it grows only in between
        frames: list[bytes] = []
        taken = 0
        queue = self._queue
        while queue:
            entry = queue[0]
            frame = entry if isinstance(entry, bytes) else entry.frame
            if frames and frame is not None and taken + len(frame) > size:
                break
            queue.popleft()
            if isinstance(entry, Letter):
                share = entry.share
                if share.latest:
                    self._pass(share, entry)
                if share.lost is not None:
                    frames.append(form.encode(Loss(share.topic, share.lost, REASON)))
                    share.lost = None
                if frame is None:
                    self._dead -= 1
                    continue
                self._leave(entry, len(frame))
            elif isinstance(entry, bytes):
                self.bytes -= len(entry)
                self.messages -= 1
            assert frame is not None
            frames.append(frame)
            taken += len(frame)
        return frames

    def _leave(self, letter: Letter, size: int) -> None:
        """A letter goes out, the oldest of its account."""
        share = letter.share
        self._count(share.account, -size, -1)
        share.waiting -= 1
        if not share.latest:
            share.account.letters.popleft()
        elif letter is share.newest:
            share.newest = None
        elif share.keyed is not None:
            del share.keyed[letter.key]
        if letter is share.last:
            share.last = None
        if not share.waiting and self._shares.get(share.topic) is share:
            del self._shares[share.topic]

    @staticmethod
    def _pass(share: Share, letter: Letter) -> None:
        """A letter of `latest` leaves the queue, perhaps one that was dropped."""
        if letter.frame is None:
            share.passed = max(share.passed, letter.missing, letter.offset)
        elif missing := max(share.passed, letter.missing):
            share.lost = Position(share.epoch, missing)
            share.passed = 0

    # Time

    def stuck(self, now: int, drained: int) -> bool:
        """Whether the client has taken next to nothing for as long as it may.

        drained: any number that grows with every byte that it takes.
        """
        if self._drained is None:
            self._drained = drained
        elif drained - self._drained >= self._limit.drip:
            self._drained = drained
            self._drained_at = now
        return now - self._drained_at >= self._limit.ticks

    def expire(self, now: int) -> Rule | None:
        """Drops what has waited longer than its namespace allows.

        Returns the rule of one that closes the client instead. The newest message of a topic
        (`latest`) may wait: it is not made better by being dropped.
        """
        for account in self._accounts.values():
            rule = account.rule
            while rule.ticks and account.letters and now - account.letters[0].at >= rule.ticks:
                if not self._drop(account):
                    return rule
        return None

    # Policies

    def _share(self, rule: Rule, topic: str) -> Share:
        share = self._shares.get(topic)
        if share is None:
            account = self._accounts.get(rule.namespace)
            if account is None:
                account = self._accounts[rule.namespace] = Account(rule)
            share = self._shares[topic] = Share(account, topic)
        return share

    def _count(self, account: Account, size: int, messages: int) -> None:
        account.bytes += size
        account.messages += messages
        self.bytes += size
        self.messages += messages

    def _exceeded(self) -> Bound | None:
        if self.bytes > self._limit.bytes and self.messages > 1:
            return "bytes"
        return "messages" if self.messages > self._limit.messages else None

    def _make_room(self, account: Account | None) -> Bound | None:
        """Sees to it that the whole is within its bounds; `account` gives first."""
        bound = self._exceeded()
        if bound is not None:
            others = (other for other in self._accounts.values() if other is not account)
            for giver in (account, *others) if account else others:
                while bound is not None and self._drop(giver):
                    bound = self._exceeded()
        return bound

    def _drop(self, account: Account) -> bool:
        """Drops what goes first in a namespace; False if nothing may."""
        if not account.letters or account.rule.policy == "close":
            return False
        self._peak = self.peak
        if account.rule.policy == "resync":
            self._give_up_topics(account)
        else:
            self._give_up(account.letters.popleft())
        if self._dead > self._sweep_at:
            self._sweep()
        return True

    def _give_up_topics(self, account: Account) -> None:
        """Gives up topics, those with the most waiting first, until half is left or less.

        Not one topic at a time: the next one would be due with the next message.
        """
        weights: Counter[Share] = Counter()
        for letter in account.letters:
            assert letter.frame is not None
            weights[letter.share] += len(letter.frame) + _LETTER_BYTES
        left = weights.total()
        half = left // 2
        given: set[Share] = set()
        for share, weight in weights.most_common():
            if left <= half:
                break
            given.add(share)
            left -= weight
        letters, account.letters = account.letters, deque()
        for letter in letters:
            if letter.share in given:
                self._give_up(letter)
            else:
                account.letters.append(letter)

    def _give_up(self, letter: Letter) -> None:
        """Drops a letter that its account has let go of; it stays in the queue without a frame."""
        share = letter.share
        assert letter.frame is not None
        self._count(share.account, -len(letter.frame), -1)
        share.waiting -= 1
        letter.frame = None
        self._dead += 1
        self._note(share, letter.offset)

    def _append(self, letter: Letter, frame: bytes) -> None:
        """A new letter waits last."""
        self._queue.append(letter)
        letter.share.waiting += 1
        self._count(letter.share.account, len(frame), 1)

    def _renew(self, share: Share, publication: Publication, frame: bytes, now: int) -> None:
        """Lets a message wait for the one with the same key, which is dropped."""
        key, offset = publication.key, publication.offset
        old = share.newest if not key else share.keyed.get(key) if share.keyed else None
        if old is not None:
            assert old.frame is not None
            rule = share.account.rule
            self._dropped[rule.policy, rule.namespace] += 1
            if old is share.last or not offset:
                self._count(share.account, len(frame) - len(old.frame), 0)
                old.missing = max(old.missing, old.offset)
                old.frame = frame
                old.offset = offset
                return
            self._count(share.account, -len(old.frame), -1)
            share.waiting -= 1
            old.frame = None
            self._dead += 1
            if self._dead > self._sweep_at:
                self._sweep()
        letter = share.last = Letter(share, frame, offset, now, key)
        self._append(letter, frame)
        if not key:
            share.newest = letter
        elif share.keyed is None:
            share.keyed = {key: letter}
        else:
            share.keyed[key] = letter

    def _note(self, share: Share, offset: int) -> None:
        """A message is missing; it had a position if `offset` is not 0."""
        if offset:
            share.lost = Position(share.epoch, offset)
        rule = share.account.rule
        self._dropped[rule.policy, rule.namespace] += 1

    def _sweep(self) -> None:
        """Takes dropped letters out of the queue, but those where a loss is to be told."""
        told: set[Share] = set()
        passed: dict[Share, int] = {}  # of `latest`: what the next letter has to tell
        queue: deque[bytes | Letter | Asked] = deque()
        for entry in self._queue:
            if isinstance(entry, Letter) and entry.share.latest:
                before = max(passed.get(entry.share, 0), entry.missing)
                if entry.frame is None:
                    passed[entry.share] = max(before, entry.offset)
                    continue
                entry.missing = before
                passed[entry.share] = 0
            elif isinstance(entry, Letter) and entry.frame is None:
                if entry.share.lost is None or entry.share in told:
                    continue
                told.add(entry.share)
            queue.append(entry)
        self._queue = queue
        self._dead = len(told)
        self._sweep_at = 2 * self._dead + _SWEEP

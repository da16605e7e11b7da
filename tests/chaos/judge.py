"""What must hold of a run: the promise to subscribers, as a plain model of lists.

A subscriber's log is read from its beginning. It has runs, in which offsets count on by one, and
gaps that it was told of. Then

    order      every offset follows the one before; no publication is seen twice, unless something
               was destroyed in between and the subscriber was told
    loss       every acknowledged publication was seen, unless it is older than the subscription,
               or lies in a gap
    candour    a gap is there only where a fault destroyed something, at a time that explains it;
               or where the topic's history is brief
    one past   a position is that of one publication, for publishers and for all subscribers

A publication that was never acknowledged may have been published or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chaos.journal import Entry, Journal, Log, Position, Sent


class Finding(NamedTuple):
    """Something that must not be. kind: `lost`, `twice`, `order`, `told`, `fork` or `odd`."""

    kind: str
    topic: str
    subscriber: str
    text: str
    at: float


class Gap(NamedTuple):
    """A stretch that a subscriber was told may be missing: behind `before`, up to `after`."""

    at: float
    before: Position
    after: Position


def judge(journal: Journal) -> list[Finding]:
    """Everything that is wrong with a run, the earliest first."""
    findings = [Finding("odd", "", "", text, 0.0) for text in journal.oddities]
    by_topic: dict[str, list[Sent]] = {}
    for sent in journal.sent.values():
        by_topic.setdefault(sent.topic, []).append(sent)
    for topic, publications in by_topic.items():
        logs = [log for log in journal.logs if log.topic == topic and log.entries]
        past = _Past(publications, logs)
        findings += past.forks(topic)
        findings += _order_of_acknowledgements(topic, publications)
        for log in logs:
            findings += _Reading(journal, log, past).findings()
    return sorted(findings, key=lambda finding: finding.at)


class _Past:
    """What all together know of a topic's stream."""

    def __init__(self, publications: Iterable[Sent], logs: Iterable[Log]) -> None:
        self.publications = {sent.id: sent for sent in publications}
        self.at: dict[Position, dict[str, float]] = {}
        """The publications that somebody took to be at a position, and when."""
        self.epochs: dict[str, float] = {}
        """When anybody saw each epoch first."""
        for sent in self.publications.values():
            if sent.position is not None and sent.acked is not None:
                self._saw(sent.position, sent.id, sent.acked)
        for log in logs:
            epoch = ""
            for entry in log.entries:
                if entry.kind == "message":
                    self._saw(Position(epoch, entry.position.offset), entry.id, entry.at)
                else:
                    epoch = entry.position.epoch
                    self.epochs[epoch] = min(entry.at, self.epochs.get(epoch, entry.at))

    def _saw(self, position: Position, id: str, at: float) -> None:
        seen = self.at.setdefault(position, {})
        seen[id] = min(at, seen.get(id, at))
        self.epochs[position.epoch] = min(at, self.epochs.get(position.epoch, at))

    def reaches(self, position: Position, other: Position) -> bool:
        """Whether `other` is not behind `position`, as far as that is known."""
        if position.epoch == other.epoch:
            return other.offset <= position.offset
        return self.epochs[other.epoch] < self.epochs[position.epoch]

    def forks(self, topic: str) -> list[Finding]:
        """Positions that are those of several publications."""
        return [
            Finding("fork", topic, "", f"{position} is that of {', '.join(ids)}", max(ids.values()))
            for position, ids in self.at.items()
            if len(ids) > 1
        ]


def _order_of_acknowledgements(topic: str, publications: Iterable[Sent]) -> list[Finding]:
    """What was sent when another was acknowledged already comes behind it."""
    findings: list[Finding] = []
    newest: dict[tuple[str, str], Sent] = {}
    for sent in sorted(publications, key=lambda sent: sent.began):
        if sent.position is None or sent.acked is None:
            continue
        key = sent.publisher, sent.position.epoch
        before = newest.get(key)
        if before is not None and before.position is not None and before.acked is not None:
            overtaken = sent.position.offset <= before.position.offset
            if overtaken and before.acked < sent.began:
                text = f"{sent.id} at {sent.position} was sent after {before.id}, {before.position}"
                findings.append(Finding("order", topic, sent.publisher, text, sent.acked))
        newest[key] = sent
    return findings


class _Reading:
    """One log, read from its beginning."""

    def __init__(self, journal: Journal, log: Log, past: _Past) -> None:
        self._journal = journal
        self._log = log
        self._past = past
        self._found: list[Finding] = []
        self._gaps: list[Gap] = []
        self._unexplained: list[Gap] = []
        self._seen: dict[str, float] = {}
        self._since = 0.0  # when what it has seen last was sent

    def findings(self) -> list[Finding]:
        first, *rest = self._log.entries
        position = first.position
        for id in self._past.at.get(position, ()):
            self._since = self._past.publications[id].began
        if first.kind != "begin":
            self._find("odd", f"it begins with {first.kind}", first.at)
        for entry in rest:
            position = self._read(entry, position)
        self._look_for_losses(first, position)
        return self._found

    def _find(self, kind: str, text: str, at: float) -> None:
        self._found.append(Finding(kind, self._log.topic, self._log.subscriber, text, at))

    def _read(self, entry: Entry, position: Position) -> Position:
        """Where the subscriber stands after an entry."""
        if entry.kind == "message":
            self._read_message(entry, position)
            return Position(position.epoch, entry.position.offset)
        if entry.kind == "gap":
            gap = Gap(entry.at, position, entry.position)
            self._gaps.append(gap)
            if not self._is_explained(gap):
                self._unexplained.append(gap)
            return entry.position
        if entry.kind == "begin":
            self._find("odd", f"it began again at {entry.position}", entry.at)
        if entry.kind == "turn" and entry.position.offset != position.offset:
            self._find("order", f"a turn at {entry.position} came at {position}", entry.at)
        elif entry.kind == "resumed" and entry.position.offset < position.offset:
            self._find("lost", f"resumed at {entry.position} from {position}", entry.at)
        return Position(entry.position.epoch, position.offset)

    def _read_message(self, entry: Entry, position: Position) -> None:
        offset = entry.position.offset
        if offset != position.offset + 1:
            kind = "lost" if offset > position.offset else "order"
            self._find(kind, f"{entry.id}, offset {offset}, came at {position}", entry.at)
        sent = self._past.publications.get(entry.id)
        if sent is None:
            self._find("odd", f"nobody has sent {entry.id!r}", entry.at)
            return
        before = self._seen.get(entry.id)
        if before is not None and not any(gap.at > before for gap in self._gaps):
            self._find("twice", f"{entry.id} came again, at offset {offset}", entry.at)
        self._seen[entry.id] = entry.at
        self._since = sent.began

    def _is_explained(self, gap: Gap) -> bool:
        """Whether something was destroyed after what the subscriber saw last was published."""
        if self._log.topic in self._journal.brief:
            return True
        return any(
            self._log.topic in deed.destroyed and deed.ended >= self._since and deed.began <= gap.at
            for deed in self._journal.deeds
        )

    def _look_for_losses(self, first: Entry, last: Position) -> None:
        for sent in self._past.publications.values():
            if sent.id in self._seen or sent.position is None or sent.acked is None:
                continue
            if sent.acked <= self._log.asked or self._past.reaches(first.position, sent.position):
                continue  # older than the subscription
            if self._log.over and not self._past.reaches(last, sent.position):
                continue  # newer than the subscription
            gaps = [gap for gap in self._gaps if self._lies_in(sent, sent.position, gap)]
            if not gaps:
                self._find("lost", f"{sent.id} at {sent.position} was never seen", sent.acked)
            for gap in gaps:
                if gap in self._unexplained:  # it was told late, and is true
                    self._unexplained.remove(gap)
        for gap in self._unexplained:
            text = f"it was told that it may miss what lies between {gap.before} and {gap.after}"
            self._find("told", f"{text}; nothing was destroyed", gap.at)

    def _lies_in(self, sent: Sent, position: Position, gap: Gap) -> bool:
        if sent.began > gap.at:
            return False
        if position.epoch == gap.before.epoch and position.offset <= gap.before.offset:
            return False
        if position.epoch == gap.after.epoch and position.offset > gap.after.offset:
            # It was there, and behind the gap; unless it was gone by then.
            return sent.acked is not None and sent.acked <= gap.at and self._destroyed(sent, gap)
        return True

    def _destroyed(self, sent: Sent, gap: Gap) -> bool:
        return any(
            sent.topic in deed.destroyed and deed.ended >= sent.began and deed.began <= gap.at
            for deed in self._journal.deeds
        )


def tell(journal: Journal, finding: Finding, start: float, margin: float = 1.0) -> Sequence[str]:
    """What happened around a finding: faults, publications of the topic, and the subscriber's log.

    start: of the run; margin: how many seconds before and after are told.
    """
    lines: list[tuple[float, str]] = []
    least, most = finding.at - margin, finding.at + margin
    for deed in journal.deeds:
        if deed.ended >= least and deed.began <= most:
            mark = "!!" if finding.topic in deed.destroyed else "! "
            lines.append((deed.began, f"{mark} {deed.text} (until {deed.ended - start:.3f})"))
    for sent in journal.sent.values():
        if sent.topic == finding.topic and sent.acked is not None and least <= sent.acked <= most:
            text = f"   {sent.id} -> {_short(sent.position)}, sent at {sent.began - start:.3f}"
            lines.append((sent.acked, f"{text} x{sent.tries}"))
    for log in journal.logs:
        if (log.topic, log.subscriber) == (finding.topic, finding.subscriber):
            lines += [
                (entry.at, f"      < {entry.kind} {_short(entry.position)} {entry.id}")
                for entry in log.entries
                if least <= entry.at <= most
            ]
    return [f"{at - start:8.3f} {text}" for at, text in sorted(lines)]


def _short(position: Position | None) -> str:
    return "-" if position is None else f"{position.epoch[-6:]}:{position.offset}"

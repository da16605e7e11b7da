"""One run: a stage, publishers and subscribers on it, the faults of a seed, and the judgement."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import aiohttp

from chaos.event_stream import EventStream
from chaos.faults import Faults
from chaos.journal import Journal, Position
from chaos.judge import Finding, judge, tell
from chaos.plan import Fault, plan
from chaos.publisher import Publisher
from chaos.stage import KEY, TOPICS, Stage, stage
from chaos.subscriber import Subscriber, Temperament

SETTLE_SECONDS = 30.0
"""How long everybody may take to be level once all faults are healed. It takes about a second, and
the rest is for a machine that is busy with other things."""

TEMPERAMENTS: Sequence[Temperament] = (
    Temperament(),
    Temperament(),
    Temperament(),
    Temperament(leaves_s=1.0),
    Temperament(leaves_s=0.3),
    Temperament(leaves_s=0.3, pauses_s=0.6),
    Temperament(leaves_s=2.0, pauses_s=2.0),
    Temperament(drops_s=0.3),
    Temperament(drops_s=1.0),
    Temperament(leaves_s=0.5, forgets=True),
    Temperament(leaves_s=1.5, drops_s=0.5, forgets=True),
)


STREAMS: Sequence[tuple[Sequence[str], Temperament]] = (
    (TOPICS, Temperament()),
    (TOPICS, Temperament(leaves_s=0.5)),
    (TOPICS[:1], Temperament(leaves_s=0.5)),
    (TOPICS[-1:], Temperament(leaves_s=2.0)),
)
"""Streams of one topic have ids of another kind than those of several."""


class Result(NamedTuple):
    """What came of a run. level_s: how long it took everybody to be level in the end."""

    seed: int
    faults: Sequence[Fault]
    done: Mapping[str, int]
    journal: Journal
    findings: Sequence[Finding]
    began: float
    level_s: float
    logs: str

    @property
    def acknowledged(self) -> int:
        return sum(sent.acked is not None for sent in self.journal.sent.values())

    @property
    def deliveries(self) -> int:
        return sum(e.kind == "message" for log in self.journal.logs for e in log.entries)

    @property
    def gaps(self) -> int:
        return sum(e.kind == "gap" for log in self.journal.logs for e in log.entries)

    def summary(self) -> str:
        resumes = sum(e.kind == "resumed" for log in self.journal.logs for e in log.entries)
        turns = sum(e.kind == "turn" for log in self.journal.logs for e in log.entries)
        return (
            f"seed {self.seed}: {sum(self.done.values())} faults, {self.acknowledged} publications,"
            f" {self.deliveries} deliveries, {resumes} resumes, {turns} turns, {self.gaps} gaps"
            f" that were told, level after {self.level_s:.1f} s: {len(self.findings)} findings"
        )

    def story(self, most: int = 5) -> str:
        """What one needs to understand a failure."""
        lines = [self.summary(), "", "The schedule:", *map(str, self.faults)]
        for finding in self.findings[:most]:
            who = f"{finding.subscriber} in {finding.topic}"
            at = finding.at - self.began if finding.at else 0.0
            lines += ["", f"{finding.kind.upper()} at {at:.3f}: {who}: {finding.text}"]
            if finding.at:
                lines += tell(self.journal, finding, self.began)
        return "\n".join(lines)


async def run(
    seed: int,
    *,
    kinds: Mapping[str, int],
    seconds: float,
    shards: int = 1,
    workers: Sequence[int] = (2, 1),
    check_s: float = 1.0,
    moving: bool = False,
) -> Result:
    """Runs one seed. It decides the schedule and the temperaments, not who comes first where.

    shards: how many; 0: a cluster. moving: whether one more is added meanwhile.
    """
    journal = Journal(brief=frozenset(topic for topic in TOPICS if topic.startswith("brief:")))
    faults = plan(seed, seconds, kinds)
    async with (
        stage(shards=shards, workers=workers, check_s=check_s, moving=moving) as on,
        _session() as session,
    ):
        subscribers: list[Subscriber | EventStream] = [
            Subscriber(
                f"{number}",
                TOPICS,
                temperament,
                ports=lambda: on.ports,
                journal=journal,
                chance=random.Random(f"{seed} subscriber {number}"),
            )
            for number, temperament in enumerate(TEMPERAMENTS)
        ]
        subscribers += [
            EventStream(
                f"sse{number}",
                topics,
                temperament,
                ports=lambda: on.ports,
                journal=journal,
                chance=random.Random(f"{seed} stream {number}"),
            )
            for number, (topics, temperament) in enumerate(STREAMS)
        ]
        publishers = [
            Publisher(
                f"p{number}",
                topics,
                batch=batch,
                pause_s=pause_s,
                key=KEY,
                ports=lambda: on.api_ports,
                journal=journal,
                chance=random.Random(f"{seed} publisher {number}"),
            )
            for number, (topics, batch, pause_s) in enumerate(
                [*(((topic,), 1, 0.03) for topic in TOPICS), (TOPICS, 8, 0.05), (TOPICS, 8, 0.05)]
            )
        ]
        began = time.monotonic()
        doing = Faults(on, journal)
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(each.run(session)) for each in subscribers]
            work = [group.create_task(each.run(session)) for each in publishers]
            rolling = [group.create_task(_add_a_shard(doing, seconds))] if moving else []
            await _do(faults, doing, began)
            if rolling:
                await asyncio.wait(rolling)
            await doing.heal()
            healed = time.monotonic()
            for subscriber in subscribers:
                subscriber.calm_down()
            for publisher in publishers:
                publisher.end()
            await asyncio.wait(work, timeout=SETTLE_SECONDS)
            deadline = healed + SETTLE_SECONDS
            behind = await _until_level(on, journal, subscribers, deadline)
            level_s = time.monotonic() - healed
            for task in [*lives, *work]:
                task.cancel()
        logs = "".join(
            f"--- {file.name}\n{file.read_text(errors='replace')}"
            for file in sorted(on.folder.glob("*.log"))
        )
    findings = [*judge(journal), *behind]
    return Result(seed, faults, doing.done, journal, findings, began, level_s, logs)


def _session() -> aiohttp.ClientSession:
    # A connection of its own for each request, so that any worker may get it.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


async def _do(faults: Sequence[Fault], doing: Faults, began: float) -> None:
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
            group.create_task(doing.do(fault))


async def _add_a_shard(doing: Faults, seconds: float) -> None:
    await asyncio.sleep(seconds / 5)
    await doing.roll(moving=False)
    await asyncio.sleep(seconds / 5)
    await doing.roll(moving=True)


async def _until_level(
    on: Stage, journal: Journal, subscribers: Sequence[Subscriber | EventStream], deadline: float
) -> list[Finding]:
    """Waits until everybody stands where the streams end, and was told what it has missed;
    otherwise says who does not."""
    while True:
        ends: dict[str, Position | None] = {}
        with suppress(OSError, TimeoutError):
            ends = {topic: await on.position(topic) for topic in TOPICS}
        behind = [
            Finding("level", topic, subscriber.name, f"stands at {stands} of {ends[topic]}", 0.0)
            for subscriber in subscribers
            for topic, stands in subscriber.standing.items()
            if ends and stands != ends[topic]
        ]
        level = bool(ends) and not behind
        if level and not any(finding.kind == "lost" for finding in judge(journal)):
            return []
        if time.monotonic() > deadline:
            return behind
        await asyncio.sleep(0.1)

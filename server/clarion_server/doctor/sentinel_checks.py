"""Checks of the Sentinels that a shard's URL names."""

from __future__ import annotations

from clarion_server.doctor.finding import Finding, bad, ok, warn
from clarion_server.doctor.redis_node import number
from clarion_server.doctor.redis_shards import Shard

FEWEST = 3
"""Two cannot tell the one that is cut off from the one that is right."""

LONGEST_DOWN_MS = 10_000
"""Meanwhile nobody can publish to the shard. Redis' own default is 30 s."""


def sentinels(shard: Shard) -> list[Finding]:
    """What to say of them; nothing for a shard without."""
    if not shard.sentinels:
        return []
    good = [sentinel for sentinel in shard.sentinels if not sentinel.error]
    findings = [_answers(shard)]
    if good:
        facts = good[0].service
        findings += [_agreement(shard, facts), _patience(shard, facts)]
    return findings


def _answers(shard: Shard) -> Finding:
    name = "Sentinels"
    silent = [each for each in shard.sentinels if each.error]
    found = f"{len(shard.sentinels) - len(silent)} of {len(shard.sentinels)} answer"
    if not silent:
        return ok(name, found)
    found += f"; {silent[0].address} {silent[0].error}"
    state = bad if len(silent) == len(shard.sentinels) else warn
    return state(
        name,
        found,
        "all of them",
        "Workers find the primary through them; a failover needs most of them.",
        "start it, or name those that there are in the URL",
    )


def _agreement(shard: Shard, facts: dict[str, str]) -> Finding:
    name = "quorum"
    known, quorum = number(facts, "num-other-sentinels") + 1, number(facts, "quorum")
    down = [flag for flag in facts.get("flags", "").split(",") if flag.endswith("_down")]
    found = f"{quorum} of {known}" + (f", primary {down[0]}" if down else "")
    if quorum > known:
        return bad(
            name,
            found,
            f"{known // 2 + 1}",
            "There will never be a failover.",
            f"SENTINEL SET {shard.service} quorum {known // 2 + 1} at each of them",
        )
    if down:
        return bad(
            name,
            found,
            "a primary that is up",
            "The Sentinels do not reach it.",
            f"SENTINEL MASTER {shard.service} says more; a failover may be under way",
        )
    if known < FEWEST:
        return warn(
            name,
            found,
            f"{FEWEST} Sentinels",
            "When the machine of one dies there is nobody to agree with, and no failover.",
            "start more, each on a machine of its own",
        )
    return ok(name, found)


def _patience(shard: Shard, facts: dict[str, str]) -> Finding:
    name = "down-after-milliseconds"
    waits = number(facts, "down-after-milliseconds")
    found = f"{waits:,}"
    if waits <= LONGEST_DOWN_MS:
        return ok(name, found, f"{LONGEST_DOWN_MS:,}")
    return warn(
        name,
        found,
        "5,000",
        "So long after its death nobody can publish to this shard.",
        f"SENTINEL SET {shard.service} down-after-milliseconds 5000 at each of them",
    )

"""Checks of one Redis server, over what it said. None: does not concern this one."""

from __future__ import annotations

import re
from statistics import median

from clarion_fanout.redis_shard import OLDEST
from clarion_server.doctor.finding import Finding, Plan, bad, ok, size, unknown, warn
from clarion_server.doctor.redis_node import Node, number
from clarion_server.doctor.redis_rights import rules

SUBSCRIBER_BYTES = 32 << 20
"""Redis' own bound for a subscriber: half a second of 256-byte messages as fast as it can, and
what a page of answers among workers is cut for."""

CONNECTIONS_EACH = 4
"""Of a worker to a shard: commands, intake, the inbox's bell, and one that replaces another."""

SLOW_PING = 0.002
"""A round trip within one data centre is below 1 ms; each publication takes one."""

SKEW_SECONDS = 1.0

RENEWAL_DAYS = 14
"""Certificates that renew themselves do so a month before their end: two weeks later it failed."""

IDLE_SECONDS = 30
"""A connection of ours is never quiet for longer than `shards.probe_s`, 1 s unless configured."""

_NOT_TOLD = "CONFIG GET is refused, or empty: look at the provider's console"


def reachable(node: Node, plan: Plan) -> Finding:
    name = "reachable"
    if not node.error:
        return ok(name, f"as {node.login}" if node.login else "yes")
    return bad(
        name,
        node.error,
        f"an answer within {plan.timeout_s:g} s",
        "Topics of this shard cannot be published to, and their subscribers hear nothing.",
        "redis-cli -u URL ping from this machine; then its bind, its firewall, the URL's login",
    )


def version(node: Node, plan: Plan) -> Finding:
    name = "version"
    told = node.info.get("redis_version", "")
    found = f"Valkey {node.info['valkey_version']}" if "valkey_version" in node.info else told
    numbers = re.match(r"(\d+)\.(\d+)", told)
    if numbers is None:
        return unknown(name, "INFO says no version")
    if (int(numbers[1]), int(numbers[2])) >= OLDEST:
        return ok(name, found, "7.0, or Valkey")
    return bad(
        name,
        found,
        "7.0 or newer, or Valkey",
        "Sharded pub/sub and parts of the scripts came with 7.0: workers refuse what is older.",
        "install redis 7 or valkey; data files can be taken along",
    )


def kind(node: Node, plan: Plan) -> Finding:
    """A primary, of the kind that the URL says."""
    name = "role"
    role = node.info.get("role", "?")
    if node.info.get("loading", "0") == "1":
        return bad(
            name,
            f"{role}, loading its data",
            "a primary that serves",
            "Until it is done it refuses everything.",
            "wait; INFO persistence says how far it is",
        )
    if role != "master":
        return bad(
            name,
            f"{role} of {node.info.get('master_host', '?')}:{node.info.get('master_port', '?')}",
            "a primary",
            "Nothing can be published at a replica: workers refuse it.",
            "name the primary, or its Sentinels: redis+sentinel://HOST:26379/SERVICE/0",
        )
    clustered = node.info.get("cluster_enabled", "0") == "1"
    if clustered and node.pool != "cluster":
        return bad(
            name,
            "a node of a cluster",
            "redis+cluster://...",
            "It refuses the topics that are in other nodes' slots.",
            "the scheme redis+cluster:// (rediss+cluster:// with TLS), without a database",
        )
    return ok(name, "primary of a cluster" if clustered else "primary")


def scripts(node: Node, plan: Plan) -> Finding:
    name = "scripts"
    if not node.scripts:
        return ok(name, "run")
    return bad(
        name,
        node.scripts,
        "EVAL and EVALSHA",
        "History and publishing happen in one script, or not at all.",
        "a user that may: ACL SETUSER NAME +eval +evalsha '+script|load'; no proxy that forbids it",
    )


def path(node: Node, plan: Plan) -> Finding | None:
    name = "publish and receive"
    if node.path is None:
        return None
    if not node.path:
        return ok(name, "what was published arrived")
    return bad(
        name,
        node.path,
        "what is published arrives",
        "Without pub/sub nothing reaches anybody.",
        "a user that may (see permissions); Redis itself instead of a proxy that has no pub/sub",
    )


def rights(node: Node, plan: Plan) -> Finding | None:
    name = "permissions"
    if node.scripts:
        return None
    if not node.refused:
        return ok(name, f"all that is needed, prefix {plan.prefix}")
    shown = ", ".join(node.refused[:3])
    more = len(node.refused) - 3
    return bad(
        name,
        f"refused: {shown}" + (f" and {more} more" if more > 0 else ""),
        "every command of a worker",
        "What is refused fails when it is first needed, which may be the worst moment.",
        f"ACL SETUSER {node.login or 'default'} {rules(plan.prefix, node.pool)}",
    )


def subscribers(node: Node, plan: Plan) -> Finding:
    """What Redis keeps for a worker that does not read for a moment."""
    name = "client-output-buffer-limit"
    if node.settings is None:
        return unknown(name, _NOT_TOLD)
    words = re.search(
        r"pubsub (\d+) (\d+) (\d+)", node.settings.get("client-output-buffer-limit", "")
    )
    if words is None:
        return unknown(name, "it has no bound for subscribers")
    hard, soft, seconds = (int(word) for word in words.groups())
    found = f"pubsub {size(hard)} at once, {size(soft)} for {seconds} s"
    if not hard:
        return warn(
            name,
            "pubsub without a bound",
            size(SUBSCRIBER_BYTES),
            "A worker that hangs takes Redis' memory, until nobody has any.",
            f"CONFIG SET client-output-buffer-limit 'pubsub {SUBSCRIBER_BYTES} 8388608 60'",
        )
    if hard >= SUBSCRIBER_BYTES and (not soft or soft >= SUBSCRIBER_BYTES // 4):
        return ok(name, found, f"{size(SUBSCRIBER_BYTES)} or more")
    return warn(
        name,
        found,
        f"{size(SUBSCRIBER_BYTES)}, {size(SUBSCRIBER_BYTES // 4)} for 60 s",
        "A worker that is busy for a moment is thrown off, and must read what it missed: topics"
        " with history are repaired, the others lose messages.",
        f"CONFIG SET client-output-buffer-limit 'pubsub {SUBSCRIBER_BYTES} 8388608 60'",
    )


def memory(node: Node, plan: Plan) -> Finding:
    name = "maxmemory"
    most = number(node.info, "maxmemory")
    used = number(node.info, "used_memory")
    policy = node.info.get("maxmemory_policy", "noeviction")
    found = f"{size(used)} of {size(most) if most else 'all there is'}, {policy}"
    if policy != "noeviction":
        return bad(
            name,
            found,
            "noeviction",
            "When memory runs out Redis takes what is ours: histories, which clients are told,"
            " but also keys that make a publication happen once, and with allkeys-* what backends"
            " have left in the inbox, which nobody is told.",
            "CONFIG SET maxmemory-policy noeviction; CONFIG REWRITE",
        )
    if not most:
        return warn(
            name,
            found,
            "a bound below the machine's memory",
            "Without one the kernel decides who is killed. With one, publishers are refused (503),"
            " and everything else goes on.",
            "CONFIG SET maxmemory 4gb (half of the machine's, if it writes its data to disk)",
        )
    if used > 0.8 * most:
        return warn(
            name,
            found,
            "a fifth free",
            "When it is full, publications with history are refused.",
            "CONFIG SET maxmemory to more, a smaller history_size or history_s, or a further shard",
        )
    return ok(name, found, "noeviction")


def clients(node: Node, plan: Plan) -> Finding:
    name = "maxclients"
    now, most = number(node.info, "connected_clients"), number(node.info, "maxclients")
    most = most or number(node.settings or {}, "maxclients")
    if not most:
        return unknown(name, _NOT_TOLD)
    wanted = now + CONNECTIONS_EACH * plan.workers
    found = f"{now:,} of {most:,}"
    if most >= wanted * 1.25:
        return ok(name, found, f"{wanted:,}")
    state = bad if most < wanted else warn
    return state(
        name,
        found,
        f"{int(wanted * 1.25):,}",
        f"{CONNECTIONS_EACH} connections of each worker; the next one is refused.",
        f"CONFIG SET maxclients {int(wanted * 1.25)}, and its LimitNOFILE",
    )


def timeout(node: Node, plan: Plan) -> Finding:
    name = "timeout"
    if node.settings is None:
        return unknown(name, _NOT_TOLD)
    seconds = number(node.settings, "timeout")
    if not seconds or seconds >= IDLE_SECONDS:
        return ok(name, f"{seconds} s" if seconds else "none")
    return warn(
        name,
        f"{seconds} s",
        f"0, or {IDLE_SECONDS} and more",
        "Connections of ours that are quiet for so long are closed, again and again.",
        "CONFIG SET timeout 0",
    )


def persistence(node: Node, plan: Plan) -> Finding:
    """What a restart loses, and whether writing works."""
    name = "persistence"
    info, settings = node.info, node.settings or {}
    append = info.get("aof_enabled", "0") == "1"
    failed = info.get("aof_last_write_status" if append else "rdb_last_bgsave_status", "ok")
    if failed != "ok":
        return bad(
            name,
            "the last write to disk failed",
            "ok",
            "Redis refuses publications while it cannot write (MISCONF), or loses them with the"
            " next restart.",
            "look at its log, and at the disk: df -h",
        )
    if append:
        return ok(name, f"appendonly, fsync {settings.get('appendfsync', '?')}")
    saves = settings.get("save")
    if saves is None:
        return unknown(name, "not appendonly; whether it saves, CONFIG GET does not say")
    found = f"snapshots ({saves})" if saves else "none"
    return warn(
        name,
        found,
        "appendonly yes",
        (
            "A restart loses what came since the last snapshot"
            if saves
            else "A restart loses all histories, and what waits in the inbox"
        )
        + ". Clients are told; backends whose entries were waiting are not.",
        "CONFIG SET appendonly yes; CONFIG SET appendfsync everysec; CONFIG REWRITE",
    )


def latency(node: Node, plan: Plan) -> Finding:
    name = "round trip"
    typical, worst = median(node.pings_s), max(node.pings_s)
    found = f"{typical * 1000:.2f} ms, the slowest of {len(node.pings_s)} {worst * 1000:.2f} ms"
    if typical > plan.timeout_s / 4:
        state = bad
    elif typical > SLOW_PING:
        state = warn
    else:
        return ok(name, found, f"{SLOW_PING * 1000:g} ms")
    return state(
        name,
        found,
        f"{SLOW_PING * 1000:g} ms",
        "Each publication takes one, and each first subscription of a topic. Answers later than"
        f" {plan.timeout_s:g} s end the connection.",
        "Redis nearer by; else look at it: redis-cli --latency, SLOWLOG GET, LATENCY DOCTOR",
    )


def replicas(node: Node, plan: Plan) -> Finding | None:
    """Who takes over, and what a primary does that is cut off from them."""
    name = "replicas"
    if node.pool == "server":
        return None
    count = number(node.info, "connected_slaves")
    if not count:
        return warn(
            name,
            "none",
            "1 or more",
            "When this one dies nobody takes its place, and its topics are gone until it is back.",
            f"REPLICAOF {node.address.replace(':', ' ')} at another server",
        )
    found = f"{count}"
    if node.settings is None:
        return ok(name, found)
    least = number(node.settings, "min-replicas-to-write")
    found += f", min-replicas-to-write {least}"
    if 0 < least <= count:
        return ok(name, found)
    if least > count:
        return bad(
            name,
            found,
            f"{least}",
            "Nothing with history can be published until another replica is there.",
            f"start it, or CONFIG SET min-replicas-to-write {count}",
        )
    return warn(
        name,
        found,
        "min-replicas-to-write 1",
        "A primary that is cut off goes on taking publications, which are wiped when it is back."
        " Clients are told, publishers have had a receipt. (With a single replica the price is that"
        " publishing stops when that one is away.)",
        "CONFIG SET min-replicas-to-write 1; CONFIG SET min-replicas-max-lag 10; CONFIG REWRITE",
    )


def encryption(node: Node, plan: Plan) -> Finding:
    name = "encryption, login"
    found = f"{'TLS' if node.encrypted else 'plain'}, {node.login or 'no password'}"
    if node.near or (node.encrypted and node.login):
        return ok(name, f"{found}{', on this machine' if node.near else ''}")
    return warn(
        name,
        found,
        "TLS and a password, or a network that nobody else is in",
        "Whoever can publish there can send anything to everybody, and disconnect them.",
        "rediss://USER:PASSWORD@..., a user by ACL SETUSER, tls-port at the server",
    )


def certificate(node: Node, plan: Plan) -> Finding | None:
    name = "certificate"
    if node.certificate_s is None:
        return None
    days = node.certificate_s / 86_400
    found = f"valid for {days:.0f} days"
    if days >= RENEWAL_DAYS:
        return ok(name, found)
    return warn(
        name,
        found,
        f"{RENEWAL_DAYS} days or more",
        "When it has ended no worker connects any more, all at the same moment.",
        "renew it; Redis takes the new one by CONFIG SET tls-cert-file FILE, without a restart",
    )


def clock(node: Node, plan: Plan) -> Finding:
    name = "clock"
    if node.ahead_s is None:
        return unknown(name, "TIME is refused")
    found = f"{node.ahead_s:+.3f} s"
    if abs(node.ahead_s) < SKEW_SECONDS:
        return ok(name, found, f"within {SKEW_SECONDS:g} s")
    return warn(
        name,
        found,
        f"within {SKEW_SECONDS:g} s",
        "One of the two machines has the wrong time. Leases go by Redis' clock and are not harmed,"
        " but `ts` and the age of a history go by ours.",
        "chrony or systemd-timesyncd on both",
    )


def cluster(node: Node, plan: Plan) -> Finding | None:
    name = "cluster"
    if node.pool != "cluster":
        return None
    facts = node.cluster
    if facts is None:
        return bad(
            name,
            "CLUSTER INFO is refused, or this is none",
            "a cluster",
            "Where slots are cannot be found out.",
            "redis:// for a server alone; else a user with +cluster|info +cluster|slots",
        )
    assigned, well = number(facts, "cluster_slots_ok"), facts.get("cluster_state") == "ok"
    found = f"{facts.get('cluster_state', '?')}, {assigned:,} of 16,384 slots, "
    found += f"{facts.get('cluster_size', '?')} primaries"
    if not well or assigned < 16384:
        return bad(
            name,
            found,
            "ok, 16,384 slots",
            "Topics in slots that nobody has are refused; in a cluster that is down, all are.",
            f"redis-cli --cluster check {node.address}; redis-cli --cluster fix {node.address}",
        )
    if (node.settings or {}).get("cluster-require-full-coverage") == "yes":
        return warn(
            name,
            f"{found}, all or nothing",
            "cluster-require-full-coverage no",
            "When one primary and its replicas are away, the others refuse their topics too.",
            "CONFIG SET cluster-require-full-coverage no at every node; CONFIG REWRITE",
        )
    return ok(name, found)


CHECKS = (
    version,
    kind,
    scripts,
    path,
    rights,
    encryption,
    certificate,
    latency,
    subscribers,
    memory,
    clients,
    timeout,
    persistence,
    replicas,
    cluster,
    clock,
)
"""What is looked at when a server can be asked; before them comes `reachable`."""

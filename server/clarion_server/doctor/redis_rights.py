"""What a worker does in Redis, so that a user's rights can be checked before it is refused.

Commands of scripts are checked by Redis like those that are sent. `tests/test_doctor_redis.py` runs
a server as a user with these rights and no others.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_wire import Argument

Words: TypeAlias = tuple[Argument, ...]
"""A command with keys and channels as they may be; it is asked about, never sent."""

Pool: TypeAlias = Literal["server", "sentinel", "cluster"]
"""What a shard's URL is one of."""

_TOPIC = "doctor:1"

CHECK = b"""
local refused = {}
for place, words in ipairs(ARGV) do
  local known, allowed = pcall(redis.acl_check_cmd, unpack(cjson.decode(words)))
  if not (known and allowed) then
    refused[#refused + 1] = place - 1
  end
end
return refused
"""
"""The places of those commands (each a JSON array of words) that this user may not send."""


def commands(prefix: str, pool: Pool) -> list[Words]:
    """An example of every command, with each kind of key and channel."""
    keys = Keys(prefix)
    stream, meta = keys.stream(_TOPIC), keys.meta(_TOPIC)
    members = keys.presence(_TOPIC) + b":m"
    publish, subscribe, unsubscribe = "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"
    if pool == "cluster":
        publish, subscribe, unsubscribe = "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"
    channels = (
        keys.channel(_TOPIC),
        keys.probe("doctor"),
        keys.questions(),
        keys.answers("doctor"),
    )
    asked: list[Words] = [
        ("PING",),
        ("INFO",),
        ("TIME",),
        ("SELECT", 0),
        ("CLIENT", "SETNAME", "clarion"),
        ("SCRIPT", "LOAD", "return 1"),
        *((publish, channel, "x") for channel in channels),
        *((subscribe, channel) for channel in channels),
        (unsubscribe, channels[0]),
        *(("EVALSHA", "0" * 40, 1, key) for key in (meta, members, keys.inbox, keys.roll())),
        *(("SET", key, "x") for key in (keys.key(_TOPIC, "x"), keys.owner)),
        ("GET", keys.owner),
        ("DEL", keys.owner),
        ("EXISTS", meta),
        ("PTTL", meta),
        ("PEXPIRE", meta, 1),
        ("PEXPIRE", keys.entry(_TOPIC, b"x"), 1),
        ("PEXPIREAT", meta, 1),
        ("HSET", meta, "x", "x"),
        ("HGET", meta, "x"),
        ("HMGET", meta, "x"),
        ("HDEL", meta, "x"),
        ("HVALS", meta),
        ("HINCRBY", meta, "x", 1),
        *(("XADD", key, "*", "x", "x") for key in (stream, keys.dead)),
        ("XLEN", keys.inbox),
        ("XDEL", keys.inbox, "1-1"),
        ("XRANGE", stream, "-", "+"),
        ("XREVRANGE", stream, "+", "-"),
        ("XTRIM", stream, "MAXLEN", 1),
        ("XREAD", "COUNT", 1, "STREAMS", keys.inbox, "$"),
        ("XGROUP", "CREATE", keys.inbox, "clarion", "0"),
        ("XREADGROUP", "GROUP", "clarion", "x", "STREAMS", keys.inbox, ">"),
        ("XAUTOCLAIM", keys.inbox, "clarion", "x", 0, "0-0"),
        ("XACK", keys.inbox, "clarion", "1-1"),
        *(("ZADD", key, 1, "x") for key in (members, keys.roll())),
        ("ZREM", members, "x"),
        ("ZCARD", members),
        ("ZCOUNT", members, 0, 1),
        ("ZSCORE", members, "x"),
        ("ZRANGE", members, 0, 1),
        ("ZRANGEBYSCORE", members, 0, 1),
        ("ZRANGEBYLEX", members, "-", "+"),
        ("ZLEXCOUNT", members, "-", "+"),
        ("ZREMRANGEBYSCORE", members, 0, 1),
    ]
    if pool == "cluster":
        asked += [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("ASKING",)]
    return asked


def rules(prefix: str, pool: Pool) -> str:
    """The same as the rules of a user, for `ACL SETUSER`."""
    names: dict[str, None] = {}
    for first, *rest in commands(prefix, pool):
        name = str(first).lower()
        if name in ("client", "script", "xgroup", "cluster"):
            name += f"|{str(rest[0]).lower()}"
        names[f"'+{name}'" if "|" in name else f"+{name}"] = None
    return " ".join([f"'~{prefix}:*'", f"'&{prefix}:*'", "+eval", *names])

"""Which broker a worker has, as the configuration says, and what the worker asks of either kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from clarion_fanout import redis_address
from clarion_fanout.broker import HistoryOptions
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_moving import MovingShards
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.redis_shards import Shards, shards_of
from clarion_fanout.topics import DEFAULT_NAMESPACE, namespace_of
from clarion_server.options import Config, Namespace

AnyBroker: TypeAlias = MemoryBroker | RedisBroker


def make(config: Config, worker: str) -> AnyBroker:
    """The broker that `config` asks for. worker: names this process among all that share Redis."""
    history = _history(config)
    if not config.redis:
        return MemoryBroker(
            history=history,
            now=_now,
            memory_bytes=config.history.memory_bytes,
            key_seconds=config.history.idempotency_s,
            key_count=config.history.idempotency_keys,
        )
    keys = Keys(config.prefix)
    options = ShardOptions(
        timeout_s=config.shards.timeout_s,
        probe_s=config.shards.probe_s,
        linger_s=config.shards.linger_s,
        client=f"clarion-{worker}",
    )
    shards = _shards(config, keys=keys, worker=worker, options=options)
    return RedisBroker(
        shards,
        keys=keys,
        history=history,
        now=_now,
        key_seconds=config.history.idempotency_s,
        data_bytes=config.limits.data_bytes,
        timeout_s=config.shards.timeout_s,
        check_seconds=config.shards.check_s,
    )


def _shards(config: Config, *, keys: Keys, worker: str, options: ShardOptions) -> Shards:
    current = [redis_address.parse(url) for url in config.redis]
    if not (config.next_shards or config.previous_shards):
        return shards_of(current, keys=keys, worker=worker, options=options)
    other = [redis_address.parse(url) for url in (config.next_shards or config.previous_shards)]
    new_leads = bool(config.previous_shards)
    old, new = (other, current) if new_leads else (current, other)
    return MovingShards(
        old,
        new,
        new_leads=new_leads,
        keys=keys,
        worker=worker,
        options=options,
        history=_history(config),
    )


def shards(broker: AnyBroker) -> Sequence[Shard]:
    """Those that there are now; none with the embedded broker."""
    return broker.shards.all() if isinstance(broker, RedisBroker) else ()


def not_ready(broker: AnyBroker, config: Config) -> list[str]:
    """Why the broker cannot be relied on; empty when it can."""
    if not isinstance(broker, RedisBroker):
        return []
    shards = broker.shards.all()
    reasons = [f"shard {shard.name}: {shard.trouble}" for shard in shards if shard.trouble]
    if config.shards.ready == "any" and len(reasons) < len(shards):
        return []
    return reasons or ([] if shards else ["no shard is known yet"])


def held_bytes(broker: AnyBroker) -> int:
    """What the broker keeps in this process, about."""
    return broker.bytes if isinstance(broker, MemoryBroker) else 0


def sweep(broker: AnyBroker) -> None:
    """Removes what has expired; called every second."""
    if isinstance(broker, MemoryBroker):
        broker.sweep()


def _history(config: Config) -> Callable[[str], HistoryOptions | None]:
    """Asked for each publication, and so made once for each namespace."""
    kept = {name: _kept(namespace) for name, namespace in config.namespaces.items()}
    otherwise = kept.get(DEFAULT_NAMESPACE)

    def history(topic: str) -> HistoryOptions | None:
        return kept.get(namespace_of(topic), otherwise)

    return history


def _kept(namespace: Namespace) -> HistoryOptions | None:
    if not namespace.history_size:
        return None
    return HistoryOptions(namespace.history_size, namespace.history_s)


def _now() -> int:
    return int(time.time() * 1000)

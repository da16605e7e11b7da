"""Who publishes what backends leave in Redis, as the configuration says."""

from __future__ import annotations

from functools import partial

from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_inbox import InboxOptions
from clarion_fanout.redis_inboxes import Inboxes
from clarion_fanout.redis_keys import Keys
from clarion_server.brokers import AnyBroker
from clarion_server.options import Config
from clarion_server.pipeline.bench import Bench
from clarion_server.pipeline.preparation import Preparation


def make(
    config: Config, *, worker: str, broker: AnyBroker, preparation: Preparation | None
) -> Inboxes | None:
    """None where nobody is to: with the embedded broker, too.

    worker: names this process among all that share Redis.
    preparation: runs the steps of namespaces, where there are any.
    """
    if not isinstance(broker, RedisBroker) or not config.inbox.enabled:
        return None
    data_bytes = config.limits.data_bytes
    if preparation is not None:
        data_bytes = max(data_bytes, config.pipeline.input_bytes)
    return Inboxes(
        broker,
        keys=Keys(config.prefix),
        worker=worker,
        options=InboxOptions(
            batch=config.inbox.batch,
            lease_s=config.inbox.lease_s,
            data_bytes=data_bytes,
            key_seconds=config.history.idempotency_s,
            timeout_s=config.shards.timeout_s,
            client=f"clarion-{worker}",
        ),
        prepare=None if preparation is None else partial(Bench, preparation),
    )

"""How a worker reaches the others, as the configuration says, and which process it is to them."""

from __future__ import annotations

import os
import socket
import time

import msgspec

from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_control import Control
from clarion_fanout.redis_keys import Keys
from clarion_fanout.roll import Entry
from clarion_fanout.tasks import Tasks
from clarion_server import __version__
from clarion_server.brokers import AnyBroker
from clarion_server.duty import Duty
from clarion_server.fleet import read_badge
from clarion_server.options import Config
from clarion_server.orders import Badge

_HOST_CHARACTERS = 64
"""Of the machine's name: what Linux allows."""


def badge(worker: str, instance: str, number: int) -> Badge:
    """This process'. worker: its name among all that share Redis."""
    return Badge(
        id=worker,
        instance=instance,
        worker=number,
        pid=os.getpid(),
        host=socket.gethostname()[:_HOST_CHARACTERS],
        version=__version__,
        started_ms=int(time.time() * 1000),
    )


def make(config: Config, *, duty: Duty, broker: AnyBroker, tasks: Tasks) -> Control | None:
    """None where there are no others: with the embedded broker."""
    if not isinstance(broker, RedisBroker):
        return None
    own = duty.badge
    return Control(
        broker.shards,
        keys=Keys(config.prefix),
        worker=own.id,
        about=msgspec.json.encode(own),
        answer=duty.answer,
        tasks=tasks,
        replaces=lambda entry: replaces(own, entry),
    )


def replaces(own: Badge, entry: Entry) -> bool:
    """Whether a worker on the roll must have ended, since this one has its place: a server starts
    a worker when no other has that number any more."""
    other = read_badge(entry)
    return other is not None and (other.instance, other.worker) == (own.instance, own.worker)

"""Who may do what with a topic: the options of its namespace, applied to an identity.

    option      subscribe, publish
    everyone    any connection that has its welcome
    users       any with a valid token
    granted     a token whose claim has a grant that fits the topic
    nobody      no client; backends are not asked here

`user:<sub>` is a user's own topic. Only that user may subscribe to it, whatever the options and
the grants say, so that a backend can address a user without a second thought; and where the
options let clients publish there, only that user may.

The comparison is exact. A `sub` that has characters outside the grammar of topics therefore just
has no topic of its own: there is no escaping that two subs could meet in.
"""

from __future__ import annotations

from collections.abc import Callable

from clarion_fanout.topics import USER_NAMESPACE
from clarion_server.auth import Identity
from clarion_server.auth.grants import Grants
from clarion_server.options import Namespace, Who

_USER_PREFIX = USER_NAMESPACE + ":"


class Permissions:
    """Answers for one configuration. `topic` must follow the grammar; the callers have checked.

    namespace: the options of a topic's namespace, such as `Config.namespace`.
    """

    __slots__ = ("_namespace",)

    def __init__(self, namespace: Callable[[str], Namespace]) -> None:
        self._namespace = namespace

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        """Whether `identity` may subscribe to `topic`, and so read its history and presence."""
        if topic.startswith(_USER_PREFIX):
            return _owns(identity, topic)
        return _meets(self._namespace(topic).subscribe, identity, identity.subscribe, topic)

    def may_publish(self, identity: Identity, topic: str) -> bool:
        """Whether `identity` may publish to `topic` from a client."""
        if topic.startswith(_USER_PREFIX) and not _owns(identity, topic):
            return False
        return _meets(self._namespace(topic).publish, identity, identity.publish, topic)


def _owns(identity: Identity, topic: str) -> bool:
    return identity.user is not None and topic == _USER_PREFIX + identity.user


def _meets(who: Who, identity: Identity, grants: Grants, topic: str) -> bool:
    if who == "granted":
        return grants.allows(topic)
    if who == "users":
        return identity.user is not None
    return who == "everyone"

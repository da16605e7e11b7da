"""The worker's clients, found by user or client id, for the backend's commands.

These are rare, so nothing is kept for them: the wheel knows every connection, and looking through
20,000 takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from clarion_server.codes import Close
from clarion_server.peer import Peer
from clarion_server.session import Session
from clarion_server.wheel import Wheel


class Directory:
    """Acts on clients. Each call names a `user`, a `client`, or both, and returns how many."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel

    def peers(self) -> Iterator[Peer]:
        """Every connected client."""
        for entry in self._wheel:
            if isinstance(entry, Peer):
                yield entry

    def disconnect(self, *, user: str | None, client: str | None, close: Close) -> int:
        """Says goodbye to clients and closes them."""
        count = 0
        for peer in self._find(user, client):
            peer.finish(close)
            count += 1
        return count

    def subscribe(self, *, user: str | None, client: str | None, topic: str) -> int:
        """Subscribes clients, whatever their own permissions say."""
        count = 0
        for peer in self._find(user, client):
            if not peer.session.has(topic):
                peer.session.join(topic)
            count += 1
        return count

    def unsubscribe(self, *, user: str | None, client: str | None, topic: str, reason: str) -> int:
        """Ends clients' subscriptions and tells them why."""
        return sum(peer.session.leave(topic, reason=reason) for peer in self._find(user, client))

    def _find(self, user: str | None, client: str | None) -> list[Peer]:
        if user is None and client is None:
            return []
        return [peer for peer in self.peers() if _is(peer.session, user, client)]


def _is(session: Session, user: str | None, client: str | None) -> bool:
    identity = session.identity
    if identity is None or session.over:
        return False
    if user is not None and identity.user != user:
        return False
    return client is None or session.id == client

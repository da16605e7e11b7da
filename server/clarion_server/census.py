"""Who is connected to this worker: how many connections each user has, and each address.

Nothing is kept where there is no limit: no entry for a user or an address, and never anything in a
connection. A place is taken when a client is let in and given back when its session ends, however
that comes about; both happen once.
"""

from __future__ import annotations

from typing import TypeVar

from clarion_server.addresses import Address, household

Key = TypeVar("Key")


class Census:
    """See the module's text. Limits are of this worker; 0: there is none."""

    def __init__(self, per_user: int, per_address: int) -> None:
        self._per_user = per_user
        self._per_address = per_address
        self._users: dict[str, int] = {}
        self._households: dict[int, int] = {}
        self._addresses: dict[int, int] = {}
        """The households of connections, by the number of their socket."""

    @property
    def asks_addresses(self) -> bool:
        """Whether a client's address is of interest."""
        return self._per_address > 0

    def __len__(self) -> int:
        """How many users and addresses are known."""
        return len(self._users) + len(self._households)

    def join(self, user: str | None) -> str:
        """Takes a place for a user's connection; returns what keeps it from having one, or ""."""
        if not self._per_user or user is None:
            return ""
        count = self._users.get(user, 0)
        if count >= self._per_user:
            return f"a user's connections, at most {self._per_user}"
        self._users[user] = count + 1
        return ""

    def part(self, user: str | None) -> None:
        """Gives back what `join` took."""
        if self._per_user and user is not None:
            _less(self._users, user)

    def enter(self, client: int, address: Address) -> str:
        """Takes a place for a connection from an address; returns what keeps it out, or "".

        client: the number of its socket.
        """
        if not self._per_address:
            return ""
        home = household(address)
        count = self._households.get(home, 0)
        if count >= self._per_address:
            return f"an address's connections, at most {self._per_address}"
        self._households[home] = count + 1
        self._addresses[client] = home
        return ""

    def leave(self, client: int) -> None:
        """Gives back what `enter` took, if it did."""
        if self._addresses:
            home = self._addresses.pop(client, None)
            if home is not None:
                _less(self._households, home)


def _less(counts: dict[Key, int], key: Key) -> None:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1

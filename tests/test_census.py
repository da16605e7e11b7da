"""Who is connected: counts of users and addresses, after whatever happens to them."""

from __future__ import annotations

import ipaddress
import random

from clarion_server.census import Census


def test_where_there_is_no_limit_nothing_is_kept() -> None:
    census = Census(0, 0)
    for client in range(100):
        assert census.join("ann") == ""
        assert census.enter(client, ipaddress.ip_address("10.0.0.1")) == ""
    assert len(census) == 0
    assert not census.asks_addresses
    census.part("ann")
    census.leave(1)


def test_ten_thousand_lives_at_random_leave_exact_counts() -> None:
    chance = random.Random(7)
    census = Census(3, 4)
    alive: dict[int, tuple[str | None, int]] = {}
    refused = 0
    for client in range(10_000):
        if alive and chance.random() < 0.5:
            gone = chance.choice(list(alive))
            census.part(alive.pop(gone)[0])
            census.leave(gone)
            census.leave(gone)  # every end may be noticed twice
        user = chance.choice([None, "ann", "bob", "cy", "dee"])
        home = chance.randrange(5)
        users = sum(one == user for one, _ in alive.values())
        homes = sum(one == home for _, one in alive.values())
        full = census.enter(client, ipaddress.ip_address(f"2001:db8:0:{home}::{client:x}"))
        assert bool(full) == (homes == 4)
        if full:
            refused += 1
            continue
        full = census.join(user)
        assert bool(full) == (user is not None and users == 3)
        if full:
            census.leave(client)
            refused += 1
            continue
        alive[client] = (user, home)
    assert refused > 100
    for client, (user, _) in alive.items():
        census.part(user)
        census.leave(client)
    assert len(census) == 0


def test_anonymous_clients_are_not_a_user() -> None:
    census = Census(1, 0)
    assert census.join(None) == census.join(None) == ""
    assert len(census) == 0


def test_an_address_of_the_old_kind_is_counted_by_itself() -> None:
    census = Census(0, 1)
    assert census.enter(1, ipaddress.ip_address("10.0.0.1")) == ""
    assert census.enter(2, ipaddress.ip_address("10.0.0.2")) == ""
    assert census.enter(3, ipaddress.ip_address("10.0.0.1")) == (
        "an address's connections, at most 1"
    )

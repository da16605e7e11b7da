"""What publishers may have in flight, beside a model that adds it up."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clarion_server.options import Limits
from clarion_server.quota import Bounds, Denied, Grant, Quota, Quotas
from support.examples import examples

WORKER = Bounds(requests=6, messages=30, bytes=300)
SHARE = Bounds(requests=4, messages=20, bytes=200)


def entered(quota: Quota, who: str | None, size: int = 0) -> Grant:
    admitted = quota.enter(who, size, who or "")
    assert isinstance(admitted, Grant)
    return admitted


def test_a_publisher_has_its_share_and_the_others_the_rest() -> None:
    quota = Quota(WORKER, SHARE)
    for _ in range(4):
        entered(quota, "a")
    assert quota.enter("a", 0, "a") == Denied("share", "requests", 4)
    entered(quota, "b")
    last = entered(quota, "b")
    assert quota.enter("b", 0, "b") == Denied("worker", "requests", 6)
    assert quota.enter(None, 0) == Denied("worker", "requests", 6)
    with last:
        pass
    entered(quota, None)
    assert quota.refused == {
        ("a", "share", "requests"): 1,
        ("b", "worker", "requests"): 1,
        ("", "worker", "requests"): 1,
    }


def test_a_single_request_is_within_every_bound() -> None:
    quota = Quota(WORKER, SHARE)
    with entered(quota, "a", 10_000) as large:
        assert large.add(10_000) is None
        assert quota.enter("b", 1, "b") == Denied("worker", "messages", 30)
    assert len(quota) == 0
    entered(quota, "b", 1)


def test_what_was_announced_is_given_back_when_it_is_known_better() -> None:
    quota = Quota(WORKER, SHARE)
    entered(quota, "a", 100)
    unknown = entered(quota, "a", 100)
    assert quota.enter("a", 1, "a") == Denied("share", "bytes", 200)
    assert unknown.resize(10) is None
    assert quota.load.bytes == 110
    entered(quota, "a", 90)


def test_what_is_refused_on_the_way_leaves_nothing_behind() -> None:
    quota = Quota(WORKER, SHARE)
    entered(quota, "a")
    with entered(quota, "a", 5) as grant:
        assert grant.add(21) == Denied("share", "messages", 20)
        assert quota.load.messages == 0
    assert (quota.load.requests, quota.load.bytes) == (1, 0)


def test_a_denial_says_what_there_is_too_much_of() -> None:
    assert Denied("share", "bytes", 7).text == (
        "you have 7 bytes of requests in flight, which is the most"
    )
    assert Denied("worker", "messages", 7).text == (
        "this worker has 7 messages in flight, which is the most"
    )


def waiting(quota: Quota, who: str, shard: str) -> Grant | Denied:
    """A request that waits for a shard, or why it may not."""
    grant = entered(quota, who, 10)
    denied = grant.at(shard)
    if denied is None:
        return grant
    with grant:
        return denied


def test_one_shard_takes_half_of_what_a_publisher_may_have_and_the_rest_is_for_others() -> None:
    quota = Quota(WORKER, SHARE)
    stuck = [waiting(quota, "a", "hung") for _ in range(2)]
    assert all(isinstance(one, Grant) for one in stuck)
    assert waiting(quota, "a", "hung") == Denied("share", "requests", 2, shard=True)
    assert "to one shard" in Denied("share", "requests", 2, shard=True).text
    well = waiting(quota, "a", "well")
    assert isinstance(well, Grant)
    assert isinstance(waiting(quota, "b", "hung"), Grant)
    assert waiting(quota, "c", "hung") == Denied("worker", "requests", 3, shard=True)
    assert quota.refused == {("a", "share", "requests"): 1, ("c", "worker", "requests"): 1}


def test_a_request_counts_for_each_of_its_shards_once_and_with_all_that_it_has() -> None:
    quota = Quota(WORKER, SHARE)
    entered(quota, "a")
    with entered(quota, "a", 60) as grant:
        assert grant.add(3) is None
        for shard in ("one", "other", "one"):
            assert grant.at(shard) is None
        loads = [quota.shards[shard].load for shard in ("one", "other")]
        assert [(load.requests, load.messages, load.bytes) for load in loads] == [(1, 3, 60)] * 2
        with entered(quota, "a", 50) as too_much:
            assert too_much.at("one") == Denied("share", "bytes", 100, shard=True)
    assert quota.shards == {}
    assert quota.load.requests == 1


def test_backends_and_clients_cannot_lock_each_other_out() -> None:
    quotas = Quotas(Limits(publish_requests=4, publish_share=0.5, publish_user=3))
    for _ in range(2):
        entered(quotas.api, "1")
    assert quotas.api.enter("1", 0, "1") == Denied("share", "requests", 2)
    for _ in range(3):
        entered(quotas.client, "42")
    assert quotas.client.enter("42", 0) == Denied("share", "requests", 3)
    for who in ("1", "2"):
        assert isinstance(quotas.api.enter("2", 0, "2"), Grant), who


class QuotaMachine(RuleBasedStateMachine):
    """The model: a list of what is in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.quota = Quota(WORKER, SHARE)
        self.there: list[tuple[str | None, Grant, list[int]]] = []

    def sums(self, who: str | None = None) -> tuple[int, ...]:
        parts = [part for name, _, part in self.there if who is None or name == who]
        return tuple(map(sum, zip(*parts, strict=True))) if parts else (0, 0, 0)

    def fits(self, who: str | None, more: tuple[int, int, int]) -> bool:
        """Whether that may come on top of what is there."""
        sums = [(self.sums(), WORKER)] + ([(self.sums(who), SHARE)] if who is not None else [])
        return all(
            there[0] + more[0] <= 1
            or all(a + b <= most for a, b, most in zip(there, more, bounds, strict=True))
            for there, bounds in sums
        )

    @rule(who=st.sampled_from([None, "a", "b"]), size=st.sampled_from([0, 50, 150, 500]))
    def enters(self, who: str | None, size: int) -> None:
        fits = self.fits(who, (1, 0, size))
        admitted = self.quota.enter(who, size)
        assert isinstance(admitted, Grant) == fits
        if isinstance(admitted, Grant):
            self.there.append((who, admitted, [1, 0, size]))

    @precondition(lambda self: self.there)
    @rule(place=st.integers(0, 9), messages=st.sampled_from([1, 10, 50]))
    def brings(self, place: int, messages: int) -> None:
        who, grant, part = self.there[place % len(self.there)]
        fits = self.fits(who, (0, messages, 0))
        assert (grant.add(messages) is None) == fits
        part[1] += messages * fits

    @precondition(lambda self: self.there)
    @rule(place=st.integers(0, 9), size=st.sampled_from([0, 20, 400]))
    def is_read(self, place: int, size: int) -> None:
        who, grant, part = self.there[place % len(self.there)]
        fits = self.fits(who, (0, 0, size - part[2]))
        assert (grant.resize(size) is None) == fits
        if fits:
            part[2] = size

    @precondition(lambda self: self.there)
    @rule(place=st.integers(0, 9))
    def leaves(self, place: int) -> None:
        _, grant, _ = self.there.pop(place % len(self.there))
        with grant:
            pass

    @invariant()
    def it_knows_what_is_there(self) -> None:
        load = self.quota.load
        assert (load.requests, load.messages, load.bytes) == self.sums()
        assert len(self.quota) == len({who for who, _, _ in self.there if who is not None})

    def teardown(self) -> None:
        while self.there:
            self.leaves(0)
            self.it_knows_what_is_there()


QuotaMachine.TestCase.settings = settings(max_examples=examples(100))
test_exactly_what_fits_is_let_in = QuotaMachine.TestCase

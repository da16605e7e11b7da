"""Where a client stands in a topic: duplicates, gaps, and what a resumed subscription means."""

from __future__ import annotations

from clarion_client import wire
from clarion_client.events import Lost, Position
from clarion_client.place import Place


def answer(
    epoch: str | None = None, offset: int | None = None, recovered: bool | None = None
) -> wire.Subscribed:
    return wire.Subscribed("t", epoch, offset, recovered, 1)


def subscribed(place: Place, *at: object) -> Lost | None:
    return place.subscribed(answer(*at))  # type: ignore[arg-type]


def taken(place: Place, *offsets: int) -> list[int]:
    """Those of the offsets that are news, with a minus where something is missing before it."""
    news = []
    for offset in offsets:
        is_new, lost = place.received(offset)
        if is_new:
            news.append(-offset if lost else offset)
    return news


def test_a_first_subscription_begins_behind_the_newest() -> None:
    place = Place("t")
    assert place.wish() == {"topic": "t"}
    assert subscribed(place, "e", 19) is None
    assert place.position == Position("e", 19)
    assert taken(place, 20, 21) == [20, 21]
    assert place.wish() == {"topic": "t", "since": {"epoch": "e", "offset": 21}}


def test_what_came_before_is_a_duplicate() -> None:
    place = Place("t", since=Position("e", 17))
    assert subscribed(place, "e", 19, True) is None
    assert place.position == Position("e", 17)
    assert taken(place, 17, 18, 18, 19, 18, 20) == [18, 19, 20]


def test_a_hole_in_the_offsets_is_a_loss() -> None:
    place = Place("t")
    subscribed(place, "e", 19)
    is_new, lost = place.received(23)
    assert is_new
    assert lost == Lost("t", Position("e", 22), "20 to 22 never came")
    assert taken(place, 24) == [24]


def test_what_could_not_be_recovered_is_a_loss_and_moves_the_position() -> None:
    place = Place("t", since=Position("e", 17))
    lost = subscribed(place, "e", 300, False)
    assert lost is not None
    assert lost.position == place.position == Position("e", 300)
    assert taken(place, 301) == [301]


def test_an_answer_that_says_nothing_of_recovery_is_a_loss_if_the_position_moved() -> None:
    place = Place("t", since=Position("e", 17))
    assert subscribed(place, "e", 17) is None
    place = Place("t", since=Position("e", 17))
    assert subscribed(place, "e", 18) is not None


def test_a_stream_that_began_anew_is_a_loss() -> None:
    place = Place("t", since=Position("e", 17))
    lost = subscribed(place, "f", 3, False)
    assert lost is not None
    assert "anew" in lost.reason
    assert place.position == Position("f", 3)


def test_a_stream_that_goes_on_in_another_epoch_is_none() -> None:
    place = Place("t", since=Position("e", 17))
    assert subscribed(place, "f", 19, True) is None
    assert place.position == Position("f", 17)
    assert taken(place, 18, 19, 20) == [18, 19, 20]
    place.renewed("g")
    assert place.position == Position("g", 20)


def test_a_topic_without_history_has_no_position_and_no_duplicates() -> None:
    place = Place("t")
    assert subscribed(place) is None
    assert place.received(None) == (True, None)
    assert place.position is None
    place.renewed(None)
    assert place.wish() == {"topic": "t"}


def test_a_history_that_is_kept_no_more_is_a_loss() -> None:
    place = Place("t", since=Position("e", 17))
    lost = subscribed(place, None, None, False)
    assert lost == Lost("t", None, "the topic keeps no history")
    assert subscribed(place) is None


def test_rewinding_begins_before_the_newest() -> None:
    place = Place("t", last=10)
    assert place.wish() == {"topic": "t", "last": 10}
    assert subscribed(place, "e", 19) is None
    assert place.start is None
    assert taken(place, 10, 11, 12) == [10, 11, 12]
    assert place.wish() == {"topic": "t", "since": {"epoch": "e", "offset": 12}}


def test_rewinding_a_history_that_is_empty_begins_behind_the_newest() -> None:
    place = Place("t", last=10)
    subscribed(place, "e", 19)
    assert taken(place, 20, 21) == [20, 21]


def test_rewinding_that_was_cut_before_the_first_message_is_asked_for_again() -> None:
    place = Place("t", last=3)
    subscribed(place, "e", 19)
    assert place.wish() == {"topic": "t", "last": 3}
    assert subscribed(place, "e", 21) is None
    assert taken(place, 19, 20, 21, 22) == [19, 20, 21, 22]


def test_rewinding_again_says_what_was_published_meanwhile_and_is_not_among_the_newest() -> None:
    place = Place("t", last=3)
    subscribed(place, "e", 19)
    subscribed(place, "e", 30)
    assert taken(place, 28, 29) == [-28, 29]


def test_rewinding_again_in_another_stream_is_a_loss() -> None:
    place = Place("t", last=3)
    subscribed(place, "e", 19)
    assert subscribed(place, "f", 2) is not None
    assert taken(place, 1, 2, 3) == [1, 2, 3]


def test_the_server_says_where_it_goes_on_after_a_loss() -> None:
    place = Place("t", since=Position("e", 17))
    subscribed(place, "e", 17, True)
    place.lost(wire.Lost("t", "e", 25, "too slow"))
    assert taken(place, 25, 26) == [26]
    place.lost(wire.Lost("t", "f", 3, "the shard was emptied"))
    assert taken(place, 4) == [4]


def test_a_loss_that_is_behind_us_moves_nothing_back() -> None:
    place = Place("t", since=Position("e", 17))
    subscribed(place, "e", 17, True)
    place.lost(wire.Lost("t", "e", 5, "late"))
    assert taken(place, 17, 18) == [18]

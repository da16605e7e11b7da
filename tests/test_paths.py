"""Paths to fields: what they may look like, and where they lead."""

from __future__ import annotations

import pytest

from clarion_server.pipeline.paths import BadPath, Paths, Place, split


def leads(texts: list[str], *names: str) -> list[int]:
    """The paths that end where `names` lead."""
    place: Place | None = Paths(texts).start
    for name in names:
        if place is None:
            return []
        place = place.at(name)
    return place.ends if place else []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        ("a.b-c.d_1", ["a", "b-c", "d_1"]),
        ("*.a", ["*", "a"]),
        ("**.a", ["**", "a"]),
        ('a."b.c"."\\"*"', ["a", '"b.c"', '"\\"*"']),
        ("0.1", ["0", "1"]),
    ],
)
def test_a_path_is_names_between_dots(text: str, parts: list[str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no name at character 1"),
        ("a.", "no name at character 3"),
        (".a", "no name at character 1"),
        ("a..b", "no name at character 3"),
        ("a b", "' ' at character 2"),
        ("a[0]", "'[' at character 2: such names stand in quotes"),
        ("é", "no name at character 1"),
        ('"a', "no name at character 1"),
        ('"\\x"', "no name in quotes"),
        ("***", "'*' at character 3"),
        ("a.**", "ends with **"),
        ("**.**.a", "** twice in a row"),
    ],
)
def test_what_is_no_path_is_told_with_its_place(text: str, says: str) -> None:
    with pytest.raises(BadPath) as caught:
        split(text)
    assert says in str(caught.value)


@pytest.mark.parametrize("texts", [["a", "a.b"], ["a.b", "a"], ["a", "a"], ["*", "*.x"]])
def test_a_path_within_another_would_do_nothing(texts: list[str]) -> None:
    with pytest.raises(BadPath, match="within"):
        Paths(texts)


@pytest.mark.parametrize(
    ("texts", "names", "ends"),
    [
        (["a.b"], ("a", "b"), [0]),
        (["a.b"], ("a",), []),
        (["a.b"], ("a", "c"), []),
        (["a.b", "a.c"], ("a", "c"), [1]),
        (["*.b"], ("x", "b"), [0]),
        (["*.b"], ("b",), []),
        (["*.b", "a.b"], ("a", "b"), [0, 1]),
        (["**.b"], ("b",), [0]),
        (["**.b"], ("x", "y", "b"), [0]),
        (["**.a.b"], ("a", "a", "b"), [0]),
        (["a.**.b"], ("a", "b"), [0]),
        (["a.**.b"], ("b",), []),
        (['"a.b"'], ("a.b",), [0]),
        (['"*"'], ("x",), []),
        (["**.*.c"], ("c",), []),
    ],
)
def test_where_paths_lead(texts: list[str], names: tuple[str, ...], ends: list[int]) -> None:
    assert sorted(leads(texts, *names)) == ends

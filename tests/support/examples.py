"""How many examples a property is shown: its own number, and in the profile `explore` many more."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100
"""Hypothesis's own number, which the default profile keeps."""


def examples(count: int) -> int:
    """`count`, as many times as the profile has of the usual number."""
    return count * settings().max_examples // USUAL

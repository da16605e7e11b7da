"""What is known of one option, and how a value for it is read from text or TOML.

`option` stands in the annotation of every option (see `options`): what it is for, its unit, its
bounds, why its default is what it is. Everything else that has to know about options, from
parsing to the reference table, asks `catalogue`.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import msgspec


HIDDEN = "***"


class Facts(NamedTuple):
    """What the annotation of an option says beyond its type."""

    text: str
    why: str
    unit: str
    least: float | None
    most: float | None
    secret: bool
    flag: bool


def option(
    text: str,
    why: str,
    *,
    unit: str = "",
    least: float | None = None,
    most: float | None = None,
    secret: bool = False,
    flag: bool = False,
) -> msgspec.Meta:
    """Describes an option, inside its `Annotated`.

    text: what it is, without a full stop.
    why: one sentence, why the default is what it is.
    least, most: the bounds, both allowed.
    secret: never shown, neither by `repr` nor in an error text.
    flag: `clarion serve` has a flag of its name.
    """
    facts = Facts(text, why, unit, least, most, secret, flag)
    return msgspec.Meta(ge=least, le=most, description=text, extra={"facts": facts})


def facts_of(field: msgspec.structs.FieldInfo) -> Facts | None:
    """The facts of an option's field; None for a table."""
    for note in get_args(field.type):
        if isinstance(note, msgspec.Meta) and note.extra:
            facts = note.extra["facts"]
            assert isinstance(facts, Facts)
            return facts
    return None


def displayed(field: msgspec.structs.FieldInfo, value: object) -> object:
    """`value` as it may be shown: a secret becomes asterisks, one that is not set stays."""
    facts = facts_of(field)
    if facts is None or not facts.secret or not value:
        return value
    return (HIDDEN,) if isinstance(value, tuple) else HIDDEN

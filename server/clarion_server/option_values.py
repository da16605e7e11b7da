"""One option: what is known of it, how a value for it is read, and what is wrong with a bad one.

`option` stands in the annotation of every option (see `options`): what it is for, its unit, its
bounds, why its default is what it is. Everything else that has to know about options, from
parsing to the reference table, asks `catalogue`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_origin

import msgspec

HIDDEN = "***"

MAKE_KEY = "to make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"

_UNITS = {"s": "seconds"}
_BARE_KEY = re.compile(r"[A-Za-z0-9_\-]+")
_YES = frozenset({"true", "1", "yes", "on"})
_NO = frozenset({"false", "0", "no", "off"})
_SHOWN = 60  # characters of a wrong value: enough to recognise it, and one line


class Mistake(NamedTuple):
    """One thing that is wrong with the configuration.

    source: the file, environment variable or flag it came from.
    key: the option's path, such as `limits.message_bytes`; "" when a file is wrong as a whole.
    problem: what is wrong with it. Never contains a secret.
    expected: what would be right, or "".
    """

    source: str
    key: str
    problem: str
    expected: str = ""

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.source, self.key, self.problem) if part)
        return f"{text}; expected {self.expected}" if self.expected else text


class ConfigError(Exception):
    """The configuration cannot be used. `mistakes` has everything that is wrong with it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


class Conflict(NamedTuple):
    """Options that do not go together, or one that breaks a rule beyond its type and bounds.

    keys: every option that has a part in it, the one to blame first. If one of these could not be
        read in the first place, the conflict is not reported: it may be a mere consequence.
    """

    keys: tuple[str, ...]
    problem: str
    expected: str = ""


class BadValue(ValueError):
    """A value that its option does not take. The text says what the value is."""


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


class Option(NamedTuple):
    """An option and its place: `key` is its path in the file, `auth.leeway_s`."""

    key: str
    kind: Any
    default: object
    facts: Facts

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "CLARION_" + self.key.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """Its flag of `clarion serve`; not every option has one (`facts.flag`)."""
        return "--" + self.key.replace("_", "-").replace(".", "-")

    @property
    def is_list(self) -> bool:
        return get_origin(self.kind) is tuple

    @property
    def expected(self) -> str:
        """What a value must be, for people."""
        facts = self.facts
        if self.is_list:
            kind = get_args(self.kind)[0]
            return "a list of texts" if kind is str else f"a list, each {_words(kind)}"
        words = _words(self.kind)
        if facts.unit and self.kind in (int, float):
            words += f" of {_UNITS.get(facts.unit, facts.unit)}"
        if facts.least is not None and facts.most is not None:
            words += f", {plain(facts.least)} to {plain(facts.most)}"
        return words

    def from_text(self, text: str) -> object:
        """The value that an environment variable or a flag means. Raises `BadValue`."""
        text = text.strip()
        if self.is_list:
            return self.checked([part.strip() for part in text.split(",") if part.strip()])
        if self.kind is bool and text.lower() in _YES | _NO:
            return text.lower() in _YES
        if self.kind in (int, float):
            try:
                return self.checked(self.kind(text))
            except (BadValue, ValueError):
                raise BadValue(self._is(text)) from None
        return self.checked(text)

    def checked(self, value: object) -> object:
        """The value, in its option's type, if that and the bounds allow it. Raises `BadValue`."""
        if self.is_list:
            if not isinstance(value, (list, tuple)):
                raise BadValue(self._is(value))
            kind = get_args(self.kind)[0]
            return tuple(self._converted(item, kind) for item in cast(Sequence[object], value))
        return self._converted(value, Annotated[self.kind, self._bounds])

    @property
    def _bounds(self) -> msgspec.Meta:
        return msgspec.Meta(ge=self.facts.least, le=self.facts.most)

    def _converted(self, value: object, kind: Any) -> object:
        if isinstance(value, str) and not _is_text(value):
            raise BadValue(
                "is not valid UTF-8" if _has_surrogates(value) else "has control characters"
            )
        try:
            return cast(object, msgspec.convert(value, kind))
        except (msgspec.ValidationError, OverflowError):
            raise BadValue(self._is(value)) from None

    def _is(self, value: object) -> str:
        if isinstance(value, dict):
            return "is a table"
        if isinstance(value, (list, tuple)):
            return "is a list"
        if self.facts.secret:
            return f"is not a text but {type(value).__name__}"
        try:
            shown = json.dumps(value, default=str)
        except ValueError:  # Python prints no integer of more than 4,300 digits
            return "is far too large"
        return "is " + (shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "...")


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the configuration. Its `repr` shows that a secret is set, never the secret."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [
            (field.name, displayed(field, getattr(self, field.name)))
            for field in msgspec.structs.fields(self)
        ]


def catalogue(table: type[msgspec.Struct], prefix: str = "") -> Iterator[Option]:
    """Every option of `table` and of the tables in it, in the order they are written down."""
    for field in msgspec.structs.fields(table):
        key = join(prefix, field.name)
        option = option_of(field, key)
        if option is not None:
            yield option
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from catalogue(field.type, key)


def option_of(field: msgspec.structs.FieldInfo, key: str) -> Option | None:
    """The option that a struct's field is, at the path `key`; None for a table."""
    facts = facts_of(field)
    return None if facts is None else Option(key, get_args(field.type)[0], field.default, facts)


def join(key: str, name: str) -> str:
    """The path of `name` in the table `key`, quoted where TOML would quote it."""
    if not _BARE_KEY.fullmatch(name):
        name = json.dumps(name)
    return f"{key}.{name}" if key else name


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


def plain(value: object) -> str:
    """A value as the file would have it: 0.5, 300, "info", true, ["a", "b"]."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def is_loopback(host: str) -> bool:
    """Whether a server at `host`, an address or a name, is on this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{word}"' for word in get_args(kind))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words[kind]


def _is_text(value: str) -> bool:
    """Whether people could have meant it: such values end up in headers, logs and Redis keys."""
    return not _has_surrogates(value) and not any(
        character < " " or character == "\x7f" for character in value
    )


def _has_surrogates(value: str) -> bool:
    # What Python makes of bytes in the environment that are not UTF-8.
    return any("\ud800" <= character <= "\udfff" for character in value)

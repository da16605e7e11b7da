"""Making one configuration out of a file's tables, the environment and flags.

Reading goes on after a mistake, so that all of them are reported at once.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from clarion_fanout.topics import DEFAULT_NAMESPACE, is_namespace
from clarion_server.config.checks import conflicts
from clarion_server.config.files import is_open_to_all
from clarion_server.option_values import (
    BadValue,
    ConfigError,
    Mistake,
    Option,
    catalogue,
    facts_of,
    join,
    option_of,
)
from clarion_server.options import Config, KeyOptions, Namespace
from clarion_server.pipeline.options import FILE_OPTIONS, STEPS, AnyStep, Python, StepOptions

# Sources that are neither a file, a variable nor a flag.
DEVELOPMENT = "development"
NO_FILE = "no file"

DEVELOPMENT_DEFAULTS: Mapping[str, object] = {
    "auth.anonymous": True,
    f"namespaces.{DEFAULT_NAMESPACE}.history_size": 100,
    f"namespaces.{DEFAULT_NAMESPACE}.subscribe": "everyone",
    f"namespaces.{DEFAULT_NAMESPACE}.publish": "everyone",
    f"namespaces.{DEFAULT_NAMESPACE}.presence": "members",
}
"""Defaults that are others in development."""

CONFIG_VARIABLE = "CLARION_CONFIG"
# Read by the commands that are clients, and so not unknown.
CLIENT_VARIABLES = ("CLARION_API_KEY", "CLARION_API_URL", "CLARION_TOKEN", "CLARION_URL")

# Kubernetes sets these for a Service called clarion, and Docker's links did.
_SERVICE_VARIABLE = re.compile(r"CLARION_(SERVICE_(HOST|PORT).*|PORT_[0-9]+_(TCP|UDP).*)")
_SERVICE_URL = re.compile(r"(tcp|udp)://")
# Paths in these options are relative to the file they stand in.
_FILE_OPTIONS = ("secret_file", "public_key_file", "jwks_file", *FILE_OPTIONS)


class Loaded(NamedTuple):
    """A configuration, and how it came about.

    sources: for the key path of each option that has not the usual default, what set it: the
        file's name, a variable, a flag, `DEVELOPMENT` or `NO_FILE`.
    warnings: for people, what works but should be otherwise.
    file: the configuration file's name, or "".
    """

    config: Config
    sources: Mapping[str, str]
    warnings: tuple[str, ...]
    file: str


class Reading:
    """What has been read so far. Later sources overwrite earlier ones, mistakes add up."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[str, object] = {}
        self.sources: dict[str, str] = {}
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []
        self.broken: set[str] = set()
        self.names: dict[str, str] = {DEFAULT_NAMESPACE: f"namespaces.{DEFAULT_NAMESPACE}"}
        self.key_count = 0
        self.steps: dict[str, list[tuple[type[StepOptions], str]]] = {}
        self.options = tuple(catalogue(Config))

    def wrong(self, source: str, key: str, problem: str, expected: str = "") -> None:
        self.mistakes.append(Mistake(source, key, problem, expected))
        self.broken.add(key)

    def take(
        self, source: str, option: Option, read: Callable[[Any], object], given: object
    ) -> None:
        """Keeps what `read`, a method of `option`, makes of the value that `source` gives."""
        try:
            self.values[option.key] = read(given)
            self.sources[option.key] = source
        except BadValue as error:
            self.wrong(source, option.key, str(error), option.expected)

    # The file

    def table(self, given: object, kind: type[msgspec.Struct], key: str) -> None:
        """Reads a table of the file as `kind`, a struct of options."""
        if not isinstance(given, Mapping):
            self.wrong(self.file, key, "is not a table", f"[{key}] and its options below")
            return
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for name, value in cast(Mapping[str, object], given).items():
            path = join(key, name)
            field = fields.get(name)
            if field is None:
                self.unknown(key, name, fields)
            elif path == "namespaces":
                self.namespaces(value)
            elif path == "auth.keys":
                self.keys(value)
            elif field.type == tuple[AnyStep, ...]:
                self.pipeline(value, path)
            elif (option := option_of(field, path)) is not None:
                self.take(self.file, option, option.checked, value)
            else:
                self.table(value, field.type, path)

    def namespaces(self, given: object) -> None:
        if not isinstance(given, Mapping):
            self.wrong(self.file, "namespaces", "is not a table", "[namespaces.NAME]")
            return
        for name, value in cast(Mapping[str, object], given).items():
            path = join("namespaces", name)
            if not is_namespace(name):
                expected = (
                    "1 to 64 of A-Z a-z 0-9 _ . - (what stands before the first : of a topic)"
                )
                self.wrong(self.file, path, "is not the name of a namespace", expected)
                continue
            self.names[name] = path
            self.table(value, Namespace, path)

    def keys(self, given: object) -> None:
        if not isinstance(given, list):
            self.wrong(self.file, "auth.keys", "is not a list", "[[auth.keys]] before each key")
            return
        for place, value in enumerate(cast(list[object], given)):
            self.table(value, KeyOptions, f"auth.keys[{place}]")
        self.key_count = len(cast(list[object], given))

    def pipeline(self, given: object, path: str) -> None:
        if not isinstance(given, list):
            expected = f"[[{path}]] before each step, or a list of tables"
            self.wrong(self.file, path, "is not a list", expected)
            return
        steps = self.steps.setdefault(path, [])
        for place, value in enumerate(cast(list[object], given)):
            key = f"{path}[{place}]"
            if not isinstance(value, Mapping):
                self.wrong(self.file, key, "is not a table", '{ step = "...", ... }')
                self.broken.add(path)
                continue
            table = dict(cast(Mapping[str, object], value))
            name = table.pop("step", None)
            kind = STEPS.get(name) if isinstance(name, str) else None
            if kind is None:
                self.wrong(self.file, f"{key}.step", _no_step(name), f"one of {', '.join(STEPS)}")
                self.broken.add(path)
                continue
            if kind is Python:
                table.setdefault("folder", Python().folder)
            self.values[f"{key}.step"] = name
            self.sources[f"{key}.step"] = self.file
            self.table(table, kind, key)
            steps.append((kind, key))

    def unknown(self, key: str, name: str, known: Iterable[str]) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        if near:
            # What is missing because it is misspelt must not be reported as missing, too.
            self.broken.add(join(key, near[0]))
            hint = near[0]
        else:
            elsewhere = [option.key for option in self.options if _last(option.key) == name]
            self.broken.update(elsewhere)
            hint = _whereabouts(elsewhere[0]) if elsewhere else ""
        self.wrong(self.file, join(key, name), _no_such("option", hint))

    # Everything else

    def environment(self, environ: Mapping[str, str]) -> None:
        options = {option.variable: option for option in self.options}
        known = {*options, *CLIENT_VARIABLES, CONFIG_VARIABLE}
        for name, text in sorted(environ.items()):
            if not name.startswith("CLARION_") or _SERVICE_VARIABLE.fullmatch(name):
                continue
            if option := options.get(name):
                self.variable(name, text, option)
            elif name not in known:
                # Only what is nearly the name of an option: images set variables of all kinds.
                near = difflib.get_close_matches(name, options, n=1, cutoff=0.85)
                if near:
                    self.wrong(name, "", _no_such("variable", near[0]))
                    self.broken.add(options[near[0]].key)
                else:
                    self.warnings.append(f"{name} is not a variable of Clarion's; it is ignored.")

    def variable(self, name: str, text: str, option: Option) -> None:
        if _SERVICE_URL.match(text) and option.kind is int:
            self.wrong(
                name,
                option.key,
                'is a URL: Kubernetes sets this variable for a Service called "clarion"',
                "enableServiceLinks: false in the pod, or another name for the Service",
            )
        elif text.strip():  # an empty variable is one that is not set
            self.take(name, option, option.from_text, text)

    def flags(self, flags: Mapping[str, object]) -> None:
        options = {option.key: option for option in self.options}
        for key, given in flags.items():
            option = options[key]
            if isinstance(given, str):
                self.take(option.flag, option, option.from_text, given)
            elif given is not None:
                self.take(option.flag, option, option.checked, given)

    # The outcome

    def finish(self, development_by_default: bool) -> Loaded:
        if development_by_default and "development" not in self.values:
            self.values["development"] = True
            self.sources["development"] = NO_FILE
        if self.values.get("development"):
            for key, value in DEVELOPMENT_DEFAULTS.items():
                if key not in self.values:
                    self.values[key] = value
                    self.sources[key] = DEVELOPMENT
        self.resolve_files()
        config = cast(Config, self.built(Config, ""))
        for conflict in conflicts(config):
            if self.broken.isdisjoint(conflict.keys):
                self.wrong_together(conflict.keys, conflict.problem, conflict.expected)
        if self.mistakes:
            raise ConfigError(self.mistakes)
        self.warn_of_open_files()
        return Loaded(config, self.sources, tuple(self.warnings), self.file)

    def wrong_together(self, keys: tuple[str, ...], problem: str, expected: str) -> None:
        sources = (self.sources[key] for key in keys if key in self.sources)
        blamed = self.sources.get(keys[0]) or next(sources, "")
        if not blamed or blamed in (DEVELOPMENT, NO_FILE):
            blamed = self.file or "configuration"
        self.mistakes.append(Mistake(blamed, keys[0], problem, expected))

    def built(self, kind: type[msgspec.Struct], key: str) -> msgspec.Struct:
        """The struct `kind` with the values under `key`; what has none keeps its default."""
        made: dict[str, Any] = {}
        for field in msgspec.structs.fields(kind):
            path = join(key, field.name)
            if path == "namespaces":
                made[field.name] = {
                    name: self.built(Namespace, place) for name, place in self.names.items()
                }
            elif path == "auth.keys":
                places = range(self.key_count)
                made[field.name] = tuple(self.built(KeyOptions, f"{path}[{i}]") for i in places)
            elif field.type == tuple[AnyStep, ...]:
                steps = self.steps.get(path, ())
                made[field.name] = tuple(self.built(step, place) for step, place in steps)
            elif facts_of(field) is None:
                made[field.name] = self.built(field.type, path)
            elif path in self.values:
                made[field.name] = self.values[path]
        return kind(**made)

    def resolve_files(self) -> None:
        for key, value in self.values.items():
            if _last(key) in _FILE_OPTIONS and value:
                in_file = self.sources[key] == self.file
                folder = Path(self.file).parent if in_file else Path()
                self.values[key] = os.path.abspath(folder / str(value))

    def warn_of_open_files(self) -> None:
        secret = {option.key for option in self.options if option.facts.secret}
        holds = {
            self.file
            for key, source in self.sources.items()
            if source == self.file
            and self.values[key]
            and (key in secret or _last(key) == "secret")
        }
        holds.update(str(self.values[key]) for key in self.values if _last(key) == "secret_file")
        for name in sorted(holds):
            if name and is_open_to_all(Path(name)):
                problem = "holds secrets and every user of this machine may read it"
                self.warnings.append(f"{name} {problem}: chmod o-r {name}")


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _no_such(what: str, hint: str) -> str:
    return f"there is no such {what}" + (f"; did you mean {hint}?" if hint else "")


def _no_step(name: object) -> str:
    if not isinstance(name, str):
        return "is missing" if name is None else "is not a text"
    near = difflib.get_close_matches(name, STEPS, n=1)
    return f'is "{name}"' + (f"; did you mean {near[0]}?" if near else "")


def _whereabouts(key: str) -> str:
    table, _, name = key.rpartition(".")
    return f"{name} in [{table}]" if table else f"{name} at the top, before the first [table]"

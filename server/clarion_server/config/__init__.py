"""The configuration in force: flags before environment before file before defaults.

`options` says what can be configured; this module reads it. It is the only one that looks at
the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from clarion_server.config.files import read_toml
from clarion_server.config.reading import CONFIG_VARIABLE, Loaded, Reading
from clarion_server.option_values import ConfigError, Mistake
from clarion_server.options import (
    AuthOptions,
    Config,
    HistoryLimits,
    Keepalive,
    KeyOptions,
    Limits,
    Namespace,
    Who,
    WindowOptions,
)

__all__ = [
    "AuthOptions",
    "Config",
    "ConfigError",
    "HistoryLimits",
    "Keepalive",
    "KeyOptions",
    "Limits",
    "Loaded",
    "Mistake",
    "Namespace",
    "Who",
    "WindowOptions",
    "environment",
    "interpret",
    "load",
    "read",
]


def environment() -> Mapping[str, str]:
    """The process's environment."""
    return os.environ


def load(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """The configuration. See `read`."""
    return read(path, environ, flags).config


def read(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Loaded:
    """Reads the file, the environment and the flags.

    path: of the TOML file; None: what CLARION_CONFIG says, or no file, which is development.
    environ: None: the process's.
    flags: by key path; a text, a list of texts, or a bool. None as a value is a flag not given.
    Raises `ConfigError` with everything that is wrong.
    """
    environ = environment() if environ is None else environ
    named_by = "--config"
    if path is None and environ.get(CONFIG_VARIABLE):
        path, named_by = environ[CONFIG_VARIABLE], CONFIG_VARIABLE
    try:
        tables = None if path is None else read_toml(Path(path), named_by)
    except ConfigError as error:
        rest = Reading("")
        rest.environment(environ)
        rest.flags(flags or {})
        raise ConfigError([*error.mistakes, *rest.mistakes]) from None
    return interpret(tables, path or "", environ, flags or {})


def interpret(
    tables: Mapping[str, object] | None,
    file: str,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
) -> Loaded:
    """The configuration that a file's `tables` (None: no file), `environ` and `flags` make.

    file: the name of the file, for error texts and for the paths in it.
    Raises `ConfigError` with everything that is wrong.
    """
    reading = Reading(file)
    if tables is not None:
        reading.table(tables, Config, "")
    reading.environment(environ)
    reading.flags(flags)
    return reading.finish(development_by_default=tables is None)

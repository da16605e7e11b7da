"""The files that a configuration consists of: the TOML file itself, and those with keys."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from clarion_server.option_values import ConfigError, Mistake

# Far above any sane file of its kind; a wrong path may be /dev/zero or a disk image.
MAX_FILE_BYTES = 1_048_576

_TOML_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


class BadFile(ValueError):
    """A file cannot be read. The text names it and says why."""


def read_bytes(path: Path) -> bytes:
    """The content of a small file. Raises `BadFile`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise BadFile(f"{path}: there is no such file") from None
    except PermissionError:
        raise BadFile(f"{path} may not be read by this user") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise BadFile(f"{path} cannot be read: {(reason or str(error)).lower()}") from None
    if len(content) > MAX_FILE_BYTES:
        raise BadFile(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return content


def read_toml(path: Path, named_by: str) -> dict[str, Any]:
    """The tables of a configuration file.

    named_by: the flag or variable that names the file, to blame when there is none.
    Raises `ConfigError` with one mistake: the first error of syntax hides what follows.
    """
    name = str(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")  # Windows editors like to begin with a mark
        return tomllib.loads(text)
    except BadFile as error:
        raise ConfigError([Mistake(named_by, "", str(error))]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{error.object[error.start]:02x} is not valid UTF-8"
        raise ConfigError([Mistake(f"{name}, line {line}", "", problem)]) from None
    except RecursionError:
        raise ConfigError([Mistake(name, "", "is nested too deeply")]) from None
    except ValueError as error:
        # TOMLDecodeError, and the plain ValueError of a number with thousands of digits.
        found = _TOML_PLACE.fullmatch(str(error))
        if found is None:
            raise ConfigError([Mistake(name, "", f"is not TOML: {error}")]) from None
        problem, line_, column = found.groups()
        problem = f"is not TOML: {problem[:1].lower()}{problem[1:]}"
        raise ConfigError(
            [Mistake(f"{name}, line {line_}, column {column}", "", problem)]
        ) from None


def is_open_to_all(path: Path) -> bool:
    """Whether every user of this machine may read the file."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False

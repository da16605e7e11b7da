"""`clarion check-config`: everything that is wrong with a configuration, or what is in force."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence

from clarion_server import config
from clarion_server.cli.terminal import printable
from clarion_server.option_values import (
    HIDDEN,
    ConfigError,
    Mistake,
    Option,
    catalogue,
    join,
    plain,
)
from clarion_server.options import KeyOptions, Namespace
from clarion_server.pipeline.options import STEPS


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="TOML; CLARION_CONFIG if left out, or none"
    )
    parser.add_argument(
        "--reference", action="store_true", help="print a table of all options, as Markdown"
    )


def run(options: argparse.Namespace) -> int:
    if options.reference:
        print(reference(), end="")
        return 0
    loaded = config.read(options.file)
    check_imports(loaded)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(summary(loaded)))
    return 0


def check_imports(loaded: config.Loaded) -> None:
    """Whether the user's functions can be imported. Raises `ConfigError`."""
    namespaces = loaded.config.namespaces
    if any(step.step == "python" for each in namespaces.values() for step in each.pipeline):
        from clarion_server.pipeline import imports

        if mistakes := imports.mistakes(namespaces, loaded.file):
            raise ConfigError(mistakes)


def explain(error: ConfigError) -> str:
    """The mistakes for people, grouped by where they were made."""
    count = len(error.mistakes)
    lines = [f"clarion: {count} mistake{'s' * (count > 1)} in the configuration"]
    sources: dict[str, list[Mistake]] = {}
    for mistake in error.mistakes:
        sources.setdefault(mistake.source, []).append(mistake)
    for source, mistakes in sources.items():
        lines += ["", f"  {printable(source)}"]
        for mistake in mistakes:
            key = f"{mistake.key}: " if mistake.key else ""
            lines.append(printable(f"    {key}{mistake.problem}"))
            if mistake.expected:
                lines.append(printable(f"        expected: {mistake.expected}"))
    return "\n".join([*lines, "", "All options: clarion check-config --reference"])


def summary(loaded: config.Loaded) -> Iterator[str]:
    """What is in force: where the server will be, who gets in, and what was set where."""
    c = loaded.config
    yield "The configuration is good."
    yield ""
    yield from _aligned(
        [
            ("clients", f"{_place(c.host, c.port)}  {_who(c)}"),
            ("backends", f"{_place(c.api_host, c.api_port)}  {_backends(c)}"),
        ]
    )
    yield ""
    if not loaded.sources:
        yield "Everything has its default."
        return
    yield "Set, where it is not the default:"
    yield ""
    values = _values(c)
    rows = [(key, values[key], f"({source})") for key, source in sorted(loaded.sources.items())]
    yield from _aligned(rows)


def _place(host: str, port: int) -> str:
    address = f"[{host}]" if ":" in host else host
    return f"{address}, any free port" if port == 0 else f"{address}:{port}"


def _who(c: config.Config) -> str:
    ways = ["anybody"] if c.auth.anonymous else []
    keys = bool(c.auth.secret) + len(c.auth.keys)
    if keys:
        ways.append(f"tokens signed with {'1 key' if keys == 1 else f'one of {keys} keys'}")
    ways += [f"tokens signed with keys of {x}" for x in (c.auth.jwks_file, c.auth.jwks_url) if x]
    return "; ".join(ways) or "nobody"


def _backends(c: config.Config) -> str:
    return f"with one of {len(c.api_keys)} API keys" if c.api_keys else "without a key"


def _values(c: config.Config) -> dict[str, str]:
    """Every option's value as it may be shown, by its key path."""
    shown: dict[str, str] = {}
    tables: list[tuple[str, type, object]] = [("", config.Config, c)]
    tables += [(f"auth.keys[{i}]", KeyOptions, key) for i, key in enumerate(c.auth.keys)]
    for name, namespace in c.namespaces.items():
        path = join("namespaces", name)
        tables.append((path, Namespace, namespace))
        for i, step in enumerate(namespace.pipeline):
            tables.append((f"{path}.pipeline[{i}]", type(step), step))
            shown[f"{path}.pipeline[{i}].step"] = plain(step.step)
    for prefix, kind, table in tables:
        for option in catalogue(kind, prefix):
            value = table
            for name in option.key[len(prefix) :].strip(".").split("."):
                value = getattr(value, name)
            shown[option.key] = HIDDEN if option.facts.secret and value else plain(value)
    return shown


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield printable(("  " + "  ".join(cells)).rstrip())


def reference() -> str:
    """All options as Markdown: a table for each table of the file."""
    lines: list[str] = []
    options = list(catalogue(config.Config))
    for table, group in itertools.groupby(options, lambda option: option.key.rpartition(".")[0]):
        lines += _section(f"`[{table}]`" if table else "At the top", list(group))
        if table == "auth":
            lines += _section("`[[auth.keys]]`", list(catalogue(KeyOptions)), outside=False)
    lines += _section("`[namespaces.NAME]`", list(catalogue(Namespace)), outside=False)
    for name, kind in STEPS.items():
        title = f'`[[namespaces.NAME.pipeline]]` with `step = "{name}"`'
        lines += _section(title, list(catalogue(kind)), outside=False)
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(title: str, options: Sequence[Option], outside: bool = True) -> Iterator[str]:
    """`outside`: whether the environment and flags have these options too."""
    yield f"### {title}"
    yield ""
    yield "| option | what it is | values | default | why |" + " elsewhere |" * outside
    yield "|---" * (5 + outside) + "|"
    for option in options:
        cells = [
            f"`{option.key.rpartition('.')[2]}`",
            option.facts.text,
            option.expected,
            f"`{plain(option.default)}`",
            option.facts.why,
        ]
        if outside:
            flag = f" `{option.flag}`" if option.facts.flag else ""
            cells.append(f"`{option.variable}`{flag}")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""

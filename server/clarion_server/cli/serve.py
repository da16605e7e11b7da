"""`clarion serve`: starts a server."""

from __future__ import annotations

import argparse
import sys

from clarion_server import config
from clarion_server.cli.check import check_imports
from clarion_server.option_values import Option, catalogue, plain


def arguments(parser: argparse.ArgumentParser) -> None:
    """Every option that has a flag. Values stay texts: the configuration checks them."""
    add_config(parser)
    for option in catalogue(config.Config):
        if option.facts.flag:
            _add(parser, option)
    parser.epilog = (
        "Flags go before the environment (CLARION_PORT, ...), that before the file, that before\n"
        "the defaults. Without a file the server is one for development: open to everyone on\n"
        "this machine, and to nobody else. `clarion check-config --reference` lists all options."
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="the configuration, TOML (also CLARION_CONFIG)"
    )


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    text = f"{option.facts.text} ({_default(option)})"
    if option.kind is bool:
        action = argparse.BooleanOptionalAction
        parser.add_argument(option.flag, dest=option.key, action=action, default=None, help=text)
    elif option.is_list:
        parser.add_argument(
            option.flag, dest=option.key, action="append", metavar="URL", help=f"{text}; repeatable"
        )
    else:
        metavar = {int: "N", str: "ADDRESS"}.get(option.kind, "WORD")
        parser.add_argument(option.flag, dest=option.key, metavar=metavar, help=text)


def _default(option: Option) -> str:
    if option.key == "development":
        return "default: yes without a configuration, no with one"
    if option.kind is bool:
        return "default: no"
    return f"default: {plain(option.default)}" if option.default else "default: none"


def run(options: argparse.Namespace) -> int:
    flags = {
        option.key: getattr(options, option.key)
        for option in catalogue(config.Config)
        if option.facts.flag
    }
    loaded = config.read(options.config, flags=flags)
    check_imports(loaded)
    for warning in loaded.warnings:
        print(f"clarion: warning: {warning}", file=sys.stderr)
    # The server's modules take a while to load; what is wrong with a configuration shows at once.
    from clarion_server.launch import serve

    return serve(loaded.config)

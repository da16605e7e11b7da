"""The command line: `clarion COMMAND ...`. Each command has a file of its own, `cli_*.py`.

Exit status: 0 done, 1 it did not work, 2 the command line is wrong, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clarion_server import __version__, config
from clarion_server.cli import check as check
from clarion_server.cli import doctor as doctor
from clarion_server.cli import pipeline as pipeline
from clarion_server.cli import publish as publish
from clarion_server.cli import serve as serve
from clarion_server.cli import subscribe as subscribe
from clarion_server.cli import token as token
from clarion_server.cli import version as version
from clarion_server.cli.check import explain
from clarion_server.cli.terminal import Failure

INTERRUPTED = 128 + 2  # what a shell makes of SIGINT


class Command(NamedTuple):
    """arguments: adds them to the command's parser. run: does it, and returns the exit status."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "serve": Command("start a server", serve.arguments, serve.run),
    "check-config": Command("say what is wrong, or what is in force", check.arguments, check.run),
    "doctor": Command("check the machine and Redis", doctor.arguments, doctor.run),
    "pipeline": Command("try a namespace's steps on a file", pipeline.arguments, pipeline.run),
    "token": Command("make a token for a client", token.arguments, token.run),
    "publish": Command("publish to a topic", publish.arguments, publish.run),
    "subscribe": Command("watch topics in the terminal", subscribe.arguments, subscribe.run),
    "version": Command("versions of Clarion and what it stands on", version.arguments, version.run),
}
DEMO = "demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(given)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.status
    except config.ConfigError as error:
        print(explain(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `clarion subscribe ... | head`: nobody reads on. Python would complain once more when it
        # flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: list[str]) -> int:
    if argv[:1] == [DEMO]:
        # Its parser is its own, and so are its data: loaded only when asked for.
        from clarion_server import demo

        environ = config.environment()
        api, key = environ.get(publish.URL_VARIABLE), environ.get(publish.KEY_VARIABLE, "")
        return demo.main(argv[1:], api=api or publish.DEFAULT_URL, key=key)
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    return COMMANDS[options.command].run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clarion",
        usage="clarion COMMAND ...",
        description=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"clarion {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS)
    for name, command in COMMANDS.items():
        command.arguments(
            commands.add_parser(
                name,
                prog=f"clarion {name}",
                description=f"{command.summary.capitalize()}.",
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
        )
    commands.add_parser(DEMO)  # for the list in the error about a command that there is not
    return parser


def _overview() -> str:
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    summaries[DEMO] = "replay real flights into a running server"
    lines = [f"  {name:<14}{summary}" for name, summary in summaries.items()]
    return "\n".join(
        [
            "A real-time notification server: WebSocket and SSE out, HTTP in.",
            "",
            *lines,
            "",
            "To begin: clarion serve. More about each: clarion COMMAND --help",
        ]
    )

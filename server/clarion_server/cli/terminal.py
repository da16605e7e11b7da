"""What commands say to people: failures in two lines, colours where they are seen, safe text."""

from __future__ import annotations

from typing import TextIO

from clarion_server import config


class Failure(Exception):
    """A command cannot do what it was asked. One line says what happened, one what to do.

    status: the exit status; 2 is for a command line that is wrong, as argparse has it.
    """

    def __init__(self, what: str, advice: str = "", status: int = 1) -> None:
        super().__init__(what)
        self.advice = advice
        self.status = status

    def __str__(self) -> str:
        what = f"clarion: {printable(self.args[0])}"
        return f"{what}\n{self.advice}" if self.advice else what


class Paint:
    """Colours for a stream; none when it is no terminal, or NO_COLOR is set (no-color.org)."""

    def __init__(self, stream: TextIO) -> None:
        self._on = stream.isatty() and not config.environment().get("NO_COLOR")

    def __call__(self, text: str, *styles: int) -> str:
        """`text` in SGR `styles` (ECMA-48, section 8.3.117)."""
        if not self._on:
            return text
        return f"\x1b[{';'.join(map(str, styles))}m{text}\x1b[0m"


BOLD, DIM, RED, GREEN, YELLOW, CYAN = 1, 2, 31, 32, 33, 36


def put(stream: TextIO, line: str) -> None:
    """Writes a line at once and in one piece: two programs may share a terminal or a pipe."""
    stream.write(f"{line}\n")
    stream.flush()


def printable(text: str) -> str:
    r"""`text` without anything that a terminal would obey: such characters become `\u....`.

    In JSON such an escape means the character itself, so that data stays what it was.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))

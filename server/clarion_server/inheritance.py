"""What a worker gets from the process that started it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

from clarion_server.board import Seat


class Inheritance(NamedTuple):
    """Made by the parent, used by its child after the fork.

    instance: names the server that all the workers are; the same for all of them.
    public, private: listening sockets, which all workers have in common.
    folder: for sockets between the workers; nobody else may enter it.
    lifeline: a byte written to it says that the worker serves; its end is the parent's.
    """

    seat: Seat
    instance: str
    public: socket.socket
    private: socket.socket
    folder: Path
    lifeline: socket.socket

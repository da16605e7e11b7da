"""Other servers that can do the same, each in a file: how it is installed, started, spoken with.

`PEERS` has them all, by the name that `python -m loadtest run --against` takes.
"""

from __future__ import annotations

from loadtest.peers.bare import CLoop, PythonLoop
from loadtest.peers.broadcast import Broadcast
from loadtest.peers.fastapi import FastAPI
from loadtest.peers.mosquitto import Mosquitto
from loadtest.peers.nats import Nats
from loadtest.peers.nchan import Nchan
from loadtest.peers.peer import Peer
from loadtest.peers.python_socketio import PythonSocketIO
from loadtest.peers.socketio import SocketIO
from loadtest.peers.ws import Ws

PEERS: dict[str, type[Peer]] = {
    "c": CLoop,
    "python": PythonLoop,
    "nats": Nats,
    "nchan": Nchan,
    "ws": Ws,
    "socket.io": SocketIO,
    "mosquitto": Mosquitto,
    "websockets": Broadcast,
    "python-socketio": PythonSocketIO,
    "fastapi": FastAPI,
}

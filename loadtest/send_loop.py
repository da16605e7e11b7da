"""send_loop.c in Python: what an interpreter alone adds to a bare loop of sends.

usage: python send_loop.py CLIENTS FRAME_FILE      the same protocol as the C program's
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path


def main() -> None:
    clients, frame = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    sends = []
    for _ in range(clients):
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sends.append(connection.sendall)
    print("ready", flush=True)
    for line in sys.stdin:
        joined = frame * int(line)
        for send in sends:
            send(joined)


if __name__ == "__main__":
    main()

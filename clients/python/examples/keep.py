"""Copies topics into a database, each message exactly once:  python keep.py orders.db orders:42

The position of a topic is stored in the same transaction as the message that it belongs to. So
whatever is ended at whatever moment (the network, the server, this program), the next start goes on
behind the last message that is in the database, as far as the topic's history reaches; and where it
does not, the table `gaps` says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from contextlib import suppress

from clarion_client import Client, Lost, Message, Position

URL = os.environ.get("CLARION_URL", "ws://127.0.0.1:8000")

TABLES = """
    CREATE TABLE IF NOT EXISTS messages (topic TEXT, offset INTEGER, ts INTEGER, data TEXT);
    CREATE TABLE IF NOT EXISTS gaps (topic TEXT, reason TEXT);
    CREATE TABLE IF NOT EXISTS positions (topic TEXT PRIMARY KEY, epoch TEXT, offset INTEGER);
"""


class Keeper:
    """The database."""

    def __init__(self, file: str) -> None:
        self._database = sqlite3.connect(file)
        self._database.executescript(TABLES)

    def positions(self) -> dict[str, Position]:
        rows = self._database.execute("SELECT topic, epoch, offset FROM positions")
        return {topic: Position(epoch, offset) for topic, epoch, offset in rows}

    def message(self, message: Message) -> None:
        with self._database:  # a transaction
            row = (message.topic, message.offset, message.ts, json.dumps(message.data))
            self._database.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", row)
            self._keep(message.topic, message.position)

    def gap(self, lost: Lost) -> None:
        with self._database:
            self._database.execute("INSERT INTO gaps VALUES (?, ?)", (lost.topic, lost.reason))
            self._keep(lost.topic, lost.position)

    def _keep(self, topic: str, position: Position | None) -> None:
        if position is not None:
            row = (topic, *position)
            self._database.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", row)


async def main(file: str, *topics: str) -> None:
    keeper = Keeper(file)
    known = {topic: at for topic, at in keeper.positions().items() if topic in topics}
    async with Client(URL) as client:
        # A topic that is new here begins with what its history has.
        subscription = client.subscribe(*topics, since=known, last=1000, on_lost=keeper.gap)
        async for message in subscription:
            keeper.message(message)
            print(f"{message.topic} {message.offset}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("python keep.py FILE TOPIC...")
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))

"""A chat in the terminal:  python chat.py lobby Ada

Every line that you type is published; every line that anybody typed is shown, the newest ten from
before you came first. The server must let clients publish to `chat:...`; in development it does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress

from clarion_client import Client, Lost, Phase, State

URL = os.environ.get("CLARION_URL", "ws://127.0.0.1:8000")


def say(text: str) -> None:
    print(text, flush=True)


def on_state(state: State) -> None:
    if state.phase is Phase.BACKING_OFF:
        say(f"-- {state.why}; again in {state.retry_s:.1f} s")
    elif state.phase is Phase.CONNECTED:
        say("-- connected")


def on_lost(lost: Lost) -> None:
    say(f"-- some lines are gone: {lost.reason}")


def typed_lines() -> asyncio.Queue[str]:
    """What is typed, line by line; "" at the end. Reading blocks, so a thread does it."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    return lines


async def main(room: str, name: str) -> None:
    topic = f"chat:{room}"
    async with Client(URL, on_state=on_state) as client:
        client.listen(
            topic,
            last=10,
            on_message=lambda message: say(f"{message.data['name']}: {message.data['text']}"),
            on_lost=on_lost,
        )
        lines = typed_lines()
        while line := await lines.get():
            if text := line.strip():
                await client.publish(topic, {"name": name, "text": text})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python chat.py ROOM NAME")
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))

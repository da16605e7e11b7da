"""`clarion serve`: runs one worker in this process, or a parent and several in their own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress

import uvloop

from clarion_server import descriptors
from clarion_server.app import Worker, ending_seconds
from clarion_server.auth.keys import KeysError
from clarion_server.greeting import greeting
from clarion_server.inheritance import Inheritance
from clarion_server.options import Config
from clarion_server.supervisor import Supervisor

log = logging.getLogger(__name__)


def serve(config: Config) -> int:
    """Runs a server until SIGINT or SIGTERM; returns the exit code."""
    _log(config)
    descriptors.raise_limit()
    if config.workers == 1:
        return uvloop.run(_alone(config))
    supervisor = Supervisor(
        config,
        work=lambda inherited: _work(config, inherited),
        greet=lambda port, api_port: print(greeting(config, port, api_port), flush=True),
        ending_s=ending_seconds(config),
    )
    try:
        return supervisor.run()
    except OSError as error:
        return _cannot_listen(error)


async def _alone(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _interrupt, stop)
    worker = Worker(config)
    if (code := await _started(worker)) is not None:
        return code
    try:
        print(greeting(config, worker.port, worker.api_port), flush=True)
        await stop.wait()
        await worker.drain()
    finally:
        await worker.close()
    return 0


def _interrupt(stop: asyncio.Event) -> None:
    """Ctrl-C: once for a graceful end, a second time for one at once."""
    if stop.is_set():
        os._exit(128 + signal.SIGINT)
    stop.set()


def _work(config: Config, inherited: Inheritance) -> int:
    """One of several workers, in its own process."""
    _log(config, f"worker {inherited.seat.number} ")
    return uvloop.run(_inheriting(config, inherited))


async def _inheriting(config: Config, inherited: Inheritance) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    worker = Worker(config, inherited)

    def orphaned() -> None:
        loop.remove_reader(inherited.lifeline)
        log.error("the parent is gone, and so this worker ends")
        # Whoever starts the server anew needs the ports now.
        worker.leave()
        stop.set()

    loop.add_reader(inherited.lifeline, orphaned)
    if (code := await _started(worker)) is not None:
        return code
    try:
        log.info("serves")
        with suppress(OSError):
            inherited.lifeline.send(b".")
        await stop.wait()
        await worker.drain()
    finally:
        await worker.close()
        with suppress(OSError):
            inherited.folder.rmdir()  # the last one does what the parent would have done
    return 0


async def _started(worker: Worker) -> int | None:
    """Starts `worker`; returns an exit code when that fails, having said why."""
    try:
        await worker.start()
    except OSError as error:
        return _cannot_listen(error)
    except KeysError as error:
        print(f"clarion: {error}", file=sys.stderr)
        print("Check the keys under [auth] in the configuration.", file=sys.stderr)
        return 1
    return None


def _cannot_listen(error: OSError) -> int:
    print(f"clarion: cannot listen: {error}", file=sys.stderr)
    print("Choose other ports with --port and --api-port, or end what uses them.", file=sys.stderr)
    return 1


def _log(config: Config, who: str = "") -> None:
    logging.basicConfig(
        level=config.log_level.upper(),
        format=f"%(asctime)s %(levelname)-7s {who}%(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )

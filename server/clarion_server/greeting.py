"""What `clarion serve` says once it listens: where it is, and what to try."""

from __future__ import annotations

from clarion_fanout import redis_address
from clarion_server import __version__
from clarion_server.options import Config


def greeting(config: Config, port: int, api_port: int) -> str:
    """A screenful for people: addresses, and commands that work as they stand."""
    host, api_host = _in_url(config.host), _in_url(config.api_host)
    socket = f"ws://{host}:{port}/ws"
    api = f"http://{api_host}:{api_port}"
    workers = f", {config.workers} workers" if config.workers > 1 else ""
    lines = [
        f"Clarion {__version__}, {_broker(config)}{workers}",
        "",
        f"  clients   {socket}",
        f"            http://{host}:{port}/sse?topic=...",
        f"  backends  {api}/v1/publish   (OpenAPI: {api}/v1/openapi.json)",
        "",
    ]
    if config.development:
        lines += [
            "This is a development server: loopback only, anybody may subscribe and publish.",
            "",
            "Try, in other terminals:",
            "",
            "  a live tail         .venv/bin/clarion subscribe news",
            f"  any WebSocket tool  .venv/bin/python -m websockets {socket}",
            '                      then type  {"op":"subscribe","topic":"news"}',
            f"  server-sent events  curl -N '{'http'}://{host}:{port}/sse?topic=news'",
            f"  publish             curl {api}/v1/publish -H 'Content-Type: application/json' \\",
            """                        -d '{"topic":"news","data":{"text":"hello"}}'""",
            f"  see it              open {api}/ in a browser",
            "  real flights        make demo, and watch them on that page",
            "",
            "Ctrl-C stops it.",
        ]
        if port != 8000 or api_port != 8001:
            lines = [_with_ports(line, socket, api) for line in lines]
    return "\n".join(lines)


def _broker(config: Config) -> str:
    if not config.redis:
        return "embedded broker"
    names = [redis_address.parse(url).name for url in config.redis]
    if len(names) == 1:
        return f"Redis at {names[0]}"
    return f"{len(names)} Redis shards ({', '.join(names)})"


def _with_ports(line: str, socket: str, api: str) -> str:
    """The same line where the defaults of the commands do not fit."""
    line = line.replace("clarion subscribe news", f"clarion subscribe --url {socket} news")
    return line.replace("make demo,", f'make demo ARGS="--api {api}",')


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host

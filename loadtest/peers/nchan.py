"""nchan, the pub/sub module for nginx: subscribers over WebSocket, publications over HTTP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from loadtest.peers import shelf
from loadtest.peers.peer import Peer
from loadtest.play.desk import Answer, Desk, Message, http_answer, http_post
from loadtest.play.stamp import topic_name
from loadtest.play.talk import Client, Greeting, Talk, WebSocket, upgrade, upgraded

PACKAGES = ("nginx", "libnginx-mod-nchan")
CONFIG = """
load_module %(modules)s/ngx_nchan_module.so;
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
error_log stderr error;
pid %(folder)s/pid;
events { worker_connections 19000; }
http {
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path %(folder)s;
  proxy_temp_path %(folder)s;
  fastcgi_temp_path %(folder)s;
  uwsgi_temp_path %(folder)s;
  scgi_temp_path %(folder)s;
  nchan_message_buffer_length 100;
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    location ~ ^/sub/(\\w+)$ {
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }
  }
  server {
    listen 127.0.0.1:%(back)d;
    location ~ ^/pub/(\\w+)$ { nchan_publisher; nchan_channel_id $1; }
  }
}
"""

PRIVATE = 'mount -t tmpfs none /var/lib && mkdir /var/lib/nginx && exec "$0" "$@"'
"""The module wants a folder there, whatever is configured. It gets one that nobody else sees."""


class NchanTalk(WebSocket):
    """The topic is in the path; who is connected is subscribed."""

    def arrive(self, client: Client, port: int) -> Greeting:
        (topic,) = client.topics
        yield from upgraded(upgrade(port, f"/sub/{topic_name(topic)}"))


class NchanDesk:
    """A request for each publication, those that are due together in one write."""

    answers = True

    def __init__(self, port: int) -> None:
        self._port = port

    def opening(self) -> bytes:
        return b""

    def request(self, messages: Sequence[Message], size: int) -> bytes:
        return b"".join(
            http_post(self._port, f"/pub/{topic_name(each.topic)}", each.data(size).encode())
            for each in messages
        )

    def answer(self, heard: bytes, count: int) -> Answer | None:
        total = 0
        for _ in range(count):
            one = http_answer(heard[total:])
            if one is None:
                return None
            status, body, size = one
            total += size
            if status not in (201, 202):
                return Answer(total, error=f"{status} {body[:100]!r}")
        return Answer(total)


class Nchan(Peer):
    name = "nchan"
    setting = "one nginx worker, keeps 100 messages, as Clarion's history does"

    def install(self) -> str:
        folder = shelf.debian("nchan", PACKAGES)
        versions = [shelf.debian_version(folder, package) for package in PACKAGES]
        return ", ".join(versions)

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        root = shelf.debian("nchan", PACKAGES)
        modules = root / "usr/lib/nginx/modules"
        config = folder / "nginx.conf"
        values = {"modules": modules, "folder": folder, "port": port, "back": back}
        config.write_text(CONFIG % values)
        nginx = [str(root / "usr/sbin/nginx"), "-p", str(folder), "-c", str(config)]
        alone = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
        return [*alone, "sh", "-c", PRIVATE, *nginx]

    def talk(self, place: int) -> Talk:
        return NchanTalk()

    def desk(self) -> tuple[Desk, tuple[str, int]]:
        return NchanDesk(self._back), ("127.0.0.1", self._back)

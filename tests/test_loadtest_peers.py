"""What the generator says to other servers, and how it reads what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from loadtest.peers import shelf
from loadtest.peers.mosquitto import CONNECT, MqttDesk, MqttTalk, packet
from loadtest.peers.nats import NatsDesk, NatsTalk
from loadtest.peers.nchan import NchanDesk
from loadtest.peers.shelf import CannotInstall
from loadtest.peers.socketio import SocketIOTalk
from loadtest.play.desk import Lines, Message
from loadtest.play.stamp import FIELDS, payload
from loadtest.play.talk import Client, Talk

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
MESSAGES = [Message(0, 1, 10), Message(7, 2, 20)]


def conversation(talk: Talk, heard: list[bytes]) -> list[bytes]:
    """What a client says at each turn, until it is in place."""
    greeting = talk.arrive(Client(0, talk, [3], sampled=True), port=80)
    said = [next(greeting), *map(greeting.send, heard[:-1])]
    with pytest.raises(StopIteration):
        greeting.send(heard[-1])
    return said


def test_socket_io_opens_connects_and_subscribes() -> None:
    heard = [SWITCHING, b'0{"sid":"a"}', b'40{"sid":"b"}', b'42["subscribed","load3"]']
    said = conversation(SocketIOTalk(), heard)
    assert b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1" in said[0]
    assert said[1] == b""
    assert said[2].endswith(b"40")
    assert said[3].endswith(b'42["subscribe", "load3"]')


def test_mqtt_connects_and_subscribes() -> None:
    said = conversation(MqttTalk(), [SWITCHING, b"\x20\x02\0\0", b"\x90\x03\0\1\0"])
    assert b"Sec-WebSocket-Protocol: mqtt" in said[0]
    assert said[1].endswith(CONNECT)
    assert said[2].endswith(b"\x82\x0a\0\1\0\x05load3\0")


def test_nats_subscribes_once_the_server_has_spoken() -> None:
    said = conversation(NatsTalk(), [b"INFO {}", b"PONG"])
    assert said[0] == b""
    assert said[1].endswith(b"SUB load3 1\r\nPING\r\n")


def test_nats_is_cut_behind_whole_lines_and_pings_are_answered() -> None:
    talk = NatsTalk()
    one = f"MSG load3 1 80\r\n{payload(3, 1, 1, 80)}\r\n".encode()
    assert talk.cut(bytearray(one + one + b"MSG lo"), len(one) * 2 + 6) == (len(one) * 2, 2, b"")
    end, pieces, reply = talk.cut(bytearray(b"PING\r\n" + one), len(one) + 6)
    assert (end, reply) == (len(one) + 6, b"PONG\r\n")
    assert pieces != 1  # it is gone through line by line
    aside = talk.aside(Client(0, talk, [3], sampled=True), b"-ERR 'Slow Consumer'")
    assert aside is not None
    assert aside.over == "-ERR 'Slow Consumer'"


@pytest.mark.parametrize(("size", "length"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01")])
def test_an_mqtt_packet_says_its_length_in_groups_of_seven_bits(size: int, length: bytes) -> None:
    assert packet(0x30, b"x" * size) == b"\x30" + length + b"x" * size


@pytest.mark.parametrize("desk", [Lines(), NatsDesk(), MqttDesk(), NchanDesk(80)])
def test_every_desk_carries_the_stamps_in_order(desk: Lines | NatsDesk | NchanDesk) -> None:
    request = desk.request(MESSAGES, 80)
    stamps = [tuple(map(int, each)) for each in FIELDS.findall(request)]
    assert stamps == [tuple(message) for message in MESSAGES]
    assert b"load7" in request


def test_nchan_answers_each_of_several_requests() -> None:
    heard = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
    assert NchanDesk(80).answer(heard + heard[:-1], 2) is None
    assert NchanDesk(80).answer(heard + heard, 2) == (len(heard) * 2, (), "")
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    answer = NchanDesk(80).answer(refused, 1)
    assert answer is not None
    assert answer.error.startswith("413")


def test_what_cannot_be_installed_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CannotInstall, match="Invalid requirement"):
        shelf.python("bad", ["no such thing!"], tmp_path)
    assert list(tmp_path.iterdir()) == []

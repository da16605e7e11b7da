"""The command line as people and scripts meet it: what it prints, where, and its exit status."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clarion_server.cli import COMMANDS, main
from clarion_server.cli.terminal import printable
from clarion_server.option_values import catalogue
from clarion_server.options import Config, KeyOptions, Namespace
from support.wire_server import Refusal, Script, Talk, api_server, wire_server

SECRET = "0123456789abcdef0123456789abcdef"
THIS_FILE = str(Path(__file__))
ENVIRONMENT = {name: text for name, text in os.environ.items() if not name.startswith("CLARION_")}

Capture = pytest.CaptureFixture[str]


def command(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with pipes."""
    options.setdefault("stdin", subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "-m", "clarion_server", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        **options,
    )


async def in_thread(*argv: str) -> int:
    """The command next to the test's own event loop, within a deadline."""
    async with asyncio.timeout(20):
        return await asyncio.to_thread(main, argv)


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def good_file(tmp_path: Path) -> Path:
    file = tmp_path / "clarion.toml"
    file.write_text(
        f'port = 9000\napi_keys = ["{SECRET}"]\n'
        f'[auth]\nsecret = "{SECRET}"\nissuer = "https://issuer.example"\naudience = "clarion"\n'
        "[namespaces.orders]\nhistory_size = 10\n"
    )
    file.chmod(0o600)
    return file


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a server of their own configured."""
    for name in os.environ.keys() - ENVIRONMENT.keys():
        monkeypatch.delenv(name)


# The command line itself


def test_without_a_command_it_says_which_there_are(capsys: Capture) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for name in (*COMMANDS, "demo"):
        assert f"\n  {name} " in captured.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: clarion {name}")


def test_an_unknown_command_is_a_wrong_command_line(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sevre"])
    assert ended.value.code == 2
    assert "sevre" in capsys.readouterr().err


def test_version_names_what_a_bug_report_needs(capsys: Capture) -> None:
    assert main(["version"]) == 0
    out = capsys.readouterr().out
    for name in ("clarion", "CPython", "websockets", "uvloop", "redis"):
        assert re.search(rf"^{name} +[0-9]", out, re.MULTILINE)


def test_demo_has_a_command_line_of_its_own(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 0
    assert "usage: clarion demo" in capsys.readouterr().out


# serve and check-config


def test_serve_says_all_that_is_wrong_and_starts_nothing(capsys: Capture) -> None:
    assert main(["serve", "--port", "http", "--workers", "2"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("clarion: 2 mistakes in the configuration\n")
    assert (
        '\n  --port\n    port: is "http"\n        expected: a whole number, 0 to 65535\n' in error
    )
    assert "--workers needs Redis" in error


def test_serve_refuses_a_word_where_it_has_a_flag(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--prot", "1"])
    assert ended.value.code == 2
    assert "--prot" in capsys.readouterr().err


def test_check_config_shows_what_is_in_force_and_from_where(
    good_file: Path, capsys: Capture
) -> None:
    assert main(["check-config", str(good_file)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = {" ".join(line.split()) for line in captured.out.splitlines()}
    assert f"port 9000 ({good_file})" in lines
    assert f"auth.secret *** ({good_file})" in lines
    assert f"namespaces.orders.history_size 10 ({good_file})" in lines
    assert "clients 127.0.0.1:9000 tokens signed with 1 key" in lines
    assert "backends 127.0.0.1:8001 with one of 1 API keys" in lines
    assert SECRET not in captured.out


def test_check_config_without_a_file_shows_development(capsys: Capture) -> None:
    assert main(["check-config"]) == 0
    lines = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert "development true (no file)" in lines
    assert "auth.anonymous true (development)" in lines


def test_check_config_groups_the_mistakes_by_source(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "clarion.toml"
    file.write_text('port = "x"\nprefix = ""\n[limits]\nbatch = 0\n[auth]\nanonymous = true\n')
    assert main(["check-config", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("clarion: 4 mistakes in the configuration\n")
    assert captured.err.count(str(file)) == 1


def test_a_warning_is_no_mistake(good_file: Path, capsys: Capture) -> None:
    good_file.chmod(0o644)
    assert main(["check-config", str(good_file)]) == 0
    assert "warning: " in capsys.readouterr().err


def test_the_reference_covers_every_option(capsys: Capture) -> None:
    assert main(["check-config", "--reference"]) == 0
    out = capsys.readouterr().out
    for option in catalogue(Config):
        assert f"`{option.variable}`" in out
        assert f"| {option.facts.text.replace('|', chr(92) + '|')} |" in out
    for option in (*catalogue(KeyOptions), *catalogue(Namespace)):
        assert f"| `{option.key}` |" in out
    for table in re.split(r"^### .*\n\n", out, flags=re.MULTILINE)[1:]:
        rows = table.strip().splitlines()
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(columns) == 1, "a table has rows of different lengths"


# token


def claims_of(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.strip().split(".")
    decoded = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, claims)]
    return decoded[0], decoded[1]


def test_a_token_has_what_was_asked_and_what_is_configured(
    good_file: Path, capsys: Capture
) -> None:
    argv = ["token", "-c", str(good_file), "--sub", "42", "--ttl", "2h", "--subscribe", "a:*", "b"]
    assert main([*argv, "--publish", "c"]) == 0
    header, claims = claims_of(capsys.readouterr().out)
    assert header["alg"] == "HS256"
    assert claims["sub"] == "42"
    assert 7200 <= claims["exp"] - claims["iat"] <= 7201
    assert (claims["subscribe"], claims["publish"]) == (["a:*", "b"], ["c"])
    assert (claims["iss"], claims["aud"]) == ("https://issuer.example", "clarion")


def test_a_token_is_signed_with_a_key_file_when_one_is_named(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "key").write_text("x" * 64 + "\n")
    argv = ["token", "--sub", "a", "--key-file", str(tmp_path / "key")]
    assert main([*argv, "--algorithm", "HS512", "--kid", "k1"]) == 0
    header, _ = claims_of(capsys.readouterr().out)
    assert (header["alg"], header["kid"]) == ("HS512", "k1")


def test_without_a_key_no_token(capsys: Capture) -> None:
    assert main(["token", "--sub", "a"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("clarion: there is no secret to sign with\nSet auth.secret")


@pytest.mark.parametrize(
    "argv",
    [
        ["--key-file", "none"],
        ["--key-file", THIS_FILE, "--algorithm", "RS256"],
        ["--sub", "", "--key-file", THIS_FILE],
        ["--subscribe", "a b", "--key-file", THIS_FILE],
    ],
)
def test_a_token_that_would_be_refused_is_not_made(argv: list[str], capsys: Capture) -> None:
    assert main(["token", "--sub", "a", *argv]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("clarion: ")


@pytest.mark.parametrize("ttl", ["0", "1w", "-1", "h", "1.5h", "", "9" * 11])
def test_a_time_to_live_that_is_none_is_refused(ttl: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", "--sub", "a", f"--ttl={ttl}"])
    assert ended.value.code == 2
    assert "is not a time such as 90s" in capsys.readouterr().err


# publish


async def test_publish_hands_over_data_as_it_was_written(capsys: Capture) -> None:
    async with api_server((200, {"topic": "news", "epoch": "x8Qz", "offset": 7})) as api:
        argv = ("publish", "news", ' {"n": 1.0} ', "--api", api.url, "--key", "k", "--id", "i")
        assert await in_thread(*argv) == 0
    [(path, headers, body)] = api.requests
    assert path == "/v1/publish"
    assert headers["Authorization"] == "Bearer k"
    assert body == {"topic": "news", "data": {"n": 1.0}, "id": "i"}
    assert capsys.readouterr().out == "news  offset 7  epoch x8Qz\n"


async def test_publish_says_what_a_message_is_the_news_of() -> None:
    async with api_server((200, {"topic": "prices"})) as api:
        argv = ("publish", "prices", "17.25", "--conflation-key", "ACME", "--api", api.url)
        assert await in_thread(*argv) == 0
    assert api.requests[0][2]["key"] == "ACME"
    assert "Authorization" not in api.requests[0][1], "--key is the API's"


async def test_publish_without_history_has_no_offset_to_show(capsys: Capture) -> None:
    async with api_server((200, {"topic": "news"})) as api:
        assert await in_thread("publish", "--text", "news", "hello", "--api", api.url) == 0
    body = api.requests[0][2]
    assert (body["topic"], body["data"]) == ("news", "hello")
    assert len(body["id"]) > 20, "a random key, so that a request without an answer can be repeated"
    assert capsys.readouterr().out == "news  published  no history, no offset\n"


async def test_publish_says_that_an_idempotency_key_was_known(capsys: Capture) -> None:
    answer = {"topic": "news", "epoch": "x8Qz", "offset": 7, "duplicate": True}
    async with api_server((200, answer)) as api:
        assert await in_thread("publish", "news", "1", "--id", "i", "--api", api.url) == 0
    expected = "news  offset 7  epoch x8Qz, known already, not published again\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["news", "hello"], "is not JSON"),
        (["news", '{"a":}'], "is not JSON"),
        (["news", "NaN"], "is not JSON"),
        (["ne ws", "1"], "character ' ' at place 2"),
        (["", "1"], "must not be empty"),
        (["news", "1", "--api", "localhost:8001"], "is no address"),
        (["news", "1", "--key", "a b"], "visible ASCII"),
        (["news", "1", "--id", "x" * 129], "an idempotency key has 1 to 128 characters"),
        (["news", "1", "--conflation-key", "a b"], "'a b' is no conflation key: 1-128 characters"),
        (["news", "1", "--conflation-key", ""], "'' is no conflation key"),
    ],
)
def test_publish_refuses_what_cannot_be_published(
    argv: list[str], says: str, capsys: Capture
) -> None:
    assert main(["publish", *argv]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        (401, {"error": {"code": "unauthorized", "message": "no key"}}, "CLARION_API_KEY"),
        (400, {"error": {"code": "bad_data", "message": "too deep"}}, "too deep (400 bad_data)"),
        (503, {"error": {"code": "unavailable", "message": "no broker"}}, "Try again in a moment"),
        (502, "<h1>Bad Gateway</h1>", "the server answered with status 502\nTry again in a moment"),
        (307, "", "status 307, not as a Clarion server does\nIs --api the private port?"),
        (404, {"error": {"code": "not_found", "message": "no"}}, "Is --api the private port?"),
        (200, "hello", "is not that of a Clarion server\nIs --api the private port?"),
        (200, {"topic": 5}, "is not that of a Clarion server\nIs --api the private port?"),
    ],
)
async def test_publish_explains_an_answer_that_is_none(
    status: int, answer: object, says: str, capsys: Capture
) -> None:
    async with api_server((status, answer)) as api:
        assert await in_thread("publish", "news", "1", "--api", api.url) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err


async def test_publish_says_when_there_is_no_server(capsys: Capture) -> None:
    assert await in_thread("publish", "news", "1", "--api", f"http://127.0.0.1:{free_port()}") == 1
    error = capsys.readouterr().err
    assert "connection refused\nIs a server running? `clarion serve` starts one" in error


async def test_publish_sends_lines_of_standard_input_as_batches() -> None:
    first = {"results": [{"topic": "t", "offset": n, "epoch": "e"} for n in (1, 2)]}
    last = {"topic": "t", "offset": 3, "epoch": "e"}
    async with api_server((200, first), (200, last)) as api:
        options = ("--id", "run", "--conflation-key", "k", "--api", api.url)
        process = command("publish", "t", "-", *options)
        out, error = await asyncio.to_thread(process.communicate, b'1\n\n{"a":2}\r\n"3"', 20)
    assert (process.returncode, error) == (0, b"")
    assert [path for path, _, _ in api.requests] == ["/v1/publish/batch", "/v1/publish"]
    assert api.requests[0][2]["messages"] == [
        {"topic": "t", "data": 1, "id": "run-1", "key": "k"},
        {"topic": "t", "data": {"a": 2}, "id": "run-3", "key": "k"},
    ]
    # A last line without an end is known to be one only when the input ends.
    assert api.requests[1][2] == {"topic": "t", "data": "3", "id": "run-4", "key": "k"}
    assert [line.split()[2] for line in out.decode().splitlines()] == ["1", "2", "3"]


async def test_publish_does_what_it_can_of_standard_input() -> None:
    """A message that the server refuses does not stop the others; one that is no JSON does."""
    results = [{"topic": "t"}, {"error": {"code": "too_large", "message": "too large"}}]
    async with api_server((200, {"results": results})) as api:
        process = command("publish", "t", "-", "--api", api.url)
        out, error = await asyncio.to_thread(process.communicate, b"1\n2\n{\n4\n", 20)
    assert process.returncode == 2
    assert out.decode().splitlines() == [
        "t  published  no history, no offset",
        "not published: too large",
    ]
    assert b"line 3 is not JSON" in error


async def test_publish_sends_a_line_at_once_and_ends_quietly_on_interrupt() -> None:
    async with api_server((200, {"topic": "t"})) as api:
        process = command("publish", "t", "-", "--text", "--api", api.url)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        # It is published while standard input stays open.
        assert await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGINT)
        out, error = await asyncio.to_thread(process.communicate, None, 20)
    assert (process.returncode, out, error) == (130, b"", b"")


async def test_publish_goes_on_through_the_restart_of_a_server_that_was_there() -> None:
    done = {"topic": "t"}
    async with api_server((200, done), (503, ""), (200, done)) as api:
        process = command("publish", "t", "-", "--api", api.url)
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (b"1\n", b"2\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert await asyncio.to_thread(process.stdout.readline)
        out, error = await asyncio.to_thread(process.communicate, None, 20)
    assert (process.returncode, out, error) == (0, b"", b"")
    [_, second, third] = [body for _, _, body in api.requests]
    assert second == third, "under the same key: it is published once"


async def test_publish_of_standard_input_ends_where_there_is_no_server() -> None:
    process = command("publish", "t", "-", "--api", f"http://127.0.0.1:{free_port()}")
    out, error = await asyncio.to_thread(process.communicate, b"1\n2\n", 20)
    assert (process.returncode, out) == (1, b"")
    assert b"connection refused\nIs a server running?" in error


# subscribe


async def welcome(talk: Talk, **fields: object) -> dict[str, Any]:
    """Welcomes a client. Returns the one command with which it asks for all its topics."""
    await talk.says("welcome", client="c-1", ping_ms=25000, **fields)
    return await talk.hears()


async def granted(talk: Talk, topic: str, **fields: object) -> None:
    """Welcomes a client, and grants its only topic."""
    asked = await welcome(talk)
    await talk.says("subscribed", id=asked["id"], topic=topic, **fields)


async def tail(*scripts: Script | Refusal, argv: tuple[str, ...] = ("a:1",)) -> int:
    """`clarion subscribe` against a server that follows `scripts`. The last one has to end it."""
    async with wire_server(*scripts) as url:
        return await in_thread("subscribe", *argv, "--url", url)


async def test_subscribe_shows_a_line_for_each_message(capsys: Capture) -> None:
    async def script(talk: Talk) -> None:
        assert talk.headers["Sec-WebSocket-Protocol"] == "clarion.v1"
        assert "Authorization" not in talk.headers
        asked = await welcome(talk)
        assert asked["topics"] == [{"topic": "a:1", "last": 2}, {"topic": "longer", "last": 2}]
        await talk.says("subscribed", id=asked["id"], topic="a:1", epoch="e", offset=9)
        await talk.says("subscribed", id=asked["id"], topic="longer")
        await talk.says_raw('{"op":"message","topic":"a:1","offset":9,"ts":0,"data":{"n": 1.0}}')
        await talk.says("message", topic="longer", ts=1, data="hällo\x9b31m")
        await talk.closes(4502, "bye")

    assert await tail(script, argv=("a:1", "longer", "--last", "2")) == 1
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    # The date as it is not today's, and local: a day earlier in the Americas.
    date = "19(70-01-01|69-12-31)"
    assert re.fullmatch(date + r' ..:..:..\.000  a:1          9  {"n": 1\.0}', first)
    assert second.endswith(r'.001  longer       -  "h\u00e4llo\u009b31m"')
    assert "-- a:1: subscribed at offset 9, epoch e\n" in captured.err
    assert "-- longer: subscribed (no history)\n" in captured.err
    assert captured.err.splitlines()[-2] == "clarion: the server closed the connection: bye (4502)"
    assert "\x1b" not in captured.out + captured.err, "colours are for terminals"


async def test_subscribe_resumes_where_it_was_when_the_connection_is_lost(capsys: Capture) -> None:
    async def first(talk: Talk) -> None:
        await granted(talk, "a:1", epoch="e", offset=3)
        await talk.says("message", topic="a:1", offset=4, ts=1, data=4)
        await talk.breaks()

    async def second(talk: Talk) -> None:
        asked = await welcome(talk)
        assert asked["topics"] == [{"topic": "a:1", "since": {"epoch": "e", "offset": 4}}]
        answer = {"id": asked["id"], "topic": "a:1", "recovered": True}
        await talk.says("subscribed", **answer, epoch="e", offset=6)
        await talk.says("message", topic="a:1", offset=5, ts=1, data=5)
        await talk.says("goodbye", code=4000, reason="draining", retry_ms=100)
        await talk.closes(4000, "draining")

    async def third(talk: Talk) -> None:
        """Recovery was cut short: it goes on from what came, not from what was promised."""
        [wish] = (await welcome(talk))["topics"]
        assert wish["since"] == {"epoch": "e", "offset": 5}
        await talk.closes(4500, "enough")

    assert await tail(first, second, third) == 1
    captured = capsys.readouterr()
    assert [line.split()[-1] for line in captured.out.splitlines()] == ["4", "5"]
    assert "nothing lost (2 missed)" in captured.err
    assert "draining (4000); again in 0.1 s" in captured.err


async def test_subscribe_comes_back_to_a_server_that_sheds_load(capsys: Capture) -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        await talk.closes(4503, "limit reached")

    assert await tail(Refusal(503, {"Retry-After": "0"}), Refusal(429), script) == 1
    error = capsys.readouterr().err
    assert re.search(r"refused with status 503: refused by the test; again in \d\.\d s\n", error)
    assert "refused with status 429" in error


async def test_subscribe_does_not_come_back_when_refused_for_good(capsys: Capture) -> None:
    assert await tail(Refusal(403)) == 1
    error = capsys.readouterr().err
    assert "refused with status 403: refused by the test\nIs it the public port's /ws?" in error


async def test_subscribe_sends_its_token_and_says_what_is_wrong_with_it(capsys: Capture) -> None:
    async def script(talk: Talk) -> None:
        assert talk.headers["Authorization"] == "Bearer abc"
        await talk.says("goodbye", code=4501, reason="the token's signature is wrong")
        await talk.closes(4501, "the token's signature is wrong")

    assert await tail(script, argv=("a:1", "--token", "abc")) == 1
    error = capsys.readouterr().err
    assert "signature is wrong (4501)\nPass a token with --token or CLARION_TOKEN" in error


async def test_subscribe_ends_when_its_token_does(capsys: Capture) -> None:
    """The same token would be refused for ever."""

    async def script(talk: Talk) -> None:
        await welcome(talk, user="42")
        await talk.closes(4002, "token expired")

    assert await tail(script, argv=("a:1", "--token", "abc")) == 1
    captured = capsys.readouterr()
    assert "as 42\n" in captured.err
    assert "clarion: the token has expired\n" in captured.err


async def test_subscribe_goes_on_without_a_topic_that_is_refused(capsys: Capture) -> None:
    async def script(talk: Talk) -> None:
        id = (await welcome(talk))["id"]
        await talk.says("error", id=id, code="forbidden", topic="a:1", message="not yours")
        await talk.says("error", id=id, code="unavailable", topic="b", message="wait", retry_ms=10)
        again = await talk.hears()
        assert again["topics"] == [{"topic": "b"}]
        await talk.says("subscribed", id=again["id"], topic="b")
        await talk.says("unsubscribed", topic="b", reason="revoked")
        await talk.is_left()

    assert await tail(script, argv=("a:1", "b")) == 1
    error = capsys.readouterr().err
    assert "a:1: not yours (forbidden)" in error
    assert "b: wait (unavailable)" in error
    assert "b: unsubscribed by the server: revoked" in error
    assert error.endswith("clarion: no topic is left to watch\n")


async def test_subscribe_for_programs_prints_what_the_server_sent(capsys: Capture) -> None:
    message = '{"op":"message","topic":"a:1","ts":1,"data":{"n": 1.00}}'

    async def script(talk: Talk) -> None:
        await granted(talk, "a:1")
        await talk.says_raw(message)
        await talk.closes(4502, "bye")

    assert await tail(script, argv=("a:1", "--json")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == message
    assert [json.loads(line)["op"] for line in lines] == ["welcome", "subscribed", "message"]


async def test_subscribe_begins_behind_a_position(capsys: Capture) -> None:
    async def script(talk: Talk) -> None:
        asked = await welcome(talk)
        assert asked["topics"] == [{"topic": "a:1", "since": {"epoch": "-e:f", "offset": 7}}]
        answer = {"id": asked["id"], "topic": "a:1", "recovered": False}
        await talk.says("subscribed", **answer, epoch="g", offset=3)
        await talk.says("join", topic="a:1", member={"client": "c-2", "user": "7"})
        await talk.says("lost", topic="a:1", epoch="g", offset=8, reason="too slow")
        await talk.closes(4502, "bye")

    assert await tail(script, argv=("a:1", "--since=-e:f:7")) == 1
    assert capsys.readouterr().err.splitlines()[1:5] == [
        "-- a:1: LOST some messages (the stream has begun anew); goes on after 3",
        "-- a:1: subscribed at offset 3, epoch g",
        "-- a:1: join c-2 7",
        "-- a:1: LOST some messages (too slow); goes on after 8",
    ]


async def test_losses_are_said_to_those_who_read_objects_too(capsys: Capture) -> None:
    async def script(talk: Talk) -> None:
        await granted(talk, "a:1", epoch="e", offset=3)
        await talk.says("message", topic="a:1", offset=6, ts=1, data=1)
        await talk.closes(4502, "bye")

    assert await tail(script, argv=("a:1", "--json")) == 1
    assert "-- a:1: LOST some messages (4 to 5 never came)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["hello", "[]", '{"op":5}', '{"op":"message","topic":"a:1","ts":-1}']
)
async def test_subscribe_gives_up_on_a_server_of_another_kind(text: str, capsys: Capture) -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        await talk.says_raw(text)
        await talk.is_dropped()

    assert await tail(script) == 1
    assert "is not clarion.v1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["a b"], 2, "character ' ' at place 1"),
        (["a", "--last", "-1"], 2, "--last must be 0 or more"),
        (["a", "--last", "1", "--since", "e:1"], 2, "without --last"),
        (["a", "b", "--since", "e:1"], 2, "a single topic"),
        (["a", "--since", "e:x"], 2, "is no position, such as x8Qz:17"),
        (["a", "--token", "a b"], 2, "visible ASCII"),
        (["a", "--url", "ftp://127.0.0.1"], 2, "is no address"),
        (["a", "--url", "127.0.0.1:8000"], 2, "is no address"),
    ],
)
def test_subscribe_refuses_a_wrong_command_line(
    argv: list[str], status: int, says: str, capsys: Capture
) -> None:
    assert main(["subscribe", *argv]) == status
    assert says in capsys.readouterr().err


async def test_subscribe_says_when_there_is_no_server(capsys: Capture) -> None:
    assert await in_thread("subscribe", "a", "--url", f"ws://127.0.0.1:{free_port()}/ws") == 1
    assert "connection refused\nIs a server running?" in capsys.readouterr().err


async def test_subscribe_ends_quietly_on_interrupt() -> None:
    async def script(talk: Talk) -> None:
        await granted(talk, "a")
        await talk.says("message", topic="a", ts=1, data=1)
        await talk.is_left()

    async with wire_server(script) as url:
        process = command("subscribe", "a", "--url", url)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGINT)
        out, error = await asyncio.to_thread(process.communicate, None, 20)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in error


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_subscribe_ends_quietly_when_nobody_reads_on(options: tuple[str, ...]) -> None:
    async def script(talk: Talk) -> None:
        await granted(talk, "a")
        for _ in range(1_000_000):
            if not await talk.still_says("message", topic="a", ts=1, data=1):
                return
        raise AssertionError("the client went on reading")

    async with wire_server(script) as url:
        process = command("subscribe", "a", "--url", url, *options)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline)
        process.stdout.close()
        assert process.stderr is not None
        error = await asyncio.to_thread(process.stderr.read)
        assert await asyncio.to_thread(process.wait, 20) == 1
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert b"Traceback" not in error
    assert b"Broken" not in error


# Text for terminals


@pytest.mark.parametrize("character", ["\x1b", "\x9b", "\u202e", "\u2028", "\x00", "\U000e0001"])
def test_text_from_the_network_cannot_command_the_terminal(character: str) -> None:
    shown = printable(f'"a{character}b"')
    assert shown.isprintable()
    assert json.loads(shown) == f"a{character}b"

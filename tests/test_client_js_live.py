"""The JavaScript client against a live server, through a network that fails as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest

from clarion_client import AsyncPublisher
from clarion_server import codes
from clarion_server.app import Worker
from clarion_server.options import AuthOptions, Config, Limits, Namespace
from support.bad_network import BadNetwork, bad_network
from support.node import NODES, Program, program
from support.redis_shared import shared_servers
from support.server import SECRET, configuration, publish, running, serving, token
from support.slow_reader import LATEST, blocked, heard
from support.waiting import until

READ = """
const options = given.ws ? { WebSocket: WS } : {};
const client = listen(new Client(given.url, { backoff: [20, 100], ...given.options, ...options }));
const subscription = client.subscribe(given.topics ?? "a", given.wish);
subscription.addEventListener("subscribed", ({ detail }) => say(detail));
for await (const item of subscription) {
  say(item.op === "lost" ? item : item.data);
  if (item.op === "message" && item.data === "enough") break;
}
client.close();
"""
"""Says what comes in its topics until somebody publishes "enough"."""


class Scene(NamedTuple):
    """A server, the way to it, and a program at the other end."""

    worker: Worker
    network: BadNetwork
    program: Program

    async def publish(self, *contents: object) -> None:
        for content in contents:
            await publish(self.worker, "a", content)


@asynccontextmanager
async def scene(
    text: str,
    config: Config | None = None,
    prepare: Callable[[BadNetwork], None] = lambda _network: None,
    **given: object,
) -> AsyncIterator[Scene]:
    """Starts all three. With ws=True the program has the package `ws` instead of the platform's.

    prepare: what the network shall do to the first connections.
    """
    node = NODES[-1] if given.get("ws") else NODES[0]
    async with running(config) as worker, bad_network(worker.port) as network:
        prepare(network)
        async with program(text, node, url=url(network.port), **given) as one:
            yield Scene(worker, network, one)


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/ws"


def op(name: str) -> Callable[[Any], bool]:
    return lambda said: isinstance(said, dict) and said.get("op") == name


def data(said: list[Any]) -> list[Any]:
    """Without what was said about states and subscriptions."""
    return [one for one in said if not isinstance(one, dict)]


LONG: dict[str, Any] = {"history_size": 5000, "subscribe": "everyone", "publish": "everyone"}


# Through cuts and restarts


async def test_a_program_reads_and_ends_by_itself() -> None:
    async with scene(READ) as (worker, _, reader):
        assert await reader.said() == {"state": "connecting"}
        connected = await reader.said()
        assert connected == connected | {"state": "connected", "transport": "websocket"}
        await reader.until(op("subscribed"))
        await publish(worker, "a", {"n": 1})
        await publish(worker, "a", "enough")
        assert (await reader.said())["n"] == 1
        assert await reader.ends() == ["enough", {"state": "closed"}]
        await until(lambda: not worker.hub.subscriptions)


async def next_attempt(network: BadNetwork, attempts: int) -> int:
    """Waits until there is a connection that is none of the first `attempts`; their number now."""
    await until(lambda: network.open and len(network.attempts) > attempts)
    return len(network.attempts)


@pytest.mark.parametrize("ws", [False, True], ids=["global", "ws"])
async def test_fifty_cuts_lose_nothing_double_nothing_and_keep_the_order(ws: bool) -> None:
    config = configuration(namespaces={"default": Namespace(**LONG)})
    async with scene(READ, config, ws=ws, options={"backoff": [5, 20]}) as one:
        network = one.network
        await one.program.until(op("subscribed"))
        attempts = published = 0
        for cuts in range(50):
            attempts = await next_attempt(network, attempts)
            if cuts % 2:
                network.cut_after(29 * cuts)  # in the middle of a frame, or of the handshake
            for _ in range(20):
                published += 1
                await one.publish(published)
                await asyncio.sleep(0.001)
            network.cut()
        await one.publish("enough")
        said = [*one.program.past, *(await one.program.ends())]
        assert data(said) == [*range(1, published + 1), "enough"]
        assert not list(filter(op("lost"), said))
        assert len(network.attempts) > 50


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_server_that_dies_and_comes_back_on_its_port(how: str) -> None:
    """Its embedded history dies with it, and the client is told so."""
    async with serving() as first, program(READ, url=url(first.port)) as reader:
        await reader.until(op("subscribed"))
        if how == "killed":
            first.process.kill()
        else:
            first.process.terminate()
        ended = await reader.state("waiting")
        assert ended["code"] == (1006 if how == "killed" else codes.DRAINING.code)
        await first.process.wait()
        async with serving("--port", str(first.port)) as second:
            again = await reader.until(op("subscribed"))
            assert again["recovered"] is False
            assert op("lost")(await reader.said())
            api = f"http://127.0.0.1:{second.api_port}/v1/publish"
            async with aiohttp.ClientSession() as session:
                await session.post(api, json={"topic": "a", "data": "enough"})
            assert (await reader.ends())[0] == "enough"


async def test_a_move_to_another_instance_on_the_same_redis_misses_nothing() -> None:
    (redis,) = await shared_servers(1)
    async with (
        serving("--redis", redis.url) as first,
        serving("--redis", redis.url) as second,
        bad_network(first.port) as network,
        program(READ, url=url(network.port)) as reader,
        AsyncPublisher(f"http://127.0.0.1:{second.api_port}") as publisher,
    ):
        await reader.until(op("subscribed"))
        await publisher.publish("a", 1)
        await reader.until(lambda said: said == 1)
        network.point(second.port)
        first.process.kill()
        await publisher.publish_many([("a", 2), ("a", "enough")])
        said = [*reader.past, *(await reader.ends())]
        assert data(said) == [1, 2, "enough"]
        assert not list(filter(op("lost"), said))


async def test_retry_ms_is_obeyed() -> None:
    async with scene(READ) as (worker, network, reader):
        await reader.until(op("subscribed"))
        for peer in worker.directory.peers():
            peer.finish(codes.OVERLOADED)
        waiting = await reader.state("waiting")
        assert waiting["code"] == codes.OVERLOADED.code
        assert 500 <= waiting["pause"] <= 5000, "the server's choice; ours would be 0 to 20"
        await reader.state("connected")
        first, second = network.attempts
        assert second - first >= waiting["pause"] / 1000


async def test_a_link_that_died_without_a_word_is_found() -> None:
    """Within the 5 s that are left where somebody looks at it."""
    async with scene(f"told().then(() => client.wake());\n{READ}") as one:
        await one.program.until(op("subscribed"))
        one.network.stall()
        await one.publish("enough")
        one.program.tell("somebody looks")
        ended = await one.program.state("waiting")
        assert ended["code"] == codes.NO_PONG.code
        one.network.flow()
        assert "enough" in await one.program.ends()


# What is lost


async def test_what_was_lost_is_told_in_its_place() -> None:
    config = configuration(namespaces={"default": Namespace(**LONG | {"history_size": 5})})
    async with scene(READ, config) as one:
        await one.program.until(op("subscribed"))
        await one.publish(1)
        await one.program.until(lambda said: said == 1)
        one.network.down()
        await one.publish(*range(2, 20))
        one.network.up()
        lost = await one.program.until(op("lost"))
        assert (lost["topic"], lost["offset"]) == ("a", 19)
        await one.publish("enough")
        assert data(await one.program.ends()) == ["enough"]


async def test_who_does_not_keep_up_is_told_what_the_buffer_could_not_hold() -> None:
    text = """
    const client = new Client(given.url);
    const subscription = client.subscribe("a", { buffer: 10 });
    subscription.addEventListener("subscribed", ({ detail }) => say(detail));
    client.addEventListener("message", ({ detail }) => detail.data === 100 && say("all are here"));
    await told();
    for await (const item of subscription) {
      say(item.op === "lost" ? item : item.data);
      if (item.op === "message" && item.data === 100) break;
    }
    client.close();
    """
    async with scene(text) as one:
        await one.program.until(op("subscribed"))
        await one.publish(*range(1, 101))
        assert await one.program.said() == "all are here"
        one.program.tell("go on")
        lost, *rest = await one.program.ends()
        assert rest == list(range(lost["offset"] + 1, 101))
        assert 0 < len(rest) < 10


# Tokens


def identified(*, anonymous: bool = False) -> Config:
    """A server that wants a token, or takes one."""
    return configuration(auth=AuthOptions(secret=SECRET, anonymous=anonymous))


FETCH = """
let fetches = 0;
const token = async () => {
  say({ fetches: ++fetches });
  return await told();
};
const client = listen(new Client(given.url, { backoff: [20, 100], token, ...given.options }));
const subscription = client.subscribe("a");
subscription.addEventListener("subscribed", ({ detail }) => say(detail));
for await (const { data } of subscription) if (data === "enough") break;
client.close();
"""
"""Asks the test for tokens."""


def fetches(count: int) -> Callable[[Any], bool]:
    return lambda said: bool(said == {"fetches": count})


@pytest.mark.parametrize("anonymous", [False, True])
async def test_a_token_is_renewed_on_the_connection(anonymous: bool) -> None:
    """Also on servers that let anybody in, who welcome a client before they know its token."""
    async with scene(FETCH, identified(anonymous=anonymous)) as one:
        reader = one.program
        await reader.until(fetches(1))
        reader.tell(token("42", ttl=1))
        assert (await reader.state("connected"))["user"] == "42"
        await reader.until(fetches(2))
        (session,) = [
            peer.session for peer in one.worker.directory.peers() if peer.session.identity
        ]
        before = session.identity
        reader.tell(token("42", ttl=60))
        await until(lambda: session.identity is not before)
        await asyncio.sleep(1)  # past the end of the first token
        await one.publish("enough")
        await reader.ends()
        states = [said["state"] for said in reader.past if "state" in said]
        assert states.count("connected") == 1


async def test_an_expired_token_is_replaced_before_coming_back() -> None:
    async with scene(FETCH, identified()) as one:
        reader = one.program
        await reader.until(fetches(1))
        reader.tell(token("42", ttl=-60))
        assert (await reader.state("waiting"))["code"] == codes.TOKEN_EXPIRED.code
        await reader.until(fetches(2))
        assert len(one.network.attempts) == 1, "not before it has another one"
        reader.tell(token("42"))
        await reader.until(op("subscribed"))
        await one.publish("enough")
        await reader.ends()


async def test_a_token_that_is_not_accepted_ends_the_client_and_its_iterations() -> None:
    text = """
    const client = listen(new Client(given.url, { token: "nonsense" }));
    try {
      for await (const item of client.subscribe("a")) say(item);
    } catch (error) {
      say(error.code);
    }
    """
    async with scene(text, identified()) as one:
        assert (await one.program.state("closed"))["code"] == codes.UNAUTHORIZED.code
        assert await one.program.ends() == [codes.UNAUTHORIZED.code]


# Many topics


async def test_thousands_of_topics_come_back_in_a_few_commands() -> None:
    text = """
    const client = new Client(given.url, { backoff: [20, 100] });
    let subscribed = 0;
    client.addEventListener("subscribed", () => ++subscribed % given.count || say(subscribed));
    client.addEventListener("message", ({ detail }) => say(detail.data));
    for (let number = 0; number < given.count; number++) client.subscribe(`t:${number}`);
    await told();
    client.close();
    """
    count = 4000
    config = configuration(limits=Limits(subscriptions=count))
    async with scene(text, config, count=count) as one:
        assert await one.program.said() == count
        for times in (2, 3):
            one.network.cut()
            await publish(one.worker, "t:77", f"missed {times}")
            assert {await one.program.said() for _ in range(2)} == {
                f"missed {times}",
                count * times,
            }
        assert one.worker.counters.commands["subscribe"] == 3 * count / 100
        one.program.tell("enough")
        await one.program.ends()


# Where WebSockets are blocked


async def test_event_streams_take_over_and_the_positions_go_with_them() -> None:
    """And come back with the WebSocket."""
    async with scene(READ, wish={"last": 3}) as one:
        network, reader = one.network, one.program
        await reader.until(op("subscribed"))
        await one.publish(1)
        assert await reader.until(lambda said: said == 1)
        for number, transport in ((2, "sse"), (3, "websocket")):
            if transport == "sse":
                network.answer(status=403, times=2)
            network.cut()
            await one.publish(number)
            assert (await reader.state("connected"))["transport"] == transport
            assert (await reader.until(op("subscribed")))["recovered"] is True
            assert await reader.said() == number
        await one.publish("enough")
        await reader.ends()


async def test_a_stream_obeys_retry_after() -> None:
    def busy(network: BadNetwork) -> None:
        network.answer(status=503, retry_after="1")

    async with scene(READ, prepare=busy, options={"WebSocket": None}) as one:
        assert (await one.program.state("waiting"))["pause"] == 1000
        await one.program.until(op("subscribed"))
        first, second = one.network.attempts
        assert second - first >= 1
        await one.publish("enough")
        await one.program.ends()


async def test_a_stream_whose_token_is_not_taken_gets_another() -> None:
    async with scene(FETCH, identified(), options={"WebSocket": None}) as one:
        reader = one.program
        await reader.until(fetches(1))
        reader.tell(token("42", ttl=-60))
        assert (await reader.state("waiting"))["reason"].startswith("HTTP 401")
        await reader.until(fetches(2))
        reader.tell(token("42"))
        await reader.until(op("subscribed"))
        await one.publish("enough")
        await reader.ends()


async def test_a_stream_goes_on_without_a_topic_that_is_forbidden() -> None:
    text = """
    const client = new Client(given.url, { WebSocket: null, token: given.token, backoff: [5, 20] });
    const read = async (topic) => {
      for await (const { data } of client.subscribe(topic)) say(data);
    };
    read("forbidden").catch(({ code, topic }) => say([code, topic]));
    client.addEventListener("subscribed", ({ detail }) => say(detail));
    await read("a").catch(({ code }) => say(code));
    """
    granted = {"default": Namespace(subscribe="granted")}
    config = configuration(auth=AuthOptions(secret=SECRET), namespaces=granted)
    async with scene(text, config, token=token("42", subscribe=["a"])) as one:
        assert await one.program.said() == ["forbidden", "forbidden"]
        await one.program.until(op("subscribed"))
        await one.publish("x")
        assert await one.program.said() == "x"


# Commands, and the end


async def test_commands_are_answered_and_wait_for_a_connection() -> None:
    text = """
    const client = listen(new Client(given.url, { backoff: [20, 100] }));
    const { offset } = await client.publish("a", { n: 1 });
    const { messages } = await client.history("a", { limit: 1, reverse: true });
    say([offset, messages.map(({ data }) => data)]);
    const refused = ({ code }) => say(code);
    await client.history("bare:x").catch(refused);
    await client.history("a b").catch(refused);
    await client.publish("a", "x".repeat(70_000)).catch(refused);
    await told();
    const published = client.publish("a", 2);
    say("waits");
    say((await published).offset);
    client.close();
    """
    async with scene(text) as one:
        reader = one.program
        assert await reader.until(lambda said: isinstance(said, list)) == [1, [{"n": 1}]]
        assert [await reader.said() for _ in range(3)] == ["no_history", "bad_topic", "too_large"]
        one.network.down()
        await reader.state("waiting")
        reader.tell("publish")
        await reader.until(lambda said: said == "waits")
        one.network.up()
        assert await reader.until(lambda said: isinstance(said, int)) == 2
        await reader.ends()


async def test_who_is_behind_gets_the_newest_of_each_key() -> None:
    text = """
    const client = new Client(given.url, { backoff: [20, 100] });
    await told();
    for (let n = 1; n <= 20; n++) {
      await client.publish("prices:all", n, { key: n % 2 ? "odd" : "even" });
    }
    await client.publish("prices:all", "end");
    await client.publish("prices:all", 0, { key: "a b" }).catch(({ message }) => say(message));
    client.close();
    """
    config = configuration(namespaces={"prices": LATEST})
    async with scene(text, config) as one, blocked(one.worker, "prices:all") as reader:
        one.program.tell("publish")
        assert await one.program.ends() == ["not a key: a b"]
        numbers = [f"message prices:all {data}" for data in (19, 20, "end")]
        assert await heard(reader, "end") == numbers


@pytest.mark.parametrize("ws", [False, True], ids=["global", "ws"])
@pytest.mark.parametrize("when", ["connected", "connecting", "waiting", "streaming"])
async def test_a_closed_client_leaves_nothing_behind(when: str, ws: bool) -> None:
    """No timer, no listener, no socket: the program ends by itself."""
    text = """
    const options = given.ws ? { WebSocket: WS } : {};
    if (given.when === "streaming") options.WebSocket = null;
    const client = listen(new Client(given.url, { timeout: 60_000, ...options }));
    client.subscribe("a");
    client.publish("a", 1).catch(() => {});
    await told();
    client.close();
    """
    prepare: dict[str, Callable[[BadNetwork], None]] = {
        "connecting": lambda network: network.swallow(),
        "waiting": lambda network: network.down(),
    }
    network = prepare.get(when, lambda _network: None)
    async with scene(text, prepare=network, when=when, ws=ws) as one:
        await one.program.state("connected" if when == "streaming" else when)
        one.program.tell("close")
        assert (await one.program.ends())[-1] == {"state": "closed"}
        await until(lambda: not one.network.open)

"""Conversations with a session at random: whatever clients say, they get what they must.

What single commands do is in test_session.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clarion_fanout.broker import BrokerUnavailable, Want
from clarion_fanout.presence import Keeping
from clarion_server.options import Limits
from support.clients import FakeClient
from support.coroutines import result
from support.edges import OPEN, World, but, turns
from support.examples import examples

KEEPS: dict[str, Keeping] = {"default": "count", "members": "members", "rooms": "events"}
NAMESPACES = {
    name: msgspec.structs.replace(namespace, presence=KEEPS.get(name, "off"))
    for name, namespace in OPEN.namespaces.items()
}
VALID = ("news", "plain:1", "members:1", "rooms:1", "closed:1", "user:ann", "user:bob")
valid_names = st.just("news") | st.sampled_from(VALID)
topic_names = valid_names | st.sampled_from([*VALID, "no topic", ""])
positions = st.none() | st.fixed_dictionaries(
    {"epoch": st.sampled_from(["known", "other"]), "offset": st.integers(0, 12)}
)
wishes = st.fixed_dictionaries(
    {"topic": topic_names}, optional={"since": positions, "last": st.integers(0, 9)}
)
TOKENS = ("ann", "bob", "rooms", "expired", "nonsense")
commands = st.one_of(
    st.fixed_dictionaries({"op": st.just("ping")}),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["connect", "refresh"]), "token": st.sampled_from(TOKENS)}
    ),
    st.builds(lambda wish: {"op": "subscribe"} | wish, wishes),
    st.builds(lambda wish: {"op": "subscribe"} | wish, wishes),
    st.fixed_dictionaries({"op": st.just("subscribe"), "topics": st.lists(wishes, max_size=4)}),
    st.fixed_dictionaries({"op": st.just("unsubscribe"), "topic": topic_names}),
    st.fixed_dictionaries(
        {
            "op": st.just("publish"),
            "topic": topic_names,
            "data": st.integers() | st.text(max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {"op": st.just("history"), "topic": topic_names},
        optional={"limit": st.integers(0, 3), "since": positions, "reverse": st.booleans()},
    ),
    st.fixed_dictionaries({"op": st.just("presence"), "topic": topic_names}),
    st.fixed_dictionaries({"op": st.sampled_from(["dance", "", "welcome"])}),
    st.just({}),
)


class Conversations(RuleBasedStateMachine):
    """Two clients say anything, to a broker that is quick, slow or away.

    Nothing is ever raised; each command is answered once; each subscription sees each offset
    once, or is told of a loss, and whatever happens to the epochs meanwhile.
    """

    slow = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        limits = Limits(in_flight=3, subscriptions=4, errors=10_000)
        self.world = World(but(limits=limits, namespaces=NAMESPACES), slow=self.slow)
        self.run(self.world.__aenter__())
        self.tokens = {
            "ann": self.world.token("ann"),
            "bob": self.world.token("bob"),
            "rooms": self.world.token("ann", subscribe=["rooms:*"], publish=["rooms:*"]),
            "expired": self.world.token(ttl=-3600),
            "nonsense": "x",
        }
        self.clients: list[FakeClient] = []
        self.expected: list[dict[int, int]] = []
        self.answered: list[dict[int, int]] = []
        self.places: list[dict[str, tuple[str, int]]] = []
        for _ in range(2):
            self.arrive()
        self.ids = 0

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def arrive(self) -> None:
        self.clients.append(self.world.client())
        self.expected.append({})
        self.answered.append({})
        self.places.append({})

    @rule(who=st.integers(0, 1), command=commands, just_published=st.none() | valid_names)
    def say(self, who: int, command: dict[str, Any], just_published: str | None) -> None:
        client = self.clients[who]
        if client.session.over:
            return
        self.ids += 1
        command = {**command, "id": self.ids}
        if "token" in command:
            command["token"] = self.tokens[command["token"]]
        for wish in (command, *command.get("topics", ())):
            self.put_in_the_epoch(wish)
        answers = 1
        if command.get("op") == "subscribe" and "topics" in command:
            answers = len(command["topics"])
        self.expected[who][self.ids] = answers

        async def send() -> None:
            if just_published is not None:
                await self.world.publish(just_published, "0")
            client.says(json.dumps(command))

        self.run(send())

    def put_in_the_epoch(self, wish: dict[str, Any]) -> None:
        """The one that the topic's stream has now, where it has one."""
        since, topic = wish.get("since"), wish.get("topic", "")
        if since and since["epoch"] == "known" and topic in VALID:
            page = self.world.memory.peek(topic, Want(limit=0))
            if page is not None and page.position is not None:
                wish["since"] = {**since, "epoch": page.position.epoch}

    @rule(topic=valid_names, count=st.integers(1, 7))
    def backends_publish(self, topic: str, count: int) -> None:
        self.run(self.world.publish(topic, *["0"] * count))

    @rule(topic=valid_names, what=st.sampled_from(["turn", "loss", "restart", "quick"]))
    def a_shard_fails_over(self, topic: str, what: str) -> None:
        memory = self.world.memory
        if topic == "plain:1" or topic not in memory.attached_topics:
            return

        async def happen() -> None:
            if what == "turn":
                memory.turn(topic)
            elif what == "quick":
                memory.quick(topic, b"0")
            else:
                memory.lose(topic, b"0", restart=what == "restart")

        self.run(happen())

    @rule()
    def time_passes(self) -> None:
        self.run(turns())

    @rule(open=st.booleans())
    def shards_are_asked(self, open: bool) -> None:
        asked = self.world.slow.asked
        asked.set() if open else asked.clear()

    @rule(open=st.booleans())
    def answers_arrive(self, open: bool) -> None:
        answered = self.world.slow.answered
        answered.set() if open else answered.clear()

    @rule(away=st.booleans())
    def shards_go_away(self, away: bool) -> None:
        self.world.slow.fails = BrokerUnavailable("away") if away else None

    @rule(who=st.integers(0, 1), topic=topic_names)
    def the_server_unsubscribes(self, who: int, topic: str) -> None:
        async def leave() -> None:
            self.clients[who].session.leave(topic, reason="because")

        if not self.clients[who].session.over:
            self.run(leave())

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.world.slow.asked.set()
        self.world.slow.answered.set()
        self.run(turns(150))
        for who, client in enumerate(self.clients):
            self.listen(who)
            assert not client.quiet
            if not client.session.over:
                assert self.answered[who] == {k: v for k, v in self.expected[who].items() if v}
            # Whoever is subscribed has come to where the stream stands.
            for topic in client.topics:
                page = self.world.memory.peek(topic.name, Want(limit=0))
                assert page is not None
                assert self.places[who][topic.name] == (page.position or ("", 0))
        assert len(self.world.tasks) == 0

    @invariant()
    def what_is_heard_makes_sense(self) -> None:
        for who in range(len(self.clients)):
            self.listen(who)

    def listen(self, who: int) -> None:
        answered, expected, places = self.answered[who], self.expected[who], self.places[who]
        for message in self.clients[who].heard():
            op, topic = message["op"], message.get("topic", "")
            if "id" in message:
                answered[message["id"]] = answered.get(message["id"], 0) + 1
                assert answered[message["id"]] <= expected[message["id"]], message
            if op == "subscribed" and topic in places:
                assert "id" not in message
                assert message["recovered"]
                assert message["epoch"] != places[topic][0]
                assert message["offset"] == places[topic][1]
                places[topic] = (message["epoch"], message["offset"])
            elif op == "subscribed":
                start = self.clients[who].starts.pop(0)
                places[topic] = (message["epoch"], start.offset) if start else ("", 0)
            elif op == "lost":
                assert places[topic] != (message["epoch"], message["offset"])
                places[topic] = (message["epoch"], message["offset"])
            elif op == "unsubscribed":
                places.pop(topic, None)
            elif op in ("join", "leave"):
                assert topic == "rooms:1"
                assert topic in places
            elif op == "message":
                epoch, offset = places[topic]  # nothing comes without a subscription
                if epoch and "offset" in message:
                    assert message["offset"] == offset + 1
                    places[topic] = (epoch, offset + 1)

    @invariant()
    def the_hub_has_those_who_are_there(self) -> None:
        receivers = {
            client.key for client in self.clients if client.topics and not client.session.over
        }
        known = {
            key
            for topic in self.world.hub.topics.values()
            for lane in topic.lanes
            for key in (*lane.bulk, *(lane.others or ()))
        }
        assert known == receivers

    @invariant()
    def members_are_those_who_are_subscribed(self) -> None:
        presence = self.world.presence
        assert presence is not None
        for topic in VALID:
            subscribed = {
                client.session.id
                for client in self.clients
                if topic in [each.name for each in client.topics]
            }
            # At once: in a turn of the loop somebody might become subscribed.
            page = result(presence.read(topic, 10))
            keeps = self.world.config.namespace(topic).presence
            assert page.count == (0 if keeps == "off" else len(subscribed))
            if keeps in ("members", "events"):
                assert {json.loads(member)["client"] for member in page.members} == subscribed

    def teardown(self) -> None:
        self.everything_comes_to_rest()

        async def everybody_leaves() -> None:
            for client in self.clients:
                if not client.session.over:
                    client.vanishes()

        self.run(everybody_leaves())
        assert self.world.hub.topics == {}
        assert self.world.presence is not None
        assert self.world.presence.members == 0
        assert self.world.slow.attached_topics == set()
        self.run(self.world.__aexit__(None, None, None))
        self.loop.close()


class QuickConversations(Conversations):
    """The same with a broker that has everything at hand."""

    slow = False


TestConversations = Conversations.TestCase
TestQuickConversations = QuickConversations.TestCase
TestConversations.settings = settings(max_examples=examples(60), stateful_step_count=40)
TestQuickConversations.settings = TestConversations.settings

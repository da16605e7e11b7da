/** The machine by itself: every rule of README.md, "How it works", as a conversation. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { ClarionError, Lost, comesBack } from "../clarion-client.js";
import { Reader, Talk } from "./talk.js";

const talk = (options) => new Talk(options);
const connected = (options) => talk(options).connects();

describe("connecting", () => {
  it("begins at once", () => {
    const one = talk();
    assert.equal(one.machine.state, "waiting");
    assert.equal(one.machine.due, 0);
    one.passes(0);
    assert.equal(one.machine.state, "connecting");
    assert.equal(one.opens, 1);
  });

  it("says nothing on a connection without a token", () => {
    const one = connected();
    assert.deepEqual(one.heard(), []);
    assert.deepEqual(one.states, [
      { state: "connecting" },
      { state: "connected", client: "c-1", user: undefined, transport: "websocket" },
    ]);
  });

  it("sends its token first, and not in the address", () => {
    const one = talk({ token: "t", name: "web/1" }).connects({ user: "42" });
    assert.deepEqual(one.heard(), [{ op: "connect", id: "connect", token: "t", name: "web/1" }]);
    assert.equal(one.machine.inUrl, undefined);
    assert.equal(one.state().user, "42");
  });

  it("puts the token into the address for a server that lets anybody in before it was read", () => {
    const one = talk({ token: "t" }).passes(0);
    one.does("opened");
    one.hears("welcome", { client: "c-1", ping_ms: 25_000 });
    assert.equal(one.machine.state, "connecting", "as nobody it does not count");
    one.hears("error", { id: "connect", code: "bad_request", message: "already connected" });
    assert.equal(one.machine.inUrl, true);
    assert.deepEqual(one.errors, []);
    one.passes(0);
    assert.equal(one.opens, 2);
    one.heard();
    one.does("opened");
    assert.deepEqual(one.heard(), []);
    one.hears("welcome", { client: "c-2", user: "42", ping_ms: 25_000 });
    assert.equal(one.machine.state, "connected");
  });

  it("gives an attempt 15 seconds, and then tries again", () => {
    const one = talk().passes(0);
    one.does("opened");
    one.passes(14_999);
    assert.equal(one.machine.state, "connecting");
    one.passes(1);
    assert.deepEqual(one.state(), { state: "waiting", code: 1006, reason: "no welcome", pause: 500 });
    assert.equal(one.closes, 1);
  });

  it("takes no welcome but in its time", () => {
    const one = connected();
    one.hears("welcome", { client: "c-9", ping_ms: 25_000 });
    one.breaks().hears("welcome", { client: "c-9", ping_ms: 25_000 });
    assert.equal(one.machine.state, "waiting");
    assert.equal(one.states.length, 3);
  });
});

describe("coming back", () => {
  it("pauses for a random time below a bound that doubles from 1 s to 30 s", () => {
    const one = talk({ sse: false });
    const pauses = [];
    for (let attempt = 0; attempt < 8; attempt++) {
      one.passes(attempt ? one.state().pause : 0).breaks();
      pauses.push(one.state().pause);
    }
    assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
  });

  it("draws each pause anew, from nothing to the whole bound", () => {
    const draws = [0, 0.999, 0.25];
    const one = talk({ sse: false, random: () => draws.shift() });
    const pauses = [];
    while (draws.length) {
      one.passes(one.state()?.pause ?? 0).breaks();
      pauses.push(one.state().pause);
    }
    assert.deepEqual(pauses, [0, 1998, 1000]);
  });

  it("begins with short pauses again after a connection that lasted", () => {
    const one = connected({ sse: false });
    for (let times = 0; times < 5; times++) one.breaks().comesBack();
    assert.equal(one.breaks().state().pause, 15_000);
    one.comesBack().passes(5_001);
    assert.equal(one.breaks().state().pause, 500);
  });

  it("waits exactly as long as a goodbye says", () => {
    const one = connected();
    one.hears("goodbye", { code: 4000, reason: "draining", retry_ms: 7340 });
    assert.deepEqual(one.state(), { state: "waiting", code: 4000, reason: "draining", pause: 7340 });
    one.passes(7339);
    assert.equal(one.opens, 1);
    one.passes(1);
    assert.equal(one.opens, 2);
  });

  it("does not let a network that comes back shorten the pause that the server chose", () => {
    const one = connected();
    one.hears("goodbye", { code: 4004, reason: "overloaded", retry_ms: 5000 });
    one.does("wake");
    one.passes(4999);
    assert.equal(one.opens, 1);
    one.passes(1);
    assert.equal(one.opens, 2);
  });

  it("tries at once when the network comes back in a pause of its own", () => {
    const one = connected().breaks();
    one.passes(100).does("wake");
    assert.equal(one.opens, 2);
  });

  for (const junk of [null, "5", {}, [], true]) {
    it(`takes ${JSON.stringify(junk)} for no pause at all`, () => {
      const one = connected();
      one.hears("goodbye", { code: 4000, reason: "", retry_ms: junk });
      assert.equal(one.state().pause, 500);
    });
  }

  it("neither rushes nor rests for ever, whatever the server asks for", () => {
    for (const [asked, pause] of [[0, 100], [-5, 100], [99, 100], [1e15, 3_600_000]]) {
      const one = connected();
      one.hears("goodbye", { code: 4000, reason: "", retry_ms: asked });
      assert.equal(one.state().pause, pause);
    }
  });

  it("asks for a topic ten times a second at most, whatever the server says", () => {
    for (const fields of [{ code: "unavailable", retry_ms: 0 }, { code: "already_subscribed" }]) {
      const one = connected();
      one.subscribes("a");
      let asked = 0;
      for (let times = 0; times < 100; times++) {
        const { id } = one.heard().findLast(({ op }) => op === "subscribe") ?? {};
        if (id) asked += 1;
        if (id) one.hears("error", { id, topic: "a", message: "no", ...fields });
        one.passes(10);
      }
      assert.ok(asked <= 11, asked);
    }
  });

  it("renews a token once a second at most, whatever the server says", () => {
    const one = talk({ token: () => "t" }).passes(0);
    one.does("renewed", "t");
    const before = one.connects().tokens;
    one.hears("refreshed", { id: "refresh", expires_ms: 0.001 }).passes(999);
    assert.equal(one.tokens, before);
    one.passes(1);
    assert.equal(one.tokens, before + 1);
  });

  it("follows the ranges of the close codes", () => {
    for (const code of [1000, 1001, 1005, 1006, 1011, 4000, 4001, 4321, 4499]) {
      assert.ok(comesBack(code), String(code));
      assert.equal(connected().breaks({ code }).state().state, "waiting", String(code));
    }
    for (const code of [1002, 1003, 1007, 1008, 1009, 4002, 4500, 4501, 4502, 4999]) {
      const one = connected();
      const reader = one.reads("a", 1);
      one.breaks({ code, reason: "why" });
      assert.deepEqual(one.state(), { state: "closed", code, reason: "why" });
      assert.equal(reader.error.code, code);
      assert.equal(one.machine.due, Infinity);
    }
  });

  it("hears nothing more after a goodbye, and ends the connection itself", () => {
    const one = connected();
    const reader = one.reads("a", 1);
    one.hears("goodbye", { code: 4000, reason: "draining", retry_ms: 100 });
    assert.equal(one.closes, 1);
    one.message("a", 2).breaks({ code: 4000 });
    assert.deepEqual(reader.got(), []);
    assert.equal(one.states.length, 3);
  });
});

describe("positions", () => {
  it("are those of the last message, after a reconnect as well", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.message("a", 18).message("a", 19);
    one.breaks().comesBack();
    const [{ id, ...rest }] = one.heard();
    assert.deepEqual(rest, { op: "subscribe", topic: "a", since: { epoch: "e", offset: 19 } });
    one.hears("subscribed", { id, topic: "a", epoch: "e", offset: 21, recovered: true });
    one.message("a", 20).message("a", 21).message("a", 22);
    assert.deepEqual(reader.got(), [18, 19, "subscribed 21", 20, 21, 22]);
  });

  it("come with each message, so that it can be gone on from", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.message("a", 18);
    const { epoch, offset } = reader.items[0];
    assert.deepEqual({ epoch, offset }, { epoch: "e", offset: 18 });
    const other = talk().connects();
    other.subscribes({ topic: "a", since: reader.items[0] });
    assert.deepEqual(other.heard()[0].since, { epoch: "e", offset: 18 });
  });

  it("before the first message are where the subscription began", () => {
    const one = connected();
    one.reads("a", 0);
    one.breaks().comesBack();
    assert.deepEqual(one.heard()[0].since, { epoch: "e", offset: 0 });
  });

  it("do not jump ahead of messages that are still to come", () => {
    const one = connected();
    one.reads("a", 17);
    one.breaks().comesBack();
    const [{ id }] = one.heard();
    one.hears("subscribed", { id, topic: "a", epoch: "e", offset: 90, recovered: true });
    one.message("a", 18).breaks().comesBack();
    assert.deepEqual(one.heard()[0].since, { epoch: "e", offset: 18 });
  });

  it("of topics without history are none", () => {
    const one = connected();
    const reader = one.subscribes("a");
    const [{ id }] = one.heard();
    one.hears("subscribed", { id, topic: "a" });
    one.hears("message", { topic: "a", ts: 1, data: 1 }).hears("message", { topic: "a", ts: 1, data: 1 });
    assert.deepEqual(reader.got(), ["subscribed", 1, 1]);
    one.breaks().comesBack();
    const [{ id: again, ...rest }] = one.heard();
    assert.deepEqual(rest, { op: "subscribe", topic: "a" });
    assert.ok(again > id);
  });

  it("keep duplicates away", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.message("a", 18).message("a", 18).message("a", 17).message("a", 19).message("a", 18);
    assert.deepEqual(reader.got(), [18, 19]);
  });

  it("find a gap that the server does not mention", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.message("a", 18).message("a", 21).message("a", 22);
    assert.deepEqual(reader.got(), [18, "lost 20", 21, 22]);
  });

  it("are asked for as the newest `last` ones until the first of them has come", () => {
    const one = connected();
    const reader = one.subscribes({ topic: "a", last: 3 });
    const [{ id, ...rest }] = one.heard();
    assert.deepEqual(rest, { op: "subscribe", topic: "a", last: 3 });
    one.hears("subscribed", { id, topic: "a", epoch: "e", offset: 9 });
    one.breaks().comesBack();
    const [second] = one.heard();
    assert.equal(second.last, 3);
    one.hears("subscribed", { id: second.id, topic: "a", epoch: "e", offset: 10 });
    one.message("a", 8).message("a", 9).message("a", 10).message("a", 11);
    assert.deepEqual(reader.got(), ["subscribed 9", "subscribed 10", 8, 9, 10, 11]);
    one.breaks().comesBack();
    assert.deepEqual(one.heard()[0].since, { epoch: "e", offset: 11 });
  });

  it("tell what was lost when more was published meanwhile than `last` brings", () => {
    const one = connected();
    const reader = one.subscribes({ topic: "a", last: 2 });
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", epoch: "e", offset: 9 });
    one.breaks().comesBack();
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", epoch: "e", offset: 30 });
    one.message("a", 29).message("a", 30);
    assert.deepEqual(reader.got(), ["subscribed 9", "subscribed 30", "lost 28", 29, 30]);
  });

  it("are the program's own where it gives one", () => {
    const one = connected();
    one.subscribes({ topic: "a", since: { epoch: "x", offset: 5 } });
    assert.deepEqual(one.heard()[0].since, { epoch: "x", offset: 5 });
  });

  it("move to the new epoch when the stream goes on in one", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.hears("subscribed", { topic: "a", epoch: "f", offset: 17 });
    one.message("a", 18);
    assert.deepEqual(reader.got(), [18]);
    one.breaks().comesBack();
    assert.deepEqual(one.heard()[0].since, { epoch: "f", offset: 18 });
  });

  it("hide nothing when a stream begins anew below them", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.hears("subscribed", { topic: "a", epoch: "f", offset: 0 });
    one.message("a", 1);
    assert.deepEqual(reader.got(), [1]);
  });
});

describe("loss", () => {
  it("is told when it could not be recovered, and it goes on from there", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.breaks().comesBack();
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", epoch: "g", offset: 3, recovered: false });
    const lost = reader.items[1];
    assert.ok(lost instanceof Lost && lost instanceof ClarionError);
    assert.deepEqual({ ...lost }, { name: "ClarionError", code: "lost", topic: "a", retryMs: undefined, op: "lost", epoch: "g", offset: 3 });
    one.message("a", 4);
    assert.deepEqual(reader.got(), ["subscribed 3", "lost 3", 4]);
    one.breaks().comesBack();
    assert.deepEqual(one.heard()[0].since, { epoch: "g", offset: 4 });
  });

  it("is told at once, also in the same epoch", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.breaks().comesBack();
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", epoch: "e", offset: 90, recovered: false });
    assert.deepEqual(reader.got(), ["subscribed 90", "lost 90"]);
  });

  it("is told where the stream began anew before the first of the `last` messages had come", () => {
    const one = connected();
    const reader = one.subscribes({ topic: "a", last: 3 });
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", epoch: "e", offset: 9 });
    one.breaks().comesBack();
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", epoch: "f", offset: 2 });
    one.message("a", 3);
    assert.deepEqual(reader.got(), ["subscribed 9", "subscribed 2", "lost 2", 3]);
  });

  it("ends the wait for the `last` messages", () => {
    const one = connected();
    const reader = one.subscribes({ topic: "a", last: 3 });
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", epoch: "e", offset: 9 });
    one.hears("lost", { topic: "a", epoch: "e", offset: 12, reason: "?" });
    one.message("a", 12).message("a", 13);
    assert.deepEqual(reader.got(), ["subscribed 9", "lost 12", 13]);
  });

  it("is told in its place, when the server says it later", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.message("a", 18);
    one.hears("lost", { topic: "a", epoch: "e", offset: 25, reason: "too much at once" });
    one.message("a", 26);
    assert.equal(reader.items[1].message, "too much at once");
    assert.deepEqual(reader.got(), [18, "lost 25", 26]);
  });

  it("cannot be taken for a message", () => {
    const lost = new Lost({ topic: "a", epoch: "e", offset: 3 }, "it was too old");
    assert.throws(() => lost.data, { name: "ClarionError", code: "lost", topic: "a", message: "it was too old" });
    const read = ({ data }) => data;
    assert.throws(() => read(lost), { code: "lost" });
    assert.equal(JSON.parse(JSON.stringify(lost)).offset, 3, "and yet it can be logged");
  });

  it("is told where a topic has lost its history altogether", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.breaks().comesBack();
    one.hears("subscribed", { id: one.heard()[0].id, topic: "a", recovered: false });
    assert.deepEqual(reader.got(), ["subscribed", "lost"]);
    one.breaks().comesBack();
    assert.equal(one.heard()[0].since, undefined);
  });
});

describe("subscribing", () => {
  it("asks for thousands of topics in a few commands that fit, without waiting for answers", () => {
    const one = connected();
    const names = Array.from({ length: 5000 }, (_, number) => `t:${"x".repeat(245)}:${number}`);
    const reader = one.subscribes(...names);
    const first = one.heard();
    assert.equal(first.length, 50);
    assert.deepEqual(first.flatMap(({ topics }) => topics.map(({ topic }) => topic)), names);
    for (const { id, topics } of first) {
      for (const { topic } of topics) {
        one.hears("subscribed", { id, topic, epoch: "e".repeat(64), offset: 2 ** 53 - 10 });
      }
    }
    assert.equal(reader.got().length, 5000);
    one.breaks().comesBack();
    const again = one.heard();
    assert.equal(again.length, 50);
    for (const command of again) {
      assert.ok(JSON.stringify(command).length < 65_536 * 0.75);
      assert.ok(command.topics.every(({ since }) => since.offset === 2 ** 53 - 10));
    }
  });

  it("asks in one command for what is subscribed in one go", () => {
    const one = connected();
    for (const topic of ["a", "b", "c"]) one.does("subscribe", [{ topic }], new Reader());
    one.does("tick");
    const [command, ...others] = one.heard();
    assert.deepEqual(command.topics, [{ topic: "a" }, { topic: "b" }, { topic: "c" }]);
    assert.deepEqual(others, []);
  });

  it("waits for the connection", () => {
    const one = talk();
    one.subscribes("a");
    assert.deepEqual(one.heard(), []);
    one.connects();
    assert.equal(one.heard()[0].topic, "a");
  });

  it("asks once for a topic that several read, and leaves it with the last of them", () => {
    const one = connected();
    const first = one.reads("a", 1);
    const second = one.subscribes("a");
    assert.deepEqual(one.heard(), []);
    assert.deepEqual(second.got(), ["subscribed 1"]);
    one.message("a", 2);
    assert.deepEqual([first.got(), second.got()], [[2], [2]]);
    one.does("unsubscribe", [{ topic: "a" }], first);
    assert.deepEqual(one.heard(), []);
    one.message("a", 3);
    one.does("unsubscribe", [{ topic: "a" }], second);
    assert.deepEqual(one.heard(), [{ op: "unsubscribe", topic: "a" }]);
    one.message("a", 4);
    assert.deepEqual([first.got(), second.got()], [[], [3]]);
  });

  it("says nothing about a topic that is left before it was asked for", () => {
    const one = talk();
    one.does("unsubscribe", [{ topic: "a" }], one.subscribes("a"));
    one.connects();
    assert.deepEqual(one.heard(), []);
  });

  it("tells the answers apart when a topic is left and taken again at once", () => {
    const one = connected();
    const first = one.subscribes("a");
    one.does("unsubscribe", [{ topic: "a" }], first);
    const second = one.subscribes("a");
    const [{ id }, , { id: again }] = one.heard();
    one.hears("error", { id, code: "not_subscribed", topic: "a", message: "before it was complete" });
    one.message("a", 5);
    one.hears("unsubscribed", { topic: "a", id: 99 });
    one.hears("subscribed", { id, topic: "a", epoch: "e", offset: 1 });
    assert.deepEqual(second.got(), []);
    assert.equal(second.closed, false);
    one.hears("subscribed", { id: again, topic: "a", epoch: "e", offset: 6 });
    one.message("a", 7);
    assert.deepEqual(second.got(), ["subscribed 6", 7]);
    assert.deepEqual(first.got(), []);
  });

  it("does not mix up a topic that is left and taken again while it is cut off", () => {
    const one = connected();
    const first = one.reads("a", 17);
    one.breaks();
    one.does("unsubscribe", [{ topic: "a" }], first);
    const second = one.subscribes("a");
    one.comesBack();
    const said = one.heard();
    assert.deepEqual(said.map(({ op, since }) => [op, since]), [["subscribe", undefined]]);
    one.hears("subscribed", { id: said[0].id, topic: "a", epoch: "e", offset: 3 });
    one.message("a", 4);
    assert.deepEqual(second.got(), ["subscribed 3", 4]);
  });

  it("ends with the error that refuses it", () => {
    const one = connected();
    const [good, bad] = [one.subscribes("a"), one.subscribes("b")];
    const [first, second] = one.heard();
    one.hears("subscribed", { id: first.id, topic: "a" });
    one.hears("error", { id: second.id, topic: "b", code: "forbidden", message: "not for you" });
    assert.deepEqual([bad.error.code, bad.error.message, bad.error.topic], ["forbidden", "not for you", "b"]);
    assert.equal(good.closed, false);
    one.breaks().comesBack();
    assert.deepEqual(one.heard().map(({ topic }) => topic), ["a"]);
  });

  it("ends all that one command asked for where the error names none", () => {
    const one = connected();
    const reader = one.subscribes("a", "b");
    one.hears("error", { id: one.heard()[0].id, code: "bad_request", message: "?" });
    assert.equal(reader.error.code, "bad_request");
    assert.equal(one.machine.topics.size, 0);
  });

  it("tries again after the time that an error names, that topic alone", () => {
    const one = connected();
    const reader = one.subscribes("a", "b");
    const [{ id }] = one.heard();
    one.hears("subscribed", { id, topic: "a" });
    one.hears("error", { id, topic: "b", code: "unavailable", message: "no answer", retry_ms: 1000 });
    one.passes(999);
    assert.deepEqual(one.heard(), []);
    one.passes(1);
    const [again] = one.heard();
    assert.equal(again.topic, "b");
    one.hears("subscribed", { id: again.id, topic: "b" });
    assert.deepEqual(reader.got(), ["subscribed", "subscribed"]);
    assert.equal(reader.closed, false);
  });

  it("asks anew, from its position, for a topic that the backend has given it meanwhile", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.breaks().comesBack();
    one.hears("subscribed", { topic: "a", epoch: "e", offset: 19 });
    const [{ id }] = one.heard();
    one.hears("error", { id, topic: "a", code: "already_subscribed", message: "already subscribed" });
    one.passes(100);
    const [leave, ask] = one.heard();
    assert.deepEqual(leave, { op: "unsubscribe", topic: "a" });
    assert.deepEqual(ask.since, { epoch: "e", offset: 17 });
    one.hears("subscribed", { id: ask.id, topic: "a", epoch: "e", offset: 19, recovered: true });
    one.message("a", 18).message("a", 19);
    assert.deepEqual(reader.got(), ["subscribed 19", 18, 19]);
  });

  it("is ended by the server with a reason", () => {
    const one = connected();
    const reader = one.reads("a", 1);
    one.hears("unsubscribed", { topic: "a", reason: "the new token does not allow it" });
    assert.equal(reader.error.code, "unsubscribed");
    assert.equal(reader.error.message, "the new token does not allow it");
    one.breaks().comesBack();
    assert.deepEqual(one.heard(), []);
  });

  it("brings who comes and goes", () => {
    const one = connected();
    const reader = one.reads("a", 1);
    one.hears("join", { topic: "a", member: { client: "c-2" } });
    one.hears("leave", { topic: "a", member: { client: "c-2" } });
    assert.deepEqual(reader.got(), ["join", "leave"]);
  });

  it("of the backend's is forgotten with the connection, as it is the backend's to renew", () => {
    const one = connected();
    one.hears("subscribed", { topic: "a", epoch: "e", offset: 3 });
    assert.equal(one.machine.topics.size, 1);
    one.breaks().comesBack();
    assert.equal(one.machine.topics.size, 0);
    assert.deepEqual(one.heard(), []);
  });
});

describe("tokens", () => {
  const renewing = () => {
    const one = talk({ token: () => {} }).passes(0);
    assert.equal(one.tokens, 1);
    assert.equal(one.opens, 0);
    one.does("renewed", "t1");
    assert.equal(one.opens, 1);
    return one;
  };

  it("are fetched before the first attempt, and kept for the next", () => {
    const one = renewing().connects();
    one.breaks().comesBack();
    assert.equal(one.tokens, 1);
    assert.deepEqual(one.heard().map(({ token }) => token), ["t1", "t1"]);
  });

  it("are renewed a minute before they end, on the connection", () => {
    const one = renewing().connects({ expires_ms: 3_600_000 });
    const pong = () => one.hears("pong");
    while (one.now < 3_520_000) one.passes(20_000) && pong();
    one.heard();
    assert.equal(one.tokens, 1);
    one.passes(3_540_000 - one.now);
    assert.equal(one.tokens, 2);
    one.does("renewed", "t2");
    assert.deepEqual(one.heard().filter(({ op }) => op === "refresh"), [{ op: "refresh", id: "refresh", token: "t2" }]);
    one.hears("refreshed", { id: "refresh", expires_ms: 10_000 });
    one.passes(7_999);
    assert.equal(one.tokens, 2);
    one.passes(1);
    assert.equal(one.tokens, 3, "short ones at four fifths of their time");
    assert.equal(one.states.length, 2, "and nobody notices");
  });

  it("are asked for again when that failed, until it works", () => {
    const one = renewing().connects({ expires_ms: 10_000 });
    one.passes(8_000);
    one.does("notRenewed", new Error("no network"));
    assert.equal(one.errors[0].message, "no network");
    one.passes(4_999);
    assert.equal(one.tokens, 2);
    one.passes(1);
    assert.equal(one.tokens, 3);
  });

  it("that the server does not take for a renewal are reported, and asked for again", () => {
    const one = renewing().connects({ expires_ms: 10_000 });
    one.passes(8_000).does("renewed", "another user's");
    one.hears("error", { id: "refresh", code: "forbidden", message: "the token is another user's" });
    assert.equal(one.errors[0].code, "forbidden");
    one.passes(5_000);
    assert.equal(one.tokens, 3);
  });

  it("are fetched anew after 4002, before the next attempt", () => {
    const one = renewing().connects({ expires_ms: 10_000 });
    one.hears("goodbye", { code: 4002, reason: "token expired", retry_ms: 700 });
    one.passes(700);
    assert.equal(one.tokens, 2);
    assert.equal(one.opens, 1, "nothing is opened without it");
    one.does("renewed", "t2");
    assert.equal(one.opens, 2);
    one.heard();
    one.does("opened");
    assert.equal(one.heard()[0].token, "t2");
  });

  it("that ended while the machine slept are not even tried", () => {
    const one = renewing().connects({ expires_ms: 100_000 });
    one.now = 3_600_000;
    one.breaks().passes(one.state().pause);
    assert.deepEqual([one.machine.state, one.opens, one.tokens], ["connecting", 1, 2]);
    one.does("renewed", "t2");
    assert.equal(one.opens, 2);
  });

  it("that cannot be had make the attempt fail like any other", () => {
    const one = talk({ token: () => {} }).passes(0);
    one.does("notRenewed", new Error("no"));
    assert.deepEqual(one.state(), { state: "waiting", code: 1006, reason: "no token", pause: 500 });
    one.passes(500);
    assert.equal(one.tokens, 2);
  });

  it("that come after the attempt was given up serve the next one", () => {
    const one = talk({ token: () => {} }).passes(15_000);
    assert.equal(one.machine.state, "waiting");
    one.does("renewed", "late");
    one.passes(500);
    assert.equal(one.tokens, 1);
    assert.equal(one.opens, 1);
  });

  it("that come twice open one connection", () => {
    const one = renewing();
    one.does("renewed", "t1 again");
    assert.equal(one.opens, 1);
  });

  it("that are fixed end the client when they expire: coming back would change nothing", () => {
    const one = talk({ token: "t" }).connects({ expires_ms: 10_000 });
    one.hears("goodbye", { code: 4002, reason: "token expired", retry_ms: 700 });
    assert.deepEqual(one.state(), { state: "closed", code: 4002, reason: "token expired" });
  });

  it("may be none", () => {
    const one = talk({ token: () => {} }).passes(0);
    one.does("renewed", null);
    assert.equal(one.opens, 1);
    one.does("opened");
    assert.deepEqual(one.heard(), []);
  });
});

describe("a dead link", () => {
  it("is found by a ping after the server's own silence, and 10 s more", () => {
    const one = connected();
    one.passes(24_999);
    assert.deepEqual(one.heard(), []);
    one.passes(1);
    assert.deepEqual(one.heard(), [{ op: "ping" }]);
    one.passes(9_999);
    assert.equal(one.machine.state, "connected");
    one.passes(1);
    assert.deepEqual(one.state(), { state: "waiting", code: 4003, reason: "no pong", pause: 500 });
    assert.equal(one.closes, 1);
  });

  it("is none where anything is heard", () => {
    const one = connected();
    const reader = one.reads("a", 0);
    for (let offset = 1; offset <= 10; offset++) one.passes(20_000).message("a", offset);
    assert.deepEqual(one.heard(), []);
    one.passes(25_000).message("a", 11).passes(10_000);
    assert.equal(one.machine.state, "connected");
    assert.equal(reader.got().length, 11);
  });

  it("is looked for at once, and with less patience, where somebody looks at the page", () => {
    const one = connected().passes(1000);
    one.does("wake");
    one.does("wake");
    assert.deepEqual(one.heard(), [{ op: "ping" }]);
    one.passes(4_999);
    assert.equal(one.machine.state, "connected");
    one.passes(1);
    assert.equal(one.machine.state, "waiting");
  });

  it("is given no second chance by looking again", () => {
    const one = connected();
    for (let times = 0; times < 5; times++) {
      one.does("wake");
      one.passes(1000);
    }
    assert.equal(one.machine.state, "waiting");
  });

  it("may be one that is only being made: it is given 5 s more", () => {
    const one = talk().passes(1000);
    one.does("wake");
    one.passes(5_000);
    assert.equal(one.machine.state, "waiting");
  });

  it("is found late, and only then, by a page whose timers hardly run", () => {
    const one = connected();
    one.now = 60_000;
    one.does("tick");
    assert.deepEqual(one.heard(), [{ op: "ping" }]);
    one.hears("pong");
    one.now = 120_000;
    one.does("tick");
    assert.equal(one.machine.state, "connected");
  });

  for (const junk of [undefined, null, 0, -5, "x", {}]) {
    it(`is looked for also where the server names ${JSON.stringify(junk)} as its silence`, () => {
      const one = talk().connects({ ping_ms: junk });
      one.passes(60_000);
      assert.ok(one.heard().length >= 1);
      assert.ok(Number.isFinite(one.machine.due));
    });
  }
});

describe("commands", () => {
  const publish = { op: "publish", topic: "a", data: { n: 1 } };

  it("are answered by their id, in any order", () => {
    const one = connected();
    const [first, second] = [one.asks(publish), one.asks({ op: "history", topic: "a" })];
    const [{ id: a }, { id: b }] = one.heard();
    one.hears("history", { id: b, topic: "a", epoch: "e", offset: 0, messages: [] });
    one.hears("published", { id: a, topic: "a", epoch: "e", offset: 1 });
    assert.equal(first.answer.offset, 1);
    assert.deepEqual(second.answer.messages, []);
  });

  it("fail with the server's error", () => {
    const one = connected();
    const asked = one.asks(publish);
    const [{ id }] = one.heard();
    one.hears("error", { id, code: "unavailable", topic: "a", message: "no answer", retry_ms: 1000 });
    assert.ok(asked.answer instanceof ClarionError);
    assert.deepEqual([asked.answer.code, asked.answer.retryMs], ["unavailable", 1000]);
    assert.deepEqual(one.errors, []);
  });

  it("wait for a connection, in order", () => {
    const one = talk();
    const asked = [1, 2, 3].map((data) => one.asks({ op: "publish", topic: "a", data }));
    one.connects();
    assert.deepEqual(one.heard().map(({ data }) => data), [1, 2, 3]);
    assert.deepEqual(asked.map(({ answer }) => answer), [undefined, undefined, undefined]);
  });

  it("that were sent fail with the connection, as nobody knows whether they were carried out", () => {
    const one = connected();
    const sent = one.asks(publish);
    one.breaks();
    const unsent = one.asks(publish);
    assert.equal(sent.answer.code, "disconnected");
    one.heard();
    one.comesBack();
    assert.equal(unsent.answer, undefined);
    assert.equal(one.heard().length, 1);
  });

  it("wait ten seconds in all", () => {
    const one = talk({ sse: false });
    const asked = one.asks(publish);
    one.passes(9_999);
    assert.equal(asked.answer, undefined);
    one.passes(1);
    assert.equal(asked.answer.code, "timeout");
    assert.equal(one.machine.state, "connecting", "which ends nothing else");
    const late = connected();
    const other = late.asks(publish);
    const [{ id }] = late.heard();
    late.passes(10_000).hears("published", { id, topic: "a" });
    assert.equal(other.answer.code, "timeout");
  });

  it("are at most a thousand", () => {
    const one = talk();
    const asked = Array.from({ length: 1001 }, () => one.asks(publish));
    assert.equal(asked[999].answer, undefined);
    assert.equal(asked[1000].answer.code, "too_many");
  });

  it("too long for the server are refused here: it would close for good", () => {
    const one = connected();
    const asked = one.asks({ op: "publish", topic: "a", data: "é".repeat(33_000) });
    assert.equal(asked.answer.code, "too_large");
    assert.deepEqual(one.heard(), []);
    assert.equal(one.machine.commands.size, 0);
  });

  it("hold what they held when they were given", () => {
    const one = talk();
    const data = { n: 1 };
    one.asks({ op: "publish", topic: "a", data });
    data.n = 2;
    one.connects();
    assert.deepEqual(one.heard()[0].data, { n: 1 });
  });

  it("fail at once on a closed client", () => {
    const one = connected();
    const before = one.asks(publish);
    one.does("close");
    assert.equal(before.answer.code, "closed");
    assert.equal(one.asks(publish).answer.code, "closed");
  });
});

describe("where WebSockets are blocked", () => {
  const blocked = (options) => {
    const one = talk(options);
    const reader = one.subscribes("a");
    one.passes(0).breaks();
    one.passes(one.state().pause).breaks();
    one.passes(one.state().pause);
    return { one, reader };
  };

  it("a stream is tried after two on which nothing was heard", () => {
    const { one } = blocked();
    assert.equal(one.machine.stream, true);
    assert.equal(one.opens, 3);
    one.hears("welcome");
    assert.deepEqual(one.state(), { state: "connected", client: undefined, user: undefined, transport: "sse" });
    assert.deepEqual(one.heard(), [], "there is nobody to say anything to");
  });

  it("also those count that open and stay silent, as behind a proxy that breaks the upgrade", () => {
    const one = talk();
    one.subscribes("a");
    for (const _ of [1, 2]) {
      one.passes(one.state()?.pause ?? 0);
      one.does("opened");
      one.passes(15_000);
    }
    one.passes(one.state().pause);
    assert.equal(one.machine.stream, true);
  });

  it("those do not count on which the server was heard", () => {
    const one = talk();
    one.subscribes("a");
    for (let times = 0; times < 5; times++) {
      one.passes(one.state()?.pause ?? 0);
      assert.equal(one.machine.stream, false);
      one.hears("goodbye", { code: 4004, reason: "overloaded", retry_ms: 10 });
    }
  });

  it("the positions are those of the WebSocket, and the other way round", () => {
    const one = connected();
    const reader = one.reads("a", 17);
    one.message("a", 18);
    for (const _ of [1, 2]) one.breaks().passes(one.state().pause);
    one.breaks().passes(one.state().pause);
    assert.equal(one.machine.stream, true);
    const { topic, epoch, offset } = one.machine.topics.get("a");
    assert.deepEqual({ topic, epoch, offset }, { topic: "a", epoch: "e", offset: 18 });
    one.hears("welcome");
    one.hears("subscribed", { topic: "a", epoch: "e", offset: 20, recovered: true });
    one.message("a", 19).message("a", 20);
    assert.deepEqual(reader.got(), [18, "subscribed 20", 19, 20]);
    one.breaks().passes(one.state().pause).connects();
    assert.deepEqual(one.heard().at(-1).since, { epoch: "e", offset: 20 });
  });

  it("WebSocket and stream take turns until one works", () => {
    const { one } = blocked();
    one.hears("welcome").passes(10_000);
    const turns = [];
    for (let times = 0; times < 4; times++) {
      one.breaks().passes(one.state().pause);
      turns.push(one.machine.stream ? "sse" : "websocket");
      if (one.machine.stream) one.hears("welcome").passes(6_000);
    }
    assert.deepEqual(turns, ["websocket", "sse", "websocket", "sse"]);
  });

  it("a stream that fails as well says that it is not WebSockets that are blocked", () => {
    const { one } = blocked();
    const turns = [];
    for (let times = 0; times < 4; times++) {
      one.breaks().passes(one.state().pause);
      turns.push(one.machine.stream ? "sse" : "websocket");
    }
    assert.deepEqual(turns, ["websocket", "websocket", "sse", "websocket"]);
  });

  it("a WebSocket is tried again after 15 s, and then ever more rarely", () => {
    const { one } = blocked();
    const waits = [];
    for (let times = 0; times < 4; times++) {
      one.hears("welcome");
      const begun = one.now;
      while (one.machine.state === "connected") one.passes(1000).machine.state === "connected" && one.does("heard", "");
      waits.push(one.now - begun);
      assert.equal(one.states.at(-2).code, 1000);
      assert.equal(one.machine.stream, false);
      one.breaks().passes(one.state().pause);
      assert.equal(one.machine.stream, true);
    }
    assert.deepEqual(waits, [15_000, 30_000, 60_000, 120_000]);
  });

  it("a stream is dead after a minute and ten seconds without a byte", () => {
    const { one } = blocked({ WebSocket: null });
    one.hears("welcome", { ping_ms: 60_000 }).passes(69_999);
    assert.equal(one.machine.state, "connected");
    one.passes(1);
    assert.equal(one.state().code, 4003);
  });

  it("a comment keeps a stream alive", () => {
    const { one } = blocked({ WebSocket: null });
    one.hears("welcome", { ping_ms: 60_000 });
    for (let times = 0; times < 10; times++) {
      one.passes(25_000);
      one.does("heard", "");
    }
    assert.equal(one.machine.state, "connected");
  });

  it("a new topic opens the stream anew, all that are new at once", () => {
    const { one, reader } = blocked();
    one.hears("welcome");
    one.hears("subscribed", { topic: "a", epoch: "e", offset: 3 });
    const other = one.subscribes("b");
    one.passes(0);
    assert.equal(one.machine.stream, true);
    assert.equal(one.opens, 4);
    one.hears("welcome");
    one.hears("subscribed", { topic: "a", epoch: "e", offset: 3, recovered: true });
    one.hears("subscribed", { topic: "b", epoch: "e", offset: 8 });
    one.message("b", 9).message("a", 4);
    assert.deepEqual(reader.got(), ["subscribed 3", "subscribed 3", 4]);
    assert.deepEqual(other.got(), ["subscribed 8", 9]);
  });

  it("commands fail at once", () => {
    const { one } = blocked();
    const before = one.asks({ op: "publish", topic: "a", data: 1 });
    one.hears("welcome");
    assert.equal(before.answer.code, "no_websocket");
    assert.equal(one.asks({ op: "presence", topic: "a" }).answer.code, "no_websocket");
    assert.deepEqual(one.heard(), []);
  });

  it("a stream needs topics, and waits for some where it is all there is", () => {
    const one = talk({ WebSocket: null });
    assert.equal(one.machine.due, Infinity);
    one.passes(1000);
    assert.equal(one.opens, 0);
    one.subscribes("a");
    one.passes(0);
    assert.equal(one.opens, 1);
    const other = talk();
    for (let times = 0; times < 4; times++) other.passes(other.state()?.pause ?? 0).breaks();
    assert.equal(other.machine.stream, false);
  });

  it("nothing else is tried where that is not wanted", () => {
    const one = talk({ sse: false });
    one.subscribes("a");
    for (let times = 0; times < 6; times++) one.passes(one.state()?.pause ?? 0).breaks();
    assert.equal(one.machine.stream, false);
  });

  it("a network that comes back makes WebSockets worth a try", () => {
    const { one } = blocked();
    one.breaks().does("wake");
    one.breaks().passes(one.state().pause);
    assert.equal(one.machine.stream, false);
  });
});

describe("closing", () => {
  it("ends all, without an error, and nothing comes after it", () => {
    const one = connected();
    const reader = one.reads("a", 1);
    const states = one.states.length;
    one.does("close");
    one.does("close");
    one.message("a", 2).breaks();
    one.does("wake");
    one.does("renewed", "late");
    one.passes(1_000_000);
    assert.deepEqual(one.states.slice(states), [{ state: "closed", code: undefined, reason: undefined }]);
    assert.equal(reader.error, undefined);
    assert.equal(reader.closed, true);
    assert.deepEqual([one.machine.due, one.machine.topics.size, one.heard().length], [Infinity, 0, 0]);
  });

  it("works from every state", () => {
    for (const one of [talk(), talk().passes(0), connected(), connected().breaks()]) {
      one.does("close");
      assert.equal(one.machine.state, "closed");
      assert.equal(one.machine.due, Infinity);
    }
  });
});

describe("garbage", () => {
  const texts = [
    "", "{", "null", "5", "[]", '"x"', "{}", '{"op":null}', '{"op":{}}', '{"op":"message"}', '{"op":"lost"}',
    '{"op":"subscribed"}', '{"op":"subscribed","topic":5,"offset":"x"}', '{"op":"unsubscribed"}', '{"op":"error"}',
    '{"op":"error","id":null,"topic":{}}', '{"op":"error","id":"refresh"}', '{"op":"refreshed","expires_ms":"x"}',
    '{"op":"message","topic":"__proto__","offset":1,"data":1}', '{"op":"message","topic":"a","offset":"x","data":1}',
    '{"op":"message","topic":"a","offset":{},"data":1}', '{"op":"join","topic":"a"}', '{"op":"constructor"}',
    '{"op":"toString","topic":"a"}', '{"op":"published","id":12345}', '{"op":"welcome"}', "\u0000",
  ];

  it("of any kind neither ends a connection nor stops its clock", () => {
    const one = talk({ token: () => {} }).passes(0);
    one.does("renewed", "t");
    one.connects({ expires_ms: 3_600_000 });
    const reader = one.reads("a", 1);
    for (const text of texts) one.does("heard", text);
    one.does("heard", new Blob(["x"]));
    one.does("heard", undefined);
    assert.equal(one.machine.state, "connected");
    assert.ok(Number.isFinite(one.machine.due));
    reader.got();
    one.message("a", 2);
    assert.deepEqual(reader.got().at(-1), 2);
  });

  it("as a goodbye is an end like any other", () => {
    for (const fields of [{}, { code: "x" }, { code: null, retry_ms: -1 }, { code: {} }]) {
      const one = connected().hears("goodbye", fields);
      assert.equal(one.machine.state, "waiting");
      assert.ok(Number.isFinite(one.machine.due));
    }
  });

  it("in every state is put up with", () => {
    for (const make of [() => talk(), () => talk().passes(0), () => connected().breaks()]) {
      const one = make();
      for (const text of texts) one.does("heard", text);
      assert.ok(!Number.isNaN(one.machine.due));
    }
  });
});

/** The examples of the wire that every program which speaks it is tested against. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";

import { ClarionError, comesBack } from "../clarion-client.js";
import { Talk } from "./talk.js";

const vectors = (name) =>
  JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}.json`, import.meta.url), "utf8"));

/** Makes a connected client say what an example says; by op. */
const speak = {
  connect: ({ token, name }) => {
    const one = new Talk({ token, name }).passes(0);
    one.does("opened");
    return one;
  },
  subscribe: ({ topic, since, last, topics }) => {
    const one = new Talk().connects();
    one.subscribes(...(topics ?? [{ topic, since, last }]));
    return one;
  },
  unsubscribe: ({ topic }) => {
    const one = new Talk().connects();
    const reader = one.subscribes(topic);
    one.heard();
    one.does("unsubscribe", [{ topic }], reader);
    return one;
  },
  refresh: ({ token }) => {
    const one = new Talk({ token: () => {} }).passes(0);
    one.does("renewed", "another");
    one.connects();
    one.heard();
    one.does("renewed", token);
    return one;
  },
  ping: () => {
    const one = new Talk().connects();
    one.does("wake");
    return one;
  },
};

describe("commands", () => {
  for (const { name, by, text } of vectors("commands")) {
    if (by !== "client") continue;
    it(name, () => {
      const { id, ...example } = JSON.parse(text);
      const { op, ...fields } = example;
      const one = speak[op]?.(fields) ?? new Talk().connects();
      if (!speak[op]) one.asks(example);
      const [{ id: own, ...said }, ...rest] = one.heard();
      assert.deepEqual(said, example);
      assert.deepEqual(rest, []);
      assert.ok(own === undefined || Number.isInteger(own) || typeof own === "string");
    });
  }
});

/** What a client makes of an example, in the words of the examples; by op. */
const understand = {
  welcome(text) {
    const { id = null } = JSON.parse(text);
    const one = new Talk({ token: id === null ? null : () => {} }).passes(0);
    if (id !== null) one.does("renewed", "t");
    one.does("opened");
    if (id !== null) one.machine.greeting = id; // as if we had chosen the example's id
    one.does("heard", text);
    const { client, user } = one.state();
    const { pingMs, renewAt } = one.machine;
    const expires = Number.isFinite(renewAt) ? renewAt + 60_000 : undefined;
    return { op: "welcome", id, client, user, ping_ms: pingMs, expires_ms: expires };
  },
  subscribed(text) {
    const { id = null, topic, epoch: fresh, recovered } = JSON.parse(text);
    const one = new Talk().connects();
    if (id === null && fresh !== undefined) {
      one.reads(topic, 1_000_000);
      one.does("heard", text);
      const { epoch, offset } = one.machine.topics.get(topic);
      return { op: "subscribed", topic, epoch, offset, recovered: true };
    }
    const since = recovered === undefined ? undefined : { epoch: "x8Qz", offset: 17 };
    const reader = one.subscribes({ topic, since });
    if (id === null) one.machine.topics.clear();
    else one.machine.topics.get(topic).asked = id;
    one.does("heard", text);
    const { epoch, offset } = one.machine.topics.get(topic);
    if (recovered) assert.equal(offset, 17, "the position moves with the messages");
    const lost = reader.items.some(({ op }) => op === "lost");
    assert.equal(lost, recovered === false);
    return { op: "subscribed", id, topic, epoch, offset: recovered ? reader.items[0].offset : offset, recovered };
  },
  message(text) {
    const { topic } = JSON.parse(text);
    const one = new Talk().connects();
    const reader = one.subscribes(topic);
    one.hears("subscribed", { id: one.heard()[0].id, topic });
    one.does("heard", text);
    const { epoch, ...message } = reader.items[1];
    return message;
  },
  lost(text) {
    const { topic } = JSON.parse(text);
    const one = new Talk().connects();
    const reader = one.reads(topic, 19);
    one.does("heard", text);
    const [{ op, epoch, offset, message: reason }] = reader.items;
    assert.deepEqual({ ...one.machine.topics.get(topic), readers: 0 }, { topic, epoch, offset, last: 0, at: 0, asked: 1, live: true, readers: 0 });
    return { op, id: null, topic, epoch, offset, reason };
  },
  unsubscribed(text) {
    const { topic, id = null } = JSON.parse(text);
    const one = new Talk().connects();
    const reader = one.reads(topic, 19);
    if (id !== null) one.does("unsubscribe", [{ topic }], reader);
    one.does("heard", text);
    assert.equal(one.machine.topics.size, 0);
    return { op: "unsubscribed", id, topic, reason: reader.error?.message };
  },
  refreshed(text) {
    const one = new Talk({ token: () => {} }).passes(0);
    one.does("renewed", "t");
    one.connects();
    one.does("heard", text);
    return { op: "refreshed", id: JSON.parse(text).id, expires_ms: one.machine.renewAt + 60_000 };
  },
  pong(text) {
    const one = new Talk().connects();
    one.does("wake");
    one.does("heard", text);
    assert.equal(one.machine.pongAt, Infinity);
    return { op: "pong", id: JSON.parse(text).id };
  },
  error(text) {
    const { id = null } = JSON.parse(text);
    const { answer = undefined, errors } = id === null ? spoken(text) : answered(text, id);
    const { code, message, topic, retryMs } = answer ?? errors[0];
    return { op: "error", id, code, topic, message, retry_ms: retryMs };
  },
  goodbye(text) {
    const one = new Talk().connects();
    one.does("heard", text);
    const { state, code, reason, pause } = one.state();
    assert.equal(state, comesBack(code) ? "waiting" : "closed");
    return { op: "goodbye", code, reason, retry_ms: pause };
  },
  join: (text) => happened(text),
  leave: (text) => happened(text),
  published: (text) => answered(text, JSON.parse(text).id).answer,
  history: (text) => answered(text, JSON.parse(text).id).answer,
  presence: (text) => answered(text, JSON.parse(text).id).answer,
};

/** What somebody who reads the topic gets. */
function happened(text) {
  const one = new Talk().connects();
  const reader = one.reads(JSON.parse(text).topic, 1);
  one.does("heard", text);
  return reader.items[0];
}

/** A connected client to whom it is said. */
function spoken(text) {
  const one = new Talk().connects();
  one.does("heard", text);
  assert.equal(one.machine.state, "connected");
  return one;
}

/** The same to a command with that id. */
function answered(text, id) {
  const one = new Talk().connects();
  one.machine.id = id - 1;
  const asked = one.asks({ op: "publish", topic: "a", data: 1 });
  one.does("heard", text);
  assert.equal(one.machine.commands.size, 0);
  assert.deepEqual(one.errors, []);
  assert.equal(asked.answer instanceof ClarionError, JSON.parse(text).op === "error");
  return asked;
}

describe("answers", () => {
  for (const { name, text, means } of vectors("answers")) {
    it(name, () => {
      const { op } = JSON.parse(text);
      const understood = (understand[op] ?? unknown)(text);
      const expected = Object.fromEntries(
        Object.entries(means).map(([key, value]) => [key, key === "data" ? value : (value ?? undefined)]),
      );
      const filled = Object.fromEntries(Object.keys(means).map((key) => [key, understood[key] ?? (key === "data" ? null : undefined)]));
      assert.deepEqual(filled, expected);
    });
  }

  function unknown(text) {
    const one = new Talk().connects();
    const reader = one.reads("chat:1", 1);
    one.does("heard", text);
    assert.deepEqual([one.machine.state, one.errors, one.heard()], ["connected", [], []]);
    assert.ok(reader.items.every(({ op }) => op !== "message"));
    return { op: JSON.parse(text).op };
  }
});

describe("closes", () => {
  for (const { name, code, come_back } of vectors("closes")) {
    it(`${code}: ${name}`, () => assert.equal(comesBack(code), come_back));
  }
});

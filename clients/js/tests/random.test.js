/**
 * Conversations at random: a server by the book, a network that breaks anywhere, a program that
 * subscribes and leaves as it likes. Whatever happens, each reader gets every message of its topics
 * once and in order, or is told that some are lost; and in the end it is up to date.
 */

import assert from "node:assert/strict";
import { it } from "node:test";

import { Reader, Talk } from "./talk.js";

const SEEDS = 200;
const STEPS = 300;
const TOPICS = ["a", "b", "c", "plain"];

/** A small generator of numbers from 0 to 1, the same for the same seed (mulberry32). */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Streams with a history of eight, and one connection, whose answers wait until they are carried. */
class Server {
  epochs = 1;
  streams = new Map(TOPICS.map((name) => [name, { epoch: "e1", offset: 0, kept: [] }]));
  subscribed = new Set();
  way = []; // what is on its way to the client

  publish(name) {
    const stream = this.streams.get(name);
    const offset = ++stream.offset;
    stream.kept.push(offset);
    if (stream.kept.length > 8) stream.kept.shift();
    if (this.subscribed.has(name)) this.message(name, offset);
  }

  message(name, offset) {
    const position = name === "plain" ? {} : { offset };
    this.says({ op: "message", topic: name, ...position, ts: 1, data: offset });
  }

  says(message) {
    this.way.push(JSON.stringify(message));
  }

  /** A shard is gone, and its streams with it. */
  forget() {
    this.epochs += 1;
    for (const [name, stream] of this.streams) {
      Object.assign(stream, { epoch: `e${this.epochs}`, offset: 0, kept: [] });
      if (name === "plain" || !this.subscribed.has(name)) continue;
      this.says({ op: "lost", topic: name, epoch: stream.epoch, offset: 0, reason: "it is gone" });
    }
  }

  /** The streams go on in another epoch, and nothing is missing. */
  turn() {
    this.epochs += 1;
    for (const [name, stream] of this.streams) {
      stream.epoch = `e${this.epochs}`;
      if (name === "plain" || !this.subscribed.has(name)) continue;
      this.says({ op: "subscribed", topic: name, epoch: stream.epoch, offset: stream.offset, recovered: true });
    }
  }

  cut() {
    this.way = [];
    this.subscribed.clear();
  }

  takes({ op, id, topic, since, last, topics }) {
    if (op === "ping") this.says({ op: "pong" });
    if (op === "unsubscribe") {
      const code = "not_subscribed";
      if (this.subscribed.delete(topic)) this.says({ op: "unsubscribed", id, topic });
      else this.says({ op: "error", id, code, topic, message: code });
    }
    if (op === "subscribe") {
      for (const wish of topics ?? [{ topic, since, last }]) this.subscribe(wish, id);
    }
  }

  subscribe({ topic, since, last = 0 }, id) {
    if (this.subscribed.has(topic)) {
      const code = "already_subscribed";
      this.says({ op: "error", id, code, topic, message: code });
      return;
    }
    this.subscribed.add(topic);
    if (topic === "plain") {
      this.says({ op: "subscribed", id, topic });
      return;
    }
    const { epoch, offset, kept } = this.streams.get(topic);
    const whole = since && since.epoch === epoch && since.offset + 1 >= (kept[0] ?? offset + 1);
    const recovered = since && { recovered: Boolean(whole) };
    this.says({ op: "subscribed", id, topic, epoch, offset, ...recovered });
    const from = since ? (whole ? since.offset : offset) : offset - last;
    for (const missed of kept) if (missed > from) this.message(topic, missed);
  }
}

/** Somebody who reads one topic, and checks what comes. */
class Witness extends Reader {
  told = new Map(); // the last offset of each topic
  lost = 0;

  constructor(names) {
    super();
    this.names = names;
  }

  push(item) {
    const { op, topic, offset, epoch } = item;
    assert.ok(this.names.includes(topic), `${topic} came to a reader of ${this.names}`);
    if (op === "lost") {
      this.lost += 1;
      this.told.set(topic, offset);
    }
    if (op !== "message" || topic === "plain") return;
    const before = this.told.get(topic);
    assert.ok(epoch);
    if (before !== undefined) assert.equal(offset, before + 1, `${topic}: ${offset} after ${before}`);
    this.told.set(topic, offset);
  }
}

function converse(seed) {
  const random = generator(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const one = new Talk({ random, sse: false });
  const server = new Server();
  const witnesses = new Set();
  let open = false;

  const carry = (count = Infinity) => {
    for (; server.way.length && count > 0; count--) one.does("heard", server.way.shift());
  };
  const listen = () => {
    if (one.closes + Number(open) < one.opens && one.machine.state === "connecting" && !open) {
      open = true;
      one.does("opened");
      server.says({ op: "welcome", client: "c-1", ping_ms: 25_000 });
    }
    if (open && one.machine.state === "waiting") {
      open = false;
      server.cut();
    }
    for (const command of one.heard()) if (open) server.takes(command);
  };
  const subscribe = () => {
    const names = TOPICS.filter(() => random() < 0.4);
    const witness = new Witness(names);
    if (!names.length) return;
    const wishes = names.map((topic) => (random() < 0.3 ? { topic, last: Math.ceil(random() * 4) } : { topic }));
    one.does("subscribe", wishes, witness);
    witnesses.add(witness);
  };
  const leave = () => {
    const [witness] = [...witnesses].sort(() => random() - 0.5);
    if (!witness) return;
    one.does("unsubscribe", witness.names.map((topic) => ({ topic })), witness);
    witnesses.delete(witness);
  };
  const cut = () => {
    if (!open) return;
    open = false;
    server.cut();
    one.breaks();
  };
  const steps = [
    subscribe, subscribe, leave, cut, () => server.forget(), () => server.turn(), () => one.does("wake"),
    ...Array(6).fill(() => server.publish(pick(TOPICS))), ...Array(6).fill(() => carry(Math.ceil(random() * 4))),
    ...Array(3).fill(() => one.passes(random() * 3000)), () => one.does("tick"),
    () => server.subscribed.has("b") || (open && server.subscribe({ topic: "b" })),
    () => server.subscribed.delete("c") && server.says({ op: "unsubscribed", topic: "c", reason: "why not" }),
  ];
  for (let step = 0; step < STEPS; step++) {
    pick(steps)();
    listen();
    for (const witness of witnesses) {
      if (!witness.error) continue;
      assert.equal(witness.error.code, "unsubscribed", "nothing else ends a subscription here");
      witnesses.delete(witness);
    }
  }

  // Calm: everything is carried, and a last message comes in each topic.
  const calm = () => {
    for (let times = 0; times < 40; times++) {
      listen();
      carry();
      one.passes(1000);
    }
  };
  calm();
  assert.equal(one.machine.state, "connected");
  for (const name of TOPICS) server.publish(name);
  calm();
  for (const witness of witnesses) {
    if (witness.error) continue;
    for (const name of witness.names) {
      if (name === "plain") continue;
      assert.equal(witness.told.get(name), server.streams.get(name).offset, `${name} is behind`);
    }
  }
  const read = new Set([...witnesses].filter(({ error }) => !error).flatMap(({ names }) => names));
  for (const name of read) assert.ok(server.subscribed.has(name));
  one.does("close");
  return [...witnesses].reduce((sum, { lost }) => sum + lost, 0);
}

it("conversations at random lose nothing in silence", () => {
  let losses = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    try {
      losses += converse(seed);
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
  assert.ok(losses > 10, "and there was something to lose");
});

/** A machine, a clock that the test moves, and a record of what the machine wanted. */

import assert from "node:assert/strict";

import { Machine } from "../clarion-client.js";

const DEFAULTS = {
  WebSocket: class {},
  sse: true,
  backoff: [1000, 30_000],
  timeout: 10_000,
  random: () => 0.5,
};

/** Keeps what a topic brings. */
export class Reader {
  items = [];
  error = undefined;
  closed = false;

  push(item) {
    this.items.push(item);
  }

  end(error) {
    this.closed = true;
    this.error = error;
  }

  /** What came since the last call, shortened: data of messages, op and offset of the rest. */
  got() {
    return this.items.splice(0).map((item) => {
      if (item.op === "message") return item.data;
      return item.offset === undefined ? item.op : `${item.op} ${item.offset}`;
    });
  }
}

/** A list of one topic as the topic alone: to the server they are the same. */
export function unfolded({ topics, ...command }) {
  if (topics?.length === 1) return { ...command, ...topics[0] };
  return topics ? { ...command, topics } : command;
}

export class Talk {
  now = 0;
  states = [];
  errors = [];
  said = [];
  opens = 0; // transports that the machine wanted
  closes = 0;
  tokens = 0; // that it asked for

  constructor(options) {
    this.machine = new Machine(
      { ...DEFAULTS, ...options },
      {
        open: () => (this.opens += 1),
        close: () => (this.closes += 1),
        renew: () => (this.tokens += 1),
        send: (text) => this.said.push(unfolded(JSON.parse(text))),
        emit: (type, detail) => {
          if (type === "state") this.states.push(detail);
          if (type === "error") this.errors.push(detail);
        },
      },
    );
  }

  /** Calls the machine, at the time it is. */
  does(name, ...rest) {
    return this.machine[name](this.now, ...rest);
  }

  /** Lets time pass, tick by tick, as the machine wants them. */
  passes(ms) {
    const end = this.now + ms;
    for (let ticks = 0; this.machine.due <= end; ticks++) {
      assert.ok(ticks < 10_000, `it is due again and again at ${this.machine.due}`);
      this.now = Math.max(this.now, this.machine.due);
      this.does("tick");
    }
    this.now = end;
    return this;
  }

  /** The server says something. */
  hears(op, fields) {
    this.does("heard", typeof op === "string" && !fields ? JSON.stringify({ op }) : JSON.stringify({ op, ...fields }));
    return this;
  }

  /** From nothing to `connected` over a WebSocket. */
  connects(fields = {}) {
    this.passes(0);
    this.does("opened");
    const greeting = this.said.find(({ op }) => op === "connect");
    this.hears("welcome", { id: greeting?.id, client: "c-1", ping_ms: 25_000, ...fields });
    assert.equal(this.machine.state, "connected");
    return this;
  }

  /** The network breaks the connection, or the attempt. */
  breaks(fields = { code: 1006 }) {
    this.does("ended", fields);
    return this;
  }

  /** After `breaks`: waits, and connects again. */
  comesBack(fields) {
    this.passes(this.state().pause);
    assert.equal(this.machine.state, "connecting");
    return this.connects(fields);
  }

  /** What was said since the last call. */
  heard() {
    return this.said.splice(0);
  }

  /** The last state that was told. */
  state() {
    return this.states.at(-1);
  }

  /** Subscribes a new reader. */
  subscribes(...wishes) {
    const reader = new Reader();
    this.does("subscribe", wishes.map((wish) => (wish.topic ? wish : { topic: wish })), reader);
    this.does("tick");
    return reader;
  }

  /** Sends a command; the outcome is in `answer` of what is returned. */
  asks(command) {
    const asked = { answer: undefined };
    const settle = (answer) => (asked.answer = answer);
    this.does("request", command, settle, settle);
    return asked;
  }

  /** A reader of a topic with history that stands at epoch "e", `offset`. */
  reads(topic, offset) {
    const reader = this.subscribes(topic);
    const { id } = this.heard().at(-1);
    this.hears("subscribed", { id, topic, epoch: "e", offset });
    reader.got();
    return reader;
  }

  message(topic, offset, data = offset) {
    return this.hears("message", { topic, offset, ts: 1_790_000_000_000, data });
  }
}

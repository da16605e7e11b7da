/** A client of Clarion: see README.md and index.d.ts. */

const OPEN_MS = 15_000;
const PONG_MS = 10_000;
const WAKE_MS = 5_000;
const RENEW_MS = 5_000;
const STEADY_MS = 5_000;
const PROBE_MS = 15_000;
const LEAST_MS = 100;
const MOST_MS = 3_600_000;
const BLOCKED = 2;
const BATCH = 100;
const QUEUE = 1000;
const COMMAND = 65_536;

export class ClarionError extends Error {
  name = "ClarionError";
  constructor(code, message = code, topic, retryMs) {
    super(message);
    this.code = code;
    this.topic = topic;
    this.retryMs = retryMs;
  }
}

export class Lost extends ClarionError {
  op = "lost";
  constructor({ topic, epoch, offset }, reason) {
    super("lost", reason, topic);
    Object.assign(this, { epoch, offset });
  }
  get data() {
    throw this;
  }
}

const sane = (ms) => Math.min(Math.max(ms, LEAST_MS), MOST_MS);

export const comesBack = (code) => !(code >= 4500 || [1002, 1003, 1007, 1008, 1009].includes(code));

export class Machine {
  state = "waiting";
  topics = new Map();
  commands = new Map();
  id = 0;
  at = 0;
  attempts = 0;
  blocked = 0;
  probes = 0;

  constructor(options, host) {
    Object.assign(this, { options, host });
    this.renews = typeof options.token === "function";
    if (!this.renews) this.token = options.token ?? null;
  }

  get due() {
    let due = this.at;
    if (this.state === "waiting" && !this.topics.size && !this.options.WebSocket) due = Infinity;
    if (this.state === "connected") {
      due = Math.min(due, this.askAt, this.renewAt, this.pingAt, this.pongAt);
    }
    for (const { until } of this.commands.values()) return Math.min(due, until);
    return due;
  }

  tick(now) {
    for (const [id, { until }] of this.commands) {
      if (now >= until) this.fail(id, "timeout");
    }
    if (now < this.due) return;
    if (this.state === "waiting") this.connect(now);
    else if (this.state === "connecting") this.ended(now, { reason: "no welcome" });
    else if (now >= this.at) this.restart(now);
    else if (now >= this.pongAt) this.ended(now, { code: 4003, reason: "no pong" });
    else {
      if (now >= this.pingAt) this.ping(now + PONG_MS);
      if (now >= this.renewAt) this.renew();
      if (now >= this.askAt) this.ask(now);
    }
  }

  become(state, fields) {
    this.state = state;
    this.host.emit("state", { state, ...fields });
  }

  connect(now) {
    const { WebSocket, sse = true } = this.options;
    const blocked = sse && this.blocked >= BLOCKED && this.topics.size > 0;
    this.stream = !WebSocket || (blocked && !this.stream);
    if (!this.stream) this.blocked++;
    this.at = now + OPEN_MS;
    if (now >= this.renewAt) this.token = undefined;
    this.become("connecting");
    if (this.token === undefined) this.renew();
    else this.open();
  }

  open() {
    this.greeting = null;
    if (this.stream) for (const topic of this.topics.values()) topic.asked = null;
    this.host.open(this);
  }

  opened() {
    if (!this.token || this.inUrl) return;
    this.greeting = "connect";
    this.send({ op: "connect", id: "connect", token: this.token, name: this.options.name });
  }

  welcome(now, { client, user, ping_ms, expires_ms }) {
    this.since = now;
    this.pingMs = Math.max(1000, +ping_ms || OPEN_MS);
    this.pingAt = now + this.pingMs;
    this.at = Infinity;
    if (!this.stream) this.probes = 0;
    else if (this.options.WebSocket) this.at = now + PROBE_MS * 2 ** this.probes++;
    this.expire(now, expires_ms);
    this.become("connected", { client, user, transport: this.stream ? "sse" : "websocket" });
    for (const id of this.commands.keys()) this.issue(id);
    this.ask(now);
  }

  ping(until) {
    if (!this.stream && this.pongAt === Infinity) this.send({ op: "ping" });
    this.pingAt = Infinity;
    this.pongAt = Math.min(this.pongAt, until);
  }

  /** The network has changed, or somebody looks at the page again. */
  wake(now) {
    this.blocked = 0;
    if (this.state === "connecting") this.at = Math.min(this.at, now + WAKE_MS);
    else if (this.state === "waiting" && !this.told) this.at = now;
    else if (this.state === "connected" && !this.stream) this.ping(now + WAKE_MS);
    this.tick(now);
  }

  restart(now) {
    this.ended(now, { code: 1000, retry_ms: 0 });
    this.at = now;
  }

  ended(now, { code = 1006, reason, retry_ms }) {
    if (this.state === "waiting" || this.state === "closed") return;
    if (code === 4002 && this.renews) this.token = undefined;
    else if (code === 4002 || !comesBack(code)) return this.close(now, code, reason);
    this.host.close();
    if (this.stream && this.state === "connecting") this.blocked = 0;
    for (const topic of this.topics.values()) {
      topic.asked = undefined;
      topic.live = false;
      if (!topic.readers.size) this.topics.delete(topic.topic);
    }
    if (this.state === "connected") {
      for (const id of this.commands.keys()) this.fail(id, "disconnected");
      if (now > this.since + STEADY_MS) this.attempts = 0;
    }
    const { backoff: [first, most] = [1000, 30_000], random = Math.random } = this.options;
    this.told = Number.isFinite(retry_ms);
    const pause = this.told ? sane(retry_ms) : random() * Math.min(most, first * 2 ** this.attempts++);
    this.at = now + pause;
    this.become("waiting", { code, reason, pause });
  }

  close(now, code, reason) {
    if (this.state === "closed") return;
    this.at = Infinity;
    this.become("closed", { code, reason });
    this.host.close();
    const error = new ClarionError(code ?? "closed", reason);
    for (const topic of this.topics.values()) this.end(topic, code && error);
    for (const id of this.commands.keys()) this.answer(id, error);
  }

  renew() {
    this.renewAt = Infinity;
    this.host.renew();
  }

  renewed(now, token = null) {
    const awaited = this.token === undefined;
    this.token = token;
    if (this.state === "connecting" && awaited) this.open();
    else if (this.state === "connected") this.send({ op: "refresh", id: "refresh", token });
  }

  notRenewed(now, error) {
    this.host.emit("error", error, true);
    this.renewAt = now + RENEW_MS;
    if (this.state === "connecting") this.ended(now, { reason: "no token" });
  }

  expire(now, ms) {
    this.renewAt = this.renews && ms > 0 ? now + Math.max(1000, ms * 0.8, ms - 60_000) : Infinity;
  }

  send(command) {
    this.host.send(JSON.stringify(command));
  }

  request(now, command, resolve, reject) {
    const id = ++this.id;
    const text = JSON.stringify({ ...command, id });
    this.commands.set(id, { text, resolve, reject, until: now + (this.options.timeout ?? 10_000) });
    if (this.state === "closed") this.fail(id, "closed");
    else if (this.commands.size > QUEUE) this.fail(id, "too_many");
    else if (new TextEncoder().encode(text).length > COMMAND) this.fail(id, "too_large");
    else if (this.state === "connected") this.issue(id);
  }

  issue(id) {
    if (this.stream) this.fail(id, "no_websocket");
    else this.host.send(this.commands.get(id).text);
  }

  fail(id, code) {
    this.answer(id, new ClarionError(code));
  }

  answer(id, answer) {
    const { resolve, reject } = this.commands.get(id);
    this.commands.delete(id);
    if (answer instanceof Error) reject(answer);
    else resolve(answer);
  }

  add(topic, { epoch, offset, last }) {
    this.topics.set(topic, { topic, epoch, offset, last, at: 0, readers: new Set() });
    return this.topics.get(topic);
  }

  subscribe(now, wishes, reader) {
    for (const { topic, since, last } of wishes) {
      let known = this.topics.get(topic);
      if (!known?.readers.size) known = this.add(topic, since ?? { last });
      const { epoch, offset } = known;
      if (known.live) reader.push({ op: "subscribed", topic, epoch, offset });
      known.readers.add(reader);
    }
    this.askAt = now;
  }

  unsubscribe(now, wishes, reader) {
    for (const { topic } of wishes) {
      const known = this.topics.get(topic);
      if (!known?.readers.delete(reader) || known.readers.size) continue;
      this.topics.delete(topic);
      if (known.asked) this.send({ op: "unsubscribe", topic });
    }
  }

  ask(now) {
    const topics = [];
    this.askAt = Infinity;
    for (const topic of this.topics.values()) {
      if (topic.asked !== undefined) continue;
      if (topic.at <= now) topics.push(topic);
      else this.askAt = Math.min(this.askAt, topic.at);
    }
    while (topics[0]) {
      if (this.stream) {
        this.stream = false;
        return this.restart(now);
      }
      const id = ++this.id;
      const wishes = topics.splice(0, BATCH).map((one) => {
        const { topic, epoch, offset, last } = one;
        one.asked = id;
        return epoch && !last ? { topic, since: { epoch, offset } } : { topic, last: last || undefined };
      });
      this.send({ op: "subscribe", id, topics: wishes });
    }
  }

  end(topic, error) {
    this.topics.delete(topic.topic);
    for (const reader of topic.readers) reader.end(error);
  }

  tell(topic, item) {
    this.host.emit(item.op, item);
    for (const reader of topic.readers) reader.push(item);
  }

  lost(topic, { epoch, offset }, reason) {
    Object.assign(topic, { epoch, offset, last: 0 });
    this.tell(topic, new Lost(topic, reason));
  }

  heard(now, text) {
    this.pingAt = now + this.pingMs;
    this.pongAt = Infinity;
    let message;
    try {
      message = JSON.parse(text);
    } catch {}
    const { op, id = null, code, message: words, retry_ms } = message ?? {};
    if (!op) return;
    if (!this.stream) this.blocked = 0;
    const topic = this.topics.get(message.topic);
    const error = op === "error" && new ClarionError(code, words, message.topic, retry_ms);
    if (this.commands.has(id)) this.answer(id, error || message);
    else if (op === "welcome") {
      if (this.state === "connecting" && id === this.greeting) this.welcome(now, message);
    } else if (op === "goodbye") this.ended(now, message);
    else if (op === "refreshed") this.expire(now, message.expires_ms);
    else if (error) this.failed(now, id, error);
    else if (op === "subscribed") this.subscribed(topic, id, message);
    else if (topic?.live) this.happened(topic, message);
  }

  failed(now, id, error) {
    const { code, topic: name, retryMs } = error;
    if (id === "refresh") return this.notRenewed(now, error);
    if (id === "connect") {
      this.inUrl = true;
      return this.restart(now);
    }
    const named = name ? [this.topics.get(name)] : [...this.topics.values()];
    const meant = named.filter((topic) => topic?.asked === id && !topic.live);
    if (!meant[0]) this.host.emit("error", error, true);
    for (const topic of meant) {
      if (code === "already_subscribed") this.send({ op: "unsubscribe", topic: topic.topic });
      else if (!Number.isFinite(retryMs)) {
        this.end(topic, error);
        continue;
      }
      topic.asked = undefined;
      topic.at = now + sane(retryMs || 0);
      this.askAt = Math.min(this.askAt, topic.at);
    }
  }

  subscribed(topic, id, message) {
    const { epoch, offset, recovered } = message;
    if (topic?.live && id === null) {
      if (epoch) Object.assign(topic, { epoch, offset: Math.min(offset, topic.offset) });
    } else if (topic ? topic.asked === id : id === null) {
      topic ??= this.add(message.topic, message);
      topic.asked = id;
      topic.live = true;
      this.tell(topic, message);
      if (recovered === false || (topic.epoch && topic.epoch !== epoch)) {
        this.lost(topic, message, "not in the history");
      } else if (!topic.epoch) Object.assign(topic, { epoch, offset });
    }
  }

  happened(topic, message) {
    const { op, offset, reason } = message;
    const { epoch } = topic;
    if (op === "lost") this.lost(topic, message, reason);
    else if (op === "unsubscribed") this.end(topic, new ClarionError(op, reason, topic.topic));
    else if (op === "message") {
      if (offset <= topic.offset && !topic.last) return;
      if (offset > topic.offset + 1) this.lost(topic, { epoch, offset: offset - 1 }, "a gap");
      Object.assign(topic, { offset, last: 0 });
      this.tell(topic, { ...message, epoch });
    } else this.tell(topic, message);
  }
}

class Source extends EventTarget {
  hears = new Set();

  addEventListener(type, ...rest) {
    this.hears.add(type);
    super.addEventListener(type, ...rest);
  }

  emit(type, detail, loud) {
    queueMicrotask(() => {
      if (this.hears.has(type)) this.dispatchEvent(new CustomEvent(type, { detail }));
      else if (loud) console.warn(detail);
    });
  }
}

class Subscription extends Source {
  #queue = [];
  #wakes = [];
  #over = false;
  #iterated = false;
  #error;
  #room;
  #leave;

  constructor(room, leave) {
    super();
    this.#room = room;
    this.#leave = leave;
  }

  close() {
    this.end();
  }

  end(error) {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.#leave();
    if (error) this.emit("error", error, this.#listens);
    else {
      this.#queue = [];
      this.hears.clear();
    }
    this.#wake();
  }

  get #listens() {
    return this.hears.has("message") && !this.#iterated;
  }

  push(item) {
    if (this.#over) return;
    this.emit(item.op, item, item.op === "lost" && this.#listens);
    if (this.#listens || !("data" in item)) return;
    if (this.#queue.length >= this.#room) {
      const lost = this.#queue.map((old) => [old.topic, new Lost(old, "the buffer is full")]);
      this.#queue = [...new Map(lost).values()];
    }
    this.#queue.push(item);
    this.#wake();
  }

  #wake() {
    for (const wake of this.#wakes.splice(0)) wake();
  }

  async *[Symbol.asyncIterator]() {
    this.#iterated = true;
    try {
      for (;;) {
        while (this.#queue[0]) yield this.#queue.shift();
        if (this.#error) throw this.#error;
        if (this.#over) return;
        await new Promise((wake) => this.#wakes.push(wake));
      }
    } finally {
      this.close();
    }
  }
}

export class Client extends Source {
  #url;
  #options;
  #machine;
  #connection = {};
  #timer;
  #gone = new AbortController();

  constructor(url, options = {}) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    const { WebSocket = globalThis.WebSocket, token } = options;
    this.#options = { ...options, WebSocket };
    this.#machine = new Machine(this.#options, {
      open: (machine) => this.#open(machine),
      close: () => {
        this.#connection.close?.();
        this.#connection = {};
        if (this.state === "closed") this.#gone.abort();
      },
      send: (text) => this.#connection.send?.(text),
      renew: () =>
        Promise.resolve().then(token).then(
          (token) => this.#act("renewed", token),
          (error) => this.#act("notRenewed", error),
        ),
      emit: this.emit.bind(this),
    });
    const { signal } = this.#gone;
    const wake = () => globalThis.document?.hidden || this.wake();
    for (const type of ["online", "offline", "visibilitychange"]) {
      globalThis.addEventListener?.(type, wake, { signal });
    }
    this.#soon();
  }

  get state() {
    return this.#machine.state;
  }

  subscribe(topics, { since, last, buffer = this.#options.buffer ?? 1000 } = {}) {
    const wishes = [topics].flat().map((one) => ({ since, last, ...(one.topic ? one : { topic: one }) }));
    for (const { topic } of wishes) {
      if (!/^[\w\-.:/@#=+,]{1,255}$/.test(topic)) throw new TypeError(`not a topic: ${topic}`);
    }
    if (this.state === "closed") throw new ClarionError("closed");
    const subscription = new Subscription(buffer, () => {
      this.#act("unsubscribe", wishes, subscription);
    });
    this.#act("subscribe", wishes, subscription);
    this.#soon();
    return subscription;
  }

  async publish(topic, data, { key } = {}) {
    if (key !== undefined && !/^[!-~]{1,128}$/.test(key)) throw new TypeError(`not a key: ${key}`);
    return this.#request({ op: "publish", topic, data, key });
  }

  history(topic, options) {
    return this.#request({ ...options, op: "history", topic });
  }

  presence(topic, options) {
    return this.#request({ ...options, op: "presence", topic });
  }

  wake() {
    this.#act("wake");
  }

  close() {
    this.#act("close");
  }

  #request(command) {
    return new Promise((resolve, reject) => this.#act("request", command, resolve, reject));
  }

  #soon() {
    queueMicrotask(() => this.#act("tick"));
  }

  #act(name, ...rest) {
    const now = performance.now();
    this.#machine[name](now, ...rest);
    clearTimeout(this.#timer);
    const wait = this.#machine.due - now;
    if (wait < Infinity) this.#timer = setTimeout(() => this.#act("tick"), Math.min(wait, MOST_MS));
  }

  async #open(machine) {
    const connection = (this.#connection = {});
    const on = (name, ...rest) => this.#connection === connection && this.#act(name, ...rest);
    const url = new URL(this.#url);
    try {
      if (machine.stream) {
        const { openStream } = await import("./clarion-sse.js");
        if (this.#connection === connection) connection.close = openStream(url, machine, on);
        return;
      }
      if (machine.inUrl) url.searchParams.set("token", machine.token);
      const socket = new this.#options.WebSocket(url, "clarion.v1");
      socket.onopen = () => on("opened");
      socket.onmessage = ({ data }) => on("heard", data);
      socket.onclose = (event) => on("ended", event);
      socket.onerror = () => {};
      connection.send = (text) => socket.send(text);
      connection.close = () => socket.close(1000);
    } catch ({ message }) {
      queueMicrotask(() => on("ended", { reason: message }));
    }
  }
}

/** What a program sees: iterations, events, and what it may do in which state. */

import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";

import { Client, ClarionError } from "../clarion-client.js";
import { fakeFetch, fakeWebSocket, settled, until } from "./fakes.js";

const clients = [];
afterEach(() => clients.splice(0).forEach((client) => client.close()));

async function start(options) {
  const WebSocket = fakeWebSocket();
  const client = new Client("ws://host/ws", { WebSocket, backoff: [1, 1], sse: false, ...options });
  clients.push(client);
  await settled();
  return { client, WebSocket, socket: () => WebSocket.sockets.at(-1) };
}

async function connected(options) {
  const begun = await start(options);
  begun.socket().welcomes();
  return begun;
}

/** Keeps what an iteration brings. */
function iterate(subscription) {
  const kept = { items: [], over: false, error: undefined };
  kept.done = (async () => {
    try {
      for await (const item of subscription) kept.items.push(item.op === "lost" ? `lost ${item.offset}` : item.data);
    } catch (error) {
      kept.error = error;
    }
    kept.over = true;
  })();
  return kept;
}

describe("the address", () => {
  it("may be one of HTTP, and gets the subprotocol", async () => {
    const WebSocket = fakeWebSocket();
    clients.push(new Client("https://host:8443/ws?x=1", { WebSocket }));
    await settled();
    const [{ url, protocol }] = WebSocket.sockets;
    assert.equal(url.href, "wss://host:8443/ws?x=1");
    assert.equal(protocol, "clarion.v1");
  });

  it("that is none is an error at once", () => {
    assert.throws(() => new Client("nonsense", { WebSocket: fakeWebSocket() }), TypeError);
  });

  it("does not carry the token unless the server needs that", async () => {
    const { socket, WebSocket } = await start({ token: "secret" });
    assert.equal(socket().url.search, "");
    socket().opens().says("error", { id: "connect", code: "bad_request", message: "already connected" });
    await until(() => WebSocket.sockets.length === 2);
    assert.equal(socket().url.search, "?token=secret");
  });
});

describe("the platform", () => {
  it("without a WebSocket has event streams", async (test) => {
    const { fetch, requests } = fakeFetch();
    const client = new Client("ws://host/ws", { WebSocket: undefined, fetch });
    test.after(() => client.close());
    client.subscribe("a");
    await until(() => requests.length === 1);
    requests[0].streams();
    await assert.rejects(client.publish("a", 1), { code: "no_websocket" });
  });

  it("whose WebSocket cannot even be made is tried again", async () => {
    let times = 0;
    const WebSocket = class {
      constructor() {
        times += 1;
        throw new DOMException("mixed content", "SecurityError");
      }
    };
    const states = [];
    const { client } = await start({ WebSocket });
    client.addEventListener("state", ({ detail }) => states.push(detail));
    await until(() => times > 2);
    await settled();
    assert.equal(states.find(({ state }) => state === "waiting").reason, "mixed content");
  });
});

describe("an iteration", () => {
  it("brings the messages of its topics, those too that came before it began", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe(["a", "b"]);
    await settled();
    socket().subscribes().message("a", 1, "x").message("b", 1, "y").message("c", 1, "z");
    const kept = iterate(subscription);
    socket().message("a", 2, "w");
    await settled();
    assert.deepEqual(kept.items, ["x", "y", "w"]);
  });

  it("goes on through a reconnect, and tells of a loss in its place", async () => {
    const { client, socket, WebSocket } = await connected();
    const kept = iterate(client.subscribe("a"));
    await settled();
    socket().subscribes().message("a", 1).ends();
    await until(() => WebSocket.sockets.length === 2);
    socket().welcomes();
    const [{ id, since }] = socket().said;
    assert.deepEqual(since, { epoch: "e", offset: 1 });
    socket().says("subscribed", { id, topic: "a", epoch: "e", offset: 9, recovered: false }).message("a", 10);
    await settled();
    assert.deepEqual(kept.items, [1, "lost 9", 10]);
  });

  it("that takes a loss for a message fails, and leaves the topic", async () => {
    const { client, socket } = await connected();
    const careless = (async () => {
      for await (const { data } of client.subscribe("a")) assert.ok(data);
    })();
    await settled();
    socket().subscribes().says("lost", { topic: "a", epoch: "e", offset: 5, reason: "too old" });
    await assert.rejects(careless, { code: "lost", topic: "a", message: "too old" });
    assert.equal(socket().said.at(-1).op, "unsubscribe");
  });

  it("ends with `break`, and the topic with it", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe("a");
    await settled();
    socket().subscribes().message("a", 1).message("a", 2);
    for await (const _ of subscription) break;
    assert.deepEqual(socket().said, [{ op: "unsubscribe", topic: "a" }]);
    for await (const item of subscription) assert.fail(`${item.data} came after the end`);
  });

  it("that fails ends its topic too", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe("a");
    await settled();
    socket().subscribes().message("a", 1);
    await assert.rejects(async () => {
      for await (const _ of subscription) throw new RangeError("mine");
    }, RangeError);
    assert.equal(socket().said.at(-1).op, "unsubscribe");
  });

  it("throws what refuses its topic, after what came before", async () => {
    const { client, socket } = await connected();
    const kept = iterate(client.subscribe("a"));
    await settled();
    socket().subscribes().message("a", 1).says("unsubscribed", { topic: "a", reason: "not any more" });
    await kept.done;
    assert.deepEqual(kept.items, [1]);
    assert.deepEqual([kept.error.code, kept.error.message, kept.error.topic], ["unsubscribed", "not any more", "a"]);
    assert.ok(kept.error instanceof ClarionError);
  });

  it("of several topics leaves the others when one is refused", async () => {
    const { client, socket } = await connected();
    const kept = iterate(client.subscribe(["a", "b"]));
    await settled();
    const [{ id }] = socket().said.splice(0);
    socket().says("subscribed", { id, topic: "a" });
    socket().says("error", { id, topic: "b", code: "forbidden", message: "no" });
    await kept.done;
    assert.equal(kept.error.topic, "b");
    assert.deepEqual(socket().said, [{ op: "unsubscribe", topic: "a" }]);
  });

  it("ends without an error when the program closes the subscription or the client", async () => {
    const { client } = await connected();
    const [first, second] = [client.subscribe("a"), client.subscribe("b")];
    const kept = [iterate(first), iterate(second)];
    first.close();
    first.close();
    client.close();
    await Promise.all(kept.map(({ done }) => done));
    assert.deepEqual(kept.map(({ error }) => error), [undefined, undefined]);
  });

  it("throws when the server wants us no more", async () => {
    const { client, socket } = await connected();
    const kept = iterate(client.subscribe("a"));
    socket().says("goodbye", { code: 4501, reason: "unauthorized" }).ends(4501);
    await kept.done;
    assert.deepEqual([kept.error.code, kept.error.message], [4501, "unauthorized"]);
    assert.equal(client.state, "closed");
  });

  it("may be done twice at a time: each item goes to one", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe("a");
    const [first, second] = [iterate(subscription), iterate(subscription)];
    await settled();
    socket().subscribes();
    for (let offset = 1; offset <= 10; offset++) socket().message("a", offset);
    await settled();
    assert.deepEqual([...first.items, ...second.items].sort((a, b) => a - b), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    subscription.close();
    await Promise.all([first.done, second.done]);
  });
});

describe("the buffer", () => {
  it("is bounded: who does not take its messages is told what is gone", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe(["a", "b"], { buffer: 4 });
    await settled();
    socket().subscribes().message("a", 1).message("b", 1).message("a", 2).message("a", 3);
    socket().message("a", 4).message("b", 2);
    const kept = iterate(subscription);
    await settled();
    assert.deepEqual(kept.items, ["lost 3", "lost 1", 4, 2]);
    socket().message("a", 5);
    await settled();
    assert.equal(kept.items.at(-1), 5);
  });

  it("stays bounded for ever", async () => {
    const { client, socket } = await connected({ buffer: 10 });
    const subscription = client.subscribe("a");
    await settled();
    socket().subscribes();
    for (let offset = 1; offset <= 10_005; offset++) socket().message("a", offset);
    const kept = iterate(subscription);
    await settled();
    assert.ok(kept.items.length <= 10);
    assert.match(kept.items[0], /^lost \d+$/);
    assert.equal(kept.items.at(-1), 10_005);
    const from = Number(kept.items[0].slice(5));
    assert.deepEqual(kept.items.slice(1), Array.from({ length: 10_005 - from }, (_, place) => from + 1 + place));
  });

  it("is not used where there is a listener", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe("a", { buffer: 2 });
    const heard = [];
    subscription.addEventListener("message", ({ detail }) => heard.push(detail.data));
    subscription.addEventListener("lost", () => assert.fail("nothing is lost"));
    await settled();
    socket().subscribes().message("a", 1).message("a", 2).message("a", 3);
    await settled();
    assert.deepEqual(heard, [1, 2, 3]);
    const kept = iterate(subscription);
    socket().message("a", 4);
    await settled();
    assert.deepEqual([kept.items, heard], [[4], [1, 2, 3, 4]]);
  });
});

describe("events", () => {
  it("tell how it stands with the connection, from the first moment", async () => {
    const WebSocket = fakeWebSocket();
    const client = new Client("ws://host/ws", { WebSocket, backoff: [1, 1], random: () => 0 });
    clients.push(client);
    const states = [];
    client.addEventListener("state", ({ detail }) => states.push(detail));
    await settled();
    WebSocket.sockets[0].welcomes().ends(4000, "draining");
    await until(() => WebSocket.sockets.length === 2);
    client.close();
    await settled();
    assert.deepEqual(states, [
      { state: "connecting" },
      { state: "connected", client: "c-1", user: undefined, transport: "websocket" },
      { state: "waiting", code: 4000, reason: "draining", pause: 0 },
      { state: "connecting" },
      { state: "closed", code: undefined, reason: undefined },
    ]);
  });

  it("of a topic come to its subscription, and all to the client", async () => {
    const { client, socket } = await connected();
    const [first, second] = [client.subscribe("a"), client.subscribe("b")];
    const heard = [];
    for (const [name, source] of Object.entries({ first, second, client })) {
      for (const type of ["message", "lost", "subscribed", "join"]) {
        source.addEventListener(type, ({ detail }) => heard.push(`${name} ${type} ${detail.topic}`));
      }
    }
    await settled();
    socket().subscribes().message("a", 1).says("join", { topic: "b", member: { client: "c-2" } });
    socket().says("lost", { topic: "b", epoch: "e", offset: 5, reason: "?" });
    await settled();
    assert.deepEqual(heard, [
      "client subscribed a", "first subscribed a", "client subscribed b", "second subscribed b",
      "client message a", "first message a", "client join b", "second join b", "client lost b", "second lost b",
    ]);
  });

  it("tell of topics that the backend has subscribed us to", async () => {
    const { client, socket } = await connected();
    const heard = [];
    client.addEventListener("message", ({ detail }) => heard.push(detail.data));
    socket().says("subscribed", { topic: "user:42" }).says("message", { topic: "user:42", ts: 1, data: "x" });
    await settled();
    assert.deepEqual(heard, ["x"]);
  });

  it("say that a topic is there to who takes it when it already is", async () => {
    const { client, socket } = await connected();
    client.subscribe("a");
    await settled();
    socket().subscribes(7);
    const late = client.subscribe("a");
    const heard = [];
    late.addEventListener("subscribed", ({ detail }) => heard.push(detail));
    await settled();
    assert.deepEqual(heard, [{ op: "subscribed", topic: "a", epoch: "e", offset: 7 }]);
  });

  it("that nobody hears, of a loss or an error, are written to the console", async (test) => {
    const warned = [];
    test.mock.method(console, "warn", (detail) => warned.push(detail.code));
    const { client, socket } = await connected();
    const subscription = client.subscribe("a");
    subscription.addEventListener("message", () => {});
    await settled();
    socket().subscribes().says("lost", { topic: "a", epoch: "e", offset: 5, reason: "?" });
    socket().says("error", { code: "bad_request", message: "?" });
    socket().says("unsubscribed", { topic: "a", reason: "?" });
    await settled();
    assert.deepEqual(warned, ["lost", "bad_request", "unsubscribed"]);
  });

  it("that are heard, or are part of an iteration, are not", async (test) => {
    const warned = [];
    test.mock.method(console, "warn", (detail) => warned.push(detail.code));
    const { client, socket } = await connected();
    iterate(client.subscribe("a"));
    const heard = client.subscribe("b");
    for (const type of ["message", "lost", "error"]) heard.addEventListener(type, () => {});
    await settled();
    socket().subscribes();
    for (const topic of ["a", "b"]) {
      socket().says("lost", { topic, epoch: "e", offset: 5, reason: "?" }).says("unsubscribed", { topic, reason: "?" });
    }
    await settled();
    assert.deepEqual(warned, []);
  });

  it("may do anything: close, subscribe, publish", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe("a");
    subscription.addEventListener("message", ({ detail }) => {
      assert.equal(detail.data, 1, "nothing comes after the end");
      client.subscribe("b").addEventListener("message", () => client.close());
      client.publish("c", 1).catch(() => {});
      subscription.close();
    });
    client.addEventListener("state", () => client.wake());
    await settled();
    socket().subscribes().message("a", 1).message("a", 2);
    await settled();
    assert.deepEqual(socket().said.map(({ op }) => op), ["publish", "unsubscribe", "subscribe"]);
    socket().subscribes().message("b", 1);
    await settled();
    assert.equal(client.state, "closed");
  });

  it("whose listener throws disturb nobody else", async () => {
    const { client, socket } = await connected();
    const subscription = client.subscribe("a");
    const thrown = [];
    const listeners = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.on("uncaughtException", (error) => thrown.push(error.message));
    try {
      const heard = [];
      subscription.addEventListener("message", () => {
        throw new Error("the listener's");
      });
      subscription.addEventListener("message", ({ detail }) => heard.push(detail.data));
      await settled();
      socket().subscribes().message("a", 1).message("a", 2);
      await settled();
      assert.deepEqual(heard, [1, 2]);
      assert.deepEqual(thrown, ["the listener's", "the listener's"]);
    } finally {
      process.removeAllListeners("uncaughtException");
      for (const listener of listeners) process.on("uncaughtException", listener);
    }
  });
});

describe("commands", () => {
  it("are promises of their answers", async () => {
    const { client, socket } = await connected();
    const asked = [client.publish("a", { n: 1 }), client.history("a", { limit: 5 }), client.presence("a")];
    const [publish, history, presence] = socket().said;
    assert.deepEqual(publish, { op: "publish", id: publish.id, topic: "a", data: { n: 1 } });
    assert.deepEqual(history, { op: "history", id: history.id, topic: "a", limit: 5 });
    assert.deepEqual(presence, { op: "presence", id: presence.id, topic: "a" });
    socket().says("published", { id: publish.id, topic: "a", epoch: "e", offset: 4 });
    socket().says("history", { id: history.id, topic: "a", epoch: "e", offset: 4, messages: [] });
    socket().says("presence", { id: presence.id, topic: "a", count: 0, members: [] });
    const answers = await Promise.all(asked);
    assert.deepEqual(answers.map(({ offset, count }) => offset ?? count), [4, 4, 0]);
  });

  it("publish under a conflation key, where one is given", async () => {
    const { client, socket } = await connected();
    const keys = ["ACME", "!", "~".repeat(128), undefined];
    const asked = keys.map((key) => client.publish("a", 1, { key }));
    asked.push(client.publish("a", 1, {}), client.publish("a", 1, undefined));
    assert.deepEqual(socket().said.map(({ key }) => key), [...keys, undefined, undefined]);
    for (const { id } of socket().said) socket().says("published", { id, topic: "a" });
    await Promise.all(asked);
    socket().said.length = 0;
    for (const key of ["", "a b", "ä", "a\n", "x".repeat(129)]) {
      await assert.rejects(client.publish("a", 1, { key }), { name: "TypeError", message: `not a key: ${key}` });
    }
    assert.deepEqual(socket().said, []);
  });

  it("have ids that no option of a program can take the place of", async () => {
    const { client, socket } = await connected();
    const asked = client.history("a", { id: "mine", op: "publish", topic: "b" });
    const { id, ...said } = socket().said[0];
    assert.deepEqual(said, { op: "history", topic: "a" });
    socket().says("history", { id, topic: "a", epoch: "e", offset: 4, messages: [] });
    assert.equal((await asked).offset, 4);
  });

  it("that cannot be JSON are errors of the caller, and of nobody else", async () => {
    const { client, socket } = await connected();
    const circle = {};
    circle.circle = circle;
    await assert.rejects(client.publish("a", circle), TypeError);
    await assert.rejects(client.publish("a", 1n), TypeError);
    const asked = client.publish("a", 1);
    socket().says("published", { id: socket().said.at(-1).id, topic: "a" });
    await asked;
  });

  it("without an answer fail in time", async () => {
    const { client } = await connected({ timeout: 20 });
    await assert.rejects(client.publish("a", 1), { name: "ClarionError", code: "timeout" });
  });
});

describe("options that are undefined", () => {
  it("are as if they were not given", async () => {
    const none = { backoff: undefined, timeout: undefined, buffer: undefined, random: undefined, token: undefined };
    const { client, socket } = await connected({ ...none, sse: undefined });
    const kept = client.subscribe("a", { buffer: undefined, since: undefined, last: undefined });
    await settled();
    socket().subscribes(0);
    for (let offset = 1; offset <= 1001; offset++) socket().message("a", offset);
    const items = [];
    for await (const item of kept) {
      items.push(item.op);
      if (items.length === 2) break;
    }
    assert.deepEqual(items, ["lost", "message"], "a buffer of a thousand");
    const states = [];
    client.addEventListener("state", ({ detail }) => states.push(detail));
    const asked = client.publish("a", 1);
    socket().ends();
    await assert.rejects(asked, { code: "disconnected" });
    assert.equal(states[0].state, "waiting");
    assert.ok(states[0].pause >= 0 && states[0].pause <= 1000);
  });
});

describe("topics", () => {
  it("that are none are errors of the caller", async () => {
    const { client, socket } = await connected();
    for (const wrong of ["", "a b", "ä", "x".repeat(256), "a\n"]) {
      assert.throws(() => client.subscribe(["ok", wrong]), TypeError, JSON.stringify(wrong));
    }
    for (const wrong of [undefined, null, {}]) assert.throws(() => client.subscribe(wrong), TypeError);
    await settled();
    assert.deepEqual(socket().said, []);
  });

  it("may each begin elsewhere", async () => {
    const { client, socket } = await connected();
    client.subscribe(["a", { topic: "b", last: 3 }, { topic: "c", since: { epoch: "e", offset: 1 } }], { last: 9 });
    await settled();
    assert.deepEqual(socket().said[0].topics, [
      { topic: "a", last: 9 },
      { topic: "b", last: 3 },
      { topic: "c", since: { epoch: "e", offset: 1 } },
    ]);
  });

  it("begin with what comes next where the position that was kept is none", async () => {
    const { client, socket } = await connected();
    client.subscribe("a", { since: JSON.parse(null), last: null });
    await settled();
    assert.deepEqual(socket().said.map(({ id, ...rest }) => rest), [{ op: "subscribe", topic: "a" }]);
  });

  it("of a closed client cannot be subscribed", async () => {
    const { client } = await connected();
    client.close();
    assert.throws(() => client.subscribe("a"), { code: "closed" });
    await assert.rejects(client.publish("a", 1), { code: "closed" });
    client.wake();
    client.close();
  });
});

describe("an event stream", () => {
  async function streaming(options) {
    const { fetch, requests } = fakeFetch();
    const begun = await start({ WebSocket: null, fetch, sse: true, ...options });
    return { ...begun, requests };
  }

  it("asks for all topics, with the token where logs do not have it", async () => {
    const { client, requests } = await streaming({ token: "secret" });
    assert.equal(requests.length, 0, "without topics there is nothing to ask for");
    client.subscribe(["a", "b#1"], { last: 5 });
    await until(() => requests.length);
    const [{ url, headers }] = requests;
    assert.equal(url.href, "http://host/sse?topic=a&topic=b%231&last=5");
    assert.deepEqual(headers, { Authorization: "Bearer secret" });
  });

  it("brings the same as a WebSocket, however its bytes are cut", async () => {
    const { client, requests } = await streaming();
    const kept = iterate(client.subscribe("a"));
    await until(() => requests.length);
    const text =
      'retry: 5000\n\nevent: subscribed\nid: a|e|0\ndata: {"op":"subscribed","topic":"a","epoch":"e","offset":0}\n\n' +
      ':\n\nid: a|e|1\ndata: {"op":"message","topic":"a","offset":1,"ts":1,"data":"Grüße 👋"}\r\n\r\n' +
      'id: a|e|2\ndata:{"op":"message","topic":"a","offset":2,"ts":1,"data":2}\n\n';
    const bytes = new TextEncoder().encode(text);
    requests[0].streams();
    for (const byte of bytes) requests[0].writes(Uint8Array.of(byte));
    await until(() => kept.items.length === 2);
    assert.deepEqual(kept.items, ["Grüße 👋", 2]);
  });

  it("goes on from the position of each topic", async () => {
    const { client, requests } = await streaming();
    client.subscribe([{ topic: "a", since: { epoch: "e", offset: 7 } }, { topic: "b", since: { epoch: "f", offset: 0 } }, "c"]);
    await until(() => requests.length);
    assert.equal(requests[0].headers["Last-Event-ID"], "a|e|7;b|f|0");
    requests[0].streams().writes('data: {"op":"subscribed","topic":"a","epoch":"e","offset":8,"recovered":true}\n\n');
    requests[0].writes('data: {"op":"message","topic":"a","offset":8,"ts":1,"data":8}\n\n').ends();
    await until(() => requests.length === 2);
    assert.equal(requests[1].headers["Last-Event-ID"], "a|e|8;b|f|0");
  });

  it("obeys Retry-After, in seconds or as a date", async () => {
    const soon = new Date(Date.now() + 4000).toUTCString();
    for (const [header, least, most] of [["3", 3000, 3000], [soon, 2000, 4000], ["nonsense", 0, 1], ["", 0, 1]]) {
      const { client, requests } = await streaming();
      const states = [];
      client.addEventListener("state", ({ detail }) => states.push(detail));
      client.subscribe("a");
      await until(() => requests.length);
      requests[0].refuses(503, { "Retry-After": header, "content-type": "application/json" });
      await until(() => states.some(({ state }) => state === "waiting"));
      const { pause, reason } = states.find(({ state }) => state === "waiting");
      assert.ok(pause >= least && pause <= most, `${header}: ${pause}`);
      assert.match(reason, /HTTP 503/);
      client.close();
    }
  });

  it("gets a new token where the old one is not taken, and ends where there is none to get", async () => {
    const tokens = ["old", "new"];
    const { client, requests } = await streaming({ token: async () => tokens.shift() });
    client.subscribe("a");
    await until(() => requests.length === 1);
    requests[0].refuses(401);
    await until(() => requests.length === 2);
    assert.equal(requests[1].headers.Authorization, "Bearer new");

    const { client: other, requests: others } = await streaming({ token: "fixed" });
    other.subscribe("a");
    await until(() => others.length === 1);
    others[0].refuses(401);
    await until(() => other.state === "closed");
  });

  it("goes on without the topic that it is refused for", async () => {
    const { client, requests } = await streaming();
    const [good, bad] = [iterate(client.subscribe("a")), iterate(client.subscribe("b"))];
    await until(() => requests.length === 1);
    const error = { code: "forbidden", message: "not for you", topic: "b" };
    requests[0].refuses(403, {}, JSON.stringify({ error }));
    await until(() => requests.length === 2);
    assert.equal(requests[1].url.search, "?topic=a");
    assert.deepEqual([good.over, bad.over, bad.error.code], [false, true, "forbidden"]);
  });

  it("is none when it is the page of a hotel", async () => {
    const { client, requests } = await streaming();
    const states = [];
    client.addEventListener("state", ({ detail }) => states.push(detail.state));
    client.subscribe("a");
    await until(() => requests.length);
    requests[0].streams("text/html").writes("<!doctype html>");
    await until(() => requests.length === 2);
    assert.ok(!states.includes("connected"));
  });

  it("that ends, fails or is cut is opened again", async () => {
    const { client, requests } = await streaming();
    client.subscribe("a");
    await until(() => requests.length === 1);
    requests[0].streams().ends();
    await until(() => requests.length === 2);
    requests[1].fails();
    await until(() => requests.length === 3);
    requests[2].streams().controller.error(new TypeError("network error"));
    await until(() => requests.length === 4);
  });

  it("is not opened for a client that was closed before the code for it was there", async () => {
    const { client, requests } = await streaming();
    client.subscribe("a");
    await Promise.resolve();
    assert.equal(client.state, "connecting");
    client.close();
    await settled();
    assert.equal(requests.length, 0);
  });

  it("is aborted with the client", async () => {
    const { client, requests } = await streaming();
    client.subscribe("a");
    await until(() => requests.length);
    requests[0].streams();
    await settled();
    client.close();
    assert.equal(requests[0].signal.aborted, true);
  });
});

describe("a page", () => {
  it("is listened to for as long as the client lives, and no longer", async (test) => {
    const listening = new Map();
    const listen = (name) => (type, listener, { signal }) => {
      const key = `${name} ${type}`;
      listening.set(key, listener);
      signal.addEventListener("abort", () => listening.delete(key));
    };
    const document = { hidden: false };
    globalThis.document = document; // whose events bubble up to the window
    globalThis.addEventListener = listen("window");
    test.after(() => {
      delete globalThis.document;
      delete globalThis.addEventListener;
    });
    const { client, socket } = await connected();
    assert.deepEqual([...listening.keys()], ["window online", "window offline", "window visibilitychange"]);
    document.hidden = true;
    listening.get("window visibilitychange")();
    assert.deepEqual(socket().said, []);
    document.hidden = false;
    listening.get("window visibilitychange")();
    assert.deepEqual(socket().said, [{ op: "ping" }]);
    client.close();
    assert.equal(listening.size, 0);
  });
});

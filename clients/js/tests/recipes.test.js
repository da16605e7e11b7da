/** The README's recipes do what it says. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { it } from "node:test";

import { Client } from "../clarion-client.js";
import { fakeWebSocket, settled } from "./fakes.js";

const README = readFileSync(new URL("../README.md", import.meta.url), "utf8");

/** The one piece of code that has `word` in it, as a module that has `names` as globals. */
async function recipe(word, names) {
  const pieces = [...README.matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code);
  const found = pieces.filter((code) => code.includes(word));
  assert.equal(found.length, 1);
  Object.assign(globalThis, names);
  return import(`data:text/javascript,${encodeURIComponent(found[0])}`);
}

async function connected() {
  const WebSocket = fakeWebSocket();
  const client = new Client("ws://host/ws", { WebSocket });
  await settled();
  return { client, socket: WebSocket.sockets[0].welcomes() };
}

it("React: components share a topic, its last message, and no more", async () => {
  const mounted = [];
  const { useTopic } = await recipe("useSyncExternalStore", {
    useCallback: (callback) => callback,
    useSyncExternalStore(subscribe, read) {
      const component = { draws: 0, read };
      component.unmount = subscribe(() => (component.draws += 1));
      mounted.push(component);
      return read();
    },
  });
  const { client, socket } = await connected();
  assert.equal(useTopic(client, "a"), undefined);
  await settled();
  socket.subscribes(5).message("a", 5, "x");
  await settled();
  assert.equal(useTopic(client, "a").data, "x", "which has come before");
  socket.message("a", 6, "y");
  await settled();
  assert.deepEqual(mounted.map(({ draws, read }) => [draws, read().data]), [[2, "y"], [1, "y"]]);
  assert.deepEqual(socket.said, []);
  for (const { unmount } of mounted) unmount();
  assert.deepEqual(socket.said, [{ op: "unsubscribe", topic: "a" }]);
  client.close();
});

it("all members, all of the past: page by page, to the end", async () => {
  const { members, past } = await recipe("async function members", {});
  const { client, socket } = await connected();
  const found = members(client, "a");
  const pages = [[{ members: [1, 2], next: "x" }], [{ members: [3] }]];
  for (const [page] of pages) {
    const { id, after } = socket.said.pop();
    socket.says("presence", { id, topic: "a", count: 3, ...page });
    assert.equal(after, page.next ? undefined : "x");
    await settled();
  }
  assert.deepEqual(await found, [1, 2, 3]);

  const kept = past(client, "a", { epoch: "e", offset: 1 });
  for (const offsets of [[2, 3], [4], []]) {
    const { id, since } = socket.said.pop();
    assert.deepEqual(since, { epoch: "e", offset: (offsets[0] ?? 5) - 1 });
    const messages = offsets.map((offset) => ({ offset, ts: 1, data: offset }));
    socket.says("history", { id, topic: "a", epoch: "e", offset: 4, messages });
    await settled();
  }
  assert.deepEqual((await kept).map(({ data }) => data), [2, 3, 4]);
  client.close();
});

it("prices: each is published under its symbol", async () => {
  const { client, socket } = await connected();
  const { quote } = await recipe("function quote", {});
  const published = quote(client, "ACME", 17.25);
  const { id, ...said } = socket.said.pop();
  assert.deepEqual(said, { op: "publish", topic: "prices:all", data: { symbol: "ACME", bid: 17.25 }, key: "ACME" });
  socket.says("published", { id, topic: "prices:all" });
  await published;
  client.close();
});

it("the state and its changes: nothing falls in between", async () => {
  const { client, socket } = await connected();
  const shown = [];
  const done = recipe("fetchOrders", {
    client,
    show: (state) => shown.push(state),
    apply: (data) => shown.push(data),
    fetchOrders: async () => {
      socket.message("orders:42", 8); // nobody is subscribed yet
      return "state";
    },
  });
  await settled();
  const { id } = socket.said.pop();
  socket.says("history", { id, topic: "orders:42", epoch: "e", offset: 7, messages: [] });
  await settled();
  const asked = socket.said.pop();
  assert.deepEqual(asked.since, { epoch: "e", offset: 7 });
  socket.says("subscribed", { id: asked.id, topic: "orders:42", epoch: "e", offset: 8, recovered: true });
  socket.message("orders:42", 8).says("lost", { topic: "orders:42", epoch: "e", offset: 11, reason: "?" });
  await settled();
  assert.deepEqual(shown, ["state", 8, "state"]);
  client.close();
  await done;
});

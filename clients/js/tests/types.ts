/** The declarations as a program uses them, and against the implementation; only compiled. */

import { Client, ClarionError, type Item, type Lost, type Message, type State } from "../index.js";
import * as implementation from "../clarion-client.js";

// What is declared is there, as far as the compiler can tell what JavaScript returns.
type Same = "close" | "wake" | "publish" | "history" | "presence";
export const declared: {
  ClarionError: typeof ClarionError;
  Client: new (
    ...args: ConstructorParameters<typeof Client>
  ) => EventTarget & Pick<Client, Same> & {
      state: string;
      subscribe(...args: Parameters<Client["subscribe"]>): EventTarget & AsyncIterable<any> & { close(): void };
    };
} = implementation;

const client = new Client("wss://host/ws", { token: async () => "t", name: "shop/1", backoff: [1000, 30_000] });
new Client(new URL("wss://host/ws"), { WebSocket: null, sse: true, fetch });
new Client("/ws", { WebSocket });
// @ts-expect-error: an option that is none
new Client("/ws", { tokens: "t" });

interface Order {
  state: string;
}

export async function read(): Promise<void> {
  let last: Message<Order> | undefined;
  for await (const item of client.subscribe<Order>("orders:42", { last: 10 })) {
    // @ts-expect-error: it may be a loss, which has no data
    item.data;
    if (item.op === "lost") {
      const lost: Lost = item;
      console.log(lost.topic, lost.message, lost.offset);
    } else {
      const state: string = item.data.state;
      console.log(state, item.ts);
      last = item;
    }
  }
  client.subscribe("orders:42", { since: last });
  client.subscribe(["a", { topic: "b", last: 5 }, { topic: "c", since: { epoch: "e", offset: 1 } }], { buffer: 10 });
  // @ts-expect-error: not a topic
  client.subscribe(5);
}

export function listen(): () => void {
  const subscription = client.subscribe<Order>("orders:42");
  subscription.addEventListener("message", ({ detail }) => console.log(detail.data.state));
  subscription.addEventListener("lost", ({ detail }) => console.log(detail.message));
  subscription.addEventListener("join", ({ detail }) => console.log(detail.member.user), { once: true });
  subscription.addEventListener("error", ({ detail }) => console.log(detail.code));
  // @ts-expect-error: there is no such event
  subscription.addEventListener("messages", () => {});
  client.addEventListener("state", ({ detail }) => show(detail));
  return () => subscription.close();
}

function show(state: State): string {
  switch (state.state) {
    case "connecting":
      return "…";
    case "connected":
      return state.transport === "sse" ? "slow" : `${state.client} ${state.user ?? ""}`;
    case "waiting":
      return `${state.code} ${state.reason} ${state.pause}`;
    case "closed":
      return `${state.code}`;
  }
}

export async function ask(items: Item[]): Promise<void> {
  const { offset, epoch } = await client.publish("chat:1", { text: "hello" });
  const page = await client.history<Order>("orders:42", { limit: 5, reverse: true });
  await client.history("orders:42", { since: { epoch: page.epoch, offset: page.messages.at(-1)?.offset ?? 0 } });
  const { count, members } = await client.presence("chat:1", { limit: 10, after: "" });
  console.log(offset, epoch, count, members[0]?.user, items.length, client.state === "connected");
  await client.publish("prices", { bid: 17.25 }, { key: "ACME" });
  // @ts-expect-error: a key is text
  await client.publish("prices", { bid: 17.25 }, { key: 7 });
  try {
    await client.publish("chat:1", null);
  } catch (error) {
    if (error instanceof ClarionError && error.code === "unavailable") console.log(error.retryMs, error.topic);
  }
  client.wake();
  client.close();
}

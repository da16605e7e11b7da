/**
 * A client of Clarion, a real-time notification server.
 *
 *     import { Client } from "clarion-client";
 *
 *     const client = new Client("wss://push.example.com/ws", { token: () => fetchToken() });
 *     for await (const item of client.subscribe("orders:42")) {
 *       if (item.op === "lost") await reload();
 *       else show(item.data);
 *     }
 */

/** Where a message stands in its topic's stream. Topics without history have none. */
export interface Position {
  epoch: string;
  offset: number;
}

/** A publication. Where the topic has history, it is its own {@link Position}: see `since`. */
export interface Message<Data = unknown> extends Partial<Position> {
  op: "message";
  topic: string;
  data: Data;
  /** When the server accepted it, Unix milliseconds. */
  ts: number;
}

/**
 * Messages of a topic are gone: up to `offset` some may be missing, and it goes on from there. What
 * they described must be fetched anew from where it is kept.
 *
 * It stands in the iteration where the messages would have been. Code that takes it for a message
 * fails when it reads `data`, with this very object as the error.
 */
export interface Lost extends Partial<Position>, Error {
  op: "lost";
  code: "lost";
  topic: string;
  /** Why, for people. */
  message: string;
}

/** What an iteration brings. */
export type Item<Data = unknown> = Message<Data> | Lost;

/** A topic is subscribed: for the first time, or again after a reconnect. */
export interface Subscribed extends Partial<Position> {
  op: "subscribed";
  topic: string;
  /** After a reconnect: whether all that was missed follows. If not, a {@link Lost} does. */
  recovered?: boolean;
}

export interface Member {
  client: string;
  user?: string;
}

/** Somebody came to a topic that keeps presence, or left it. */
export interface Presence {
  op: "join" | "leave";
  topic: string;
  member: Member;
}

/** How it stands with the connection. */
export type State =
  | { state: "connecting" }
  | { state: "connected"; transport: "websocket"; client: string; user?: string }
  | { state: "connected"; transport: "sse"; client?: undefined; user?: undefined }
  | {
      state: "waiting";
      /** What ended the last connection or attempt; 1006 where the network did. */
      code: number;
      reason?: string;
      /** Until the next attempt, in ms. */
      pause: number;
    }
  | {
      state: "closed";
      /** Why the server does not want us any more; none where `close` was called. */
      code?: number;
      reason?: string;
    };

/**
 * What was refused, or did not work.
 *
 * `code` is one of the protocol's (`forbidden`, `bad_data`, `unavailable`, ...), a close code (4501,
 * ...), or one of the client's own:
 *
 * - `closed`: the client is
 * - `disconnected`: the connection broke before the answer came; it may have been done or not
 * - `timeout`: no answer in time; it may have been done or not
 * - `too_large`: a command of more than 64 KiB, which was not sent
 * - `too_many`: 1,000 commands wait already
 * - `no_websocket`: on an event stream one can only listen
 * - `unsubscribed`: the server ended the subscription
 * - `lost`: see {@link Lost}
 */
export class ClarionError extends Error {
  code: string | number;
  topic?: string;
  /** The same may succeed after so many ms. */
  retryMs?: number;
}

export interface Options {
  /**
   * Who we are: a token, or a function that gets one. The function is asked when a connection needs
   * a token, and before one expires; a token is kept until then. Without either: anybody.
   */
  token?: string | null | (() => string | null | Promise<string | null>);
  /** What the server's operators see of this program, such as `shop/1.4`. It travels with a token. */
  name?: string;
  /** Whether Server-Sent Events take over where WebSockets are blocked. Default: true. */
  sse?: boolean;
  /**
   * The class to use. Default: the platform's. Node has one from version 22 on; before, pass that
   * of the package `ws`. `null`, and where there is none: Server-Sent Events only.
   */
  WebSocket?: (new (url: any, protocols?: any) => any) | null;
  /** The function to use for Server-Sent Events. Default: the platform's. */
  fetch?: typeof fetch;
  /** Bounds of the random pauses between attempts: the first and, doubled, the longest, in ms. */
  backoff?: [first: number, longest: number];
  /** How long a `publish`, `history` or `presence` waits for its answer, in ms. Default: 10,000. */
  timeout?: number;
  /** How many messages may wait in a subscription for who iterates over it. Default: 1,000. */
  buffer?: number;
  /** A number from 0 to 1. Default: `Math.random`. */
  random?: () => number;
}

export interface Beginning {
  /** Go on behind this position: a message that was kept will do. None, or `null`: from now on. */
  since?: Position | Message | null;
  /** Begin with the newest so many of the history. */
  last?: number;
}

export interface SubscribeOptions extends Beginning {
  /** As in {@link Options}, for this subscription. */
  buffer?: number;
}

export type Topics = string | ({ topic: string } & Beginning);

interface Listening<Events> {
  addEventListener<Type extends keyof Events>(
    type: Type,
    listener: ((event: CustomEvent<Events[Type]>) => void) | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof Events>(
    type: Type,
    listener: ((event: CustomEvent<Events[Type]>) => void) | null,
    options?: boolean | EventListenerOptions,
  ): void;
  dispatchEvent(event: Event): boolean;
}

/** `detail` of a subscription's events. */
export interface SubscriptionEvents<Data = unknown> {
  message: Message<Data>;
  lost: Lost;
  subscribed: Subscribed;
  join: Presence;
  leave: Presence;
  error: ClarionError;
}

/**
 * What comes in one or more topics: iterate over it, or listen to its events.
 *
 * An iteration ends when the subscription or the client is closed, and throws a
 * {@link ClarionError} when the server refuses or ends it. `break` closes the subscription. Who
 * falls behind by more than `buffer` messages gets a {@link Lost} for each topic in their place.
 *
 * With a listener for `message` nothing is kept for an iteration; a `lost` that has no listener then
 * is written to the console.
 */
export interface Subscription<Data = unknown>
  extends Listening<SubscriptionEvents<Data>>,
    AsyncIterable<Item<Data>> {
  close(): void;
}

/** `detail` of the client's events. `error`: what belongs to no subscription and no command. */
export interface ClientEvents {
  state: State;
  message: Message;
  lost: Lost;
  subscribed: Subscribed;
  join: Presence;
  leave: Presence;
  error: ClarionError | Error;
}

export interface PublishOptions {
  /**
   * What the message is the news of, within its topic: 1 to 128 characters of visible ASCII. Where
   * the server's policy for the topic is `latest`, the newest message of each key reaches a client
   * that is behind.
   */
  key?: string;
}

export interface Published extends Partial<Position> {
  topic: string;
}

export interface HistoryOptions {
  /** Default: 100. */
  limit?: number;
  /** What follows this position; with `reverse`, what stands before it. */
  since?: Position | Message;
  /** The newest first. */
  reverse?: boolean;
}

/** A part of a topic's history. The position is that of the newest message of the topic. */
export interface History<Data = unknown> extends Position {
  topic: string;
  messages: { offset: number; ts: number; data: Data }[];
}

export interface PresenceOptions {
  /** How many members, at most. */
  limit?: number;
  /** `next` of the page before. */
  after?: string;
}

/** Who is there. `count` is of all, `members` a page of them; `next` is where the next one begins. */
export interface Members {
  topic: string;
  count: number;
  members: Member[];
  next?: string;
}

/** One connection for all topics; it comes back by itself, and goes on where it was. */
export interface Client extends Listening<ClientEvents> {
  readonly state: State["state"];

  /**
   * Subscribes to one or more topics. If one is refused, the whole subscription is.
   *
   * Topics are shared: `since` and `last` count where no other subscription of this client has the
   * topic at the time.
   */
  subscribe<Data = unknown>(
    topics: Topics | Topics[],
    options?: SubscribeOptions,
  ): Subscription<Data>;

  /**
   * Publishes, where the server lets clients do that. Waits for a connection if there is none.
   *
   * Rejects with a TypeError where the key is none or the data no JSON: nothing is sent then.
   */
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<Published>;

  /** Reads the history of a topic, oldest first; the oldest messages unless `since` is given. */
  history<Data = unknown>(topic: string, options?: HistoryOptions): Promise<History<Data>>;

  /** Who is there, in a topic that keeps presence. */
  presence(topic: string, options?: PresenceOptions): Promise<Members>;

  /**
   * Looks at the connection now: ends a pause, or asks the server for a sign of life. Browsers need
   * no call; other hosts, when the device wakes up or changes its network.
   */
  wake(): void;

  /** Ends everything, for good. */
  close(): void;
}

export const Client: {
  /**
   * Connects. url: `wss://host/ws`; relative to the page where there is one. Server-Sent Events are
   * expected beside it, at `/sse`.
   */
  new (url: string | URL, options?: Options): Client;
};

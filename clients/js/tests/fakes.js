/** The two transports, with the test at their other end. */

import { unfolded } from "./talk.js";

/** A WebSocket class of its own for each test: `sockets` are those that were made. */
export function fakeWebSocket() {
  return class FakeWebSocket {
    static sockets = [];
    said = [];
    closed = undefined;

    constructor(url, protocol) {
      Object.assign(this, { url: new URL(url), protocol });
      FakeWebSocket.sockets.push(this);
    }

    // The client's side

    send(text) {
      this.said.push(unfolded(JSON.parse(text)));
    }

    close(code) {
      this.closed ??= code;
    }

    // The server's side

    opens() {
      this.onopen({});
      return this;
    }

    says(op, fields) {
      this.onmessage({ data: JSON.stringify({ op, ...fields }) });
      return this;
    }

    welcomes() {
      return this.opens().says("welcome", { client: "c-1", ping_ms: 25_000 });
    }

    /** Answers every `subscribe` so far: topics with history, at epoch "e", `offset`. */
    subscribes(offset = 0) {
      for (const { op, id, topic, topics = [{ topic }] } of this.said.splice(0)) {
        if (op !== "subscribe") continue;
        for (const wish of topics) this.says("subscribed", { id, topic: wish.topic, epoch: "e", offset });
      }
      return this;
    }

    message(topic, offset, data = offset) {
      return this.says("message", { topic, offset, ts: 1_790_000_000_000, data });
    }

    ends(code = 1006, reason = "") {
      this.onclose({ code, reason });
    }
  };
}

/** A `fetch` of event streams: `requests` are those that were made. */
export function fakeFetch() {
  const requests = [];
  const fetch = (url, { headers, signal }) =>
    new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      const request = {
        url: new URL(url),
        headers,
        signal,
        fails: () => reject(new TypeError("fetch failed")),
        refuses: (status, headers, body = "<html>") => resolve(new Response(body, { status, headers })),
        streams(type = "text/event-stream") {
          const body = new ReadableStream({ start: (controller) => (request.controller = controller) });
          signal.addEventListener("abort", () => request.controller.error(signal.reason));
          resolve(new Response(body, { headers: { "content-type": type } }));
          return request;
        },
        writes(...parts) {
          for (const part of parts) {
            const bytes = typeof part === "string" ? new TextEncoder().encode(part) : part;
            request.controller.enqueue(bytes);
          }
          return request;
        },
        ends: () => request.controller.close(),
      };
      requests.push(request);
    });
  return { fetch, requests };
}

/** Lets everything run that waits for nothing outside. */
export const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

/** Waits for a condition, at most five seconds. */
export async function until(condition) {
  for (const end = performance.now() + 5000; !condition(); await settled()) {
    if (performance.now() > end) throw new Error(`never true: ${condition}`);
  }
}

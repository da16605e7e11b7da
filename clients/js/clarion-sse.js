/** Server-Sent Events, for networks that let no WebSocket through. Loaded when there is need. */

const SILENCE_MS = 60_000; // after which a stream is dead; it has a heartbeat every 25 s

/**
 * Opens a stream of the machine's topics, each from its position; `on` hears of it. Returns what
 * closes it.
 *
 * With `fetch`, as an `EventSource` can send neither a token that stays out of logs nor a position
 * of its own, and tells nothing of heartbeats, refusals and `Retry-After`.
 */
export function openStream(url, { topics, token, options: { fetch = globalThis.fetch } }, on) {
  url.protocol = url.protocol.replace("ws", "http");
  url.pathname = url.pathname.replace(/ws$/, "sse");
  const positions = [];
  let most = 0;
  for (const { topic, epoch, offset, last = 0 } of topics.values()) {
    url.searchParams.append("topic", topic);
    if (epoch && !last) positions.push(`${topic}|${epoch}|${offset}`);
    most = Math.max(most, last);
  }
  if (most) url.searchParams.set("last", most);
  const headers = {};
  if (positions[0]) headers["Last-Event-ID"] = positions.join(";");
  if (token) headers.Authorization = `Bearer ${token}`;
  const abort = new AbortController();
  read(() => fetch(url, { headers, signal: abort.signal, cache: "no-store" }), on).then(
    (end) => on("ended", end),
    ({ message }) => on("ended", { reason: message }),
  );
  return () => abort.abort();
}

/** Reads to the end, and returns what it was. */
async function read(request, on) {
  const response = await request();
  const type = response.headers.get("content-type") ?? "";
  if (!response.ok || !type.startsWith("text/event-stream")) {
    const { error } = response.ok ? {} : await response.json().catch(() => ({}));
    if (error?.topic) on("heard", JSON.stringify({ op: "error", ...error })); // it alone is refused
    const after = response.headers.get("retry-after");
    const retry_ms = after ? (Number(after) * 1000 || Date.parse(after) - Date.now()) : undefined;
    // Whether the token is bad or has expired, a stream does not say: a new one tells.
    const code = response.status === 401 ? 4002 : 1006;
    return { code, reason: `HTTP ${response.status}, ${type}`, retry_ms };
  }
  on("heard", `{"op":"welcome","ping_ms":${SILENCE_MS}}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return { reason: "the stream ended" };
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    // Each event is one line of data, which has its `op`. Anything else proves that it is alive.
    for (const line of lines) on("heard", line.startsWith("data:") ? line.slice(5) : "");
  }
}

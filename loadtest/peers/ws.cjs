// A client says a topic's name and hears `ok`; a line `TOPIC DATA` on the other port goes to all.
const { createServer } = require("node:net");
const { createInterface } = require("node:readline");
const { WebSocketServer } = require("ws");

const [port, back] = process.argv.slice(2).map(Number);
const topics = new Map();

new WebSocketServer({ host: "127.0.0.1", port, backlog: 4096, perMessageDeflate: false }).on(
  "connection",
  (client) => {
    client.on("message", (topic) => {
      const name = topic.toString();
      if (!topics.has(name)) topics.set(name, new Set());
      topics.get(name).add(client);
      client.on("close", () => topics.get(name).delete(client));
      client.send("ok");
    });
    client.on("error", () => {});
  },
);

createServer((backend) => {
  backend.on("error", () => {});
  createInterface({ input: backend }).on("line", (line) => {
    const at = line.indexOf(" ");
    // A buffer that is made once: a string would be encoded for each client.
    const data = Buffer.from(line.slice(at + 1));
    for (const client of topics.get(line.slice(0, at)) ?? []) {
      client.send(data, { binary: false });
    }
  });
}).listen(back, "127.0.0.1");

// The event `subscribe` joins a room; a line `TOPIC DATA` on the other port goes to a room.
const { createServer } = require("node:net");
const { createServer: createHttpServer } = require("node:http");
const { createInterface } = require("node:readline");
const { Server } = require("socket.io");

const [port, back] = process.argv.slice(2).map(Number);
const http = createHttpServer();
const io = new Server(http, { transports: ["websocket"], pingInterval: 3_600_000 });
io.on("connection", (socket) => {
  socket.on("subscribe", (topic) => {
    socket.join(topic);
    socket.emit("subscribed", topic);
  });
});
http.listen(port, "127.0.0.1", 4096);

createServer((backend) => {
  backend.on("error", () => {});
  createInterface({ input: backend }).on("line", (line) => {
    const at = line.indexOf(" ");
    io.to(line.slice(0, at)).emit("message", JSON.parse(line.slice(at + 1)));
  });
}).listen(back, "127.0.0.1");

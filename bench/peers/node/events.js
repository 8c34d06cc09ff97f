// What every peer does: the contract's welcome, joinRoom and ping, and a publish over the socket.
export const options = { transports: ["websocket"], serveClient: false, perMessageDeflate: false };

export function listen(io) {
  for (const name of ["/", "/media", "/notifications"]) {
    const namespace = io.of(name);
    namespace.on("connection", (socket) => {
      if (!socket.recovered) {
        socket.emit("welcome", { message: "hello", socketId: socket.id, serverTime: new Date().toISOString() });
      }
      socket.on("joinRoom", (room, ack) => {
        socket.join(room);
        ack({ success: true, room });
      });
      socket.on("ping", (ack) => {
        const pong = { timestamp: Date.now() };
        socket.emit("pong", pong);
        ack(pong);
      });
      socket.on("publish", (room, payload, ack) => {
        namespace.to(room).emit("update", payload);
        ack(true);
      });
    });
  }
}

export function listening(port) {
  console.log(`listening on http://127.0.0.1:${port}`);
}

// Socket.IO on Bun's server, by Socket.IO's own engine for it.
import { Server as Engine } from "@socket.io/bun-engine";
import { Server } from "socket.io";
import { listen, listening } from "./events.js";

const io = new Server();
const engine = new Engine({ path: "/socket.io/" });
io.bind(engine);
listen(io);
const server = Bun.serve({ hostname: "127.0.0.1", port: Number(process.env.PORT ?? 0), ...engine.handler() });
listening(server.port);

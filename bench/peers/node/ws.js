// Socket.IO on Node's own HTTP server and `ws`.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { listen, listening, options } from "./events.js";

const http = createServer();
listen(new Server(http, options));
http.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => listening(http.address().port));

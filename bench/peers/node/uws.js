// Socket.IO on uWebSockets.
import { Server } from "socket.io";
import uws from "@trufflesuite/uws-js-unofficial";
import { listen, listening, options } from "./events.js";

const app = uws.App();
const io = new Server(options);
io.attachApp(app, options);
listen(io);
app.listen("127.0.0.1", Number(process.env.PORT ?? 0), (token) => {
  if (!token) throw new Error("can't listen");
  listening(uws.us_socket_local_port(token));
});

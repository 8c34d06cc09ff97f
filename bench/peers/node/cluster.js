// A node of a cluster: Socket.IO on Node's own HTTP server and `ws`, with the adapter that ADAPTER names. Publishes come in
// over HTTP, as to ours: with a key, answered when the adapter has taken the event.
import { createServer } from "node:http";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { createAdapter as createStreamsAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { listen, listening, options } from "./events.js";

async function client() {
  const client = createClient({ url: process.env.REDIS_URL });
  client.on("error", (error) => console.error(error));
  await client.connect();
  return client;
}

const adapters = {
  streams: async () => createStreamsAdapter(await client()),
  pubsub: async () => createAdapter(await client(), await client()),
  sharded: async () => createShardedAdapter(await client(), await client(), { subscriptionMode: "dynamic" }),
};

const adapter = await adapters[process.env.ADAPTER]();
// Only the streams adapter can recover a session. The two minutes are those of ours.
const recovery = process.env.ADAPTER === "streams" ? { connectionStateRecovery: { maxDisconnectionDuration: 120_000 } } : {};
const key = `Bearer ${process.env.API_KEYS}`;

function publish(request, response) {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const room = /^\/v1\/rooms\/([^/]+)\/events$/.exec(request.url)?.[1];
    const allowed = request.method === "POST" && request.headers.authorization === key;
    let status = 400;
    try {
      if (room && allowed) {
        const { event, data } = JSON.parse(Buffer.concat(chunks));
        io.to(decodeURIComponent(room)).emit(event, data);
        status = 200;
      }
    } catch {
      // Not JSON: 400.
    }
    response.writeHead(status, { "content-type": "application/json", "content-length": 2 });
    response.end("{}");
  });
}

const http = createServer(publish);
const io = new Server(http, { ...options, ...recovery, adapter });
listen(io);
http.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => listening(http.address().port));

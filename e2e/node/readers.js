// A process full of stock clients on /media, each subscribed to one item. Run by a test, which stops it (SIGSTOP), lets it go on, and
// asks what its clients have heard: `node readers.js URL CLIENTS ITEMS`.
import { io } from 'socket.io-client';
import { until } from './wait.js';

const [url, clients, items] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];

class Reader {
  connects = 0;
  recovered = 0;
  progress = [];
  ends = 0;
  late = 0;

  constructor(item) {
    this.item = item;
    this.socket = io(`${url}/media`, {
      forceNew: true,
      transports: ['websocket'],
      reconnectionDelay: 50,
      reconnectionDelayMax: 500,
    });
    this.socket.on('connect', () => {
      this.connects += 1;
      if (this.socket.recovered) this.recovered += 1;
    });
    this.socket.on('mediaProgress', ({ progress }) => {
      this.progress.push(progress);
      if (this.ends > 0) this.late += 1;
    });
    this.socket.on('mediaComplete', () => {
      this.ends += 1;
    });
  }

  async subscribe() {
    await until(() => this.socket.connected, 'connect', 60_000);
    return this.socket.timeout(30_000).emitWithAck('subscribeMedia', this.item);
  }

  /** What it has heard. `back`: progress that was lower than the one before. */
  state() {
    const { item, connects, recovered, progress, ends, late } = this;
    const back = progress.filter((value, index) => value < progress[index - 1]).length;
    return { item, connects, recovered, events: progress.length, last: progress.at(-1), back, ends, late };
  }
}

const readers = Array.from({ length: clients }, (_, n) => new Reader(`item-${n % items}`));
await Promise.all(readers.map((reader) => reader.subscribe()));
process.on('message', () => process.send(readers.map((reader) => reader.state())));
process.on('disconnect', () => process.exit());
process.send('ready');

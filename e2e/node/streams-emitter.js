// npm `@socket.io/redis-streams-emitter` where it is installed: not every registry has it, so it is not in package.json.
// Elsewhere its entries are written here, in its format (0.1).
const installed = await import('@socket.io/redis-streams-emitter').then(
  ({ default: { Emitter } }) => Emitter,
  () => undefined,
);

class Written {
  constructor(client, { streamName = 'socket.io', maxLen = 10_000 } = {}, nsp = '/', rooms = []) {
    Object.assign(this, { client, options: { streamName, maxLen }, nsp, rooms });
  }

  of(nsp) {
    return new Written(this.client, this.options, nsp);
  }

  to(rooms) {
    return new Written(this.client, this.options, this.nsp, [...this.rooms, ...[rooms].flat()]);
  }

  emit(...data) {
    const opts = { rooms: this.rooms, flags: {}, except: [] };
    return this.#add('3', { packet: { type: 2, data, nsp: this.nsp }, opts });
  }

  socketsJoin(rooms) {
    return this.#add('4', { opts: { rooms: this.rooms, except: [], flags: {} }, rooms: [rooms].flat() });
  }

  #add(type, data) {
    const { streamName, maxLen } = this.options;
    const TRIM = { strategy: 'MAXLEN', strategyModifier: '~', threshold: maxLen };
    return this.client.xAdd(streamName, '*', { uid: 'emitter', nsp: this.nsp, type, data: JSON.stringify(data) }, { TRIM });
  }
}

export const StreamsEmitter = installed ?? Written;

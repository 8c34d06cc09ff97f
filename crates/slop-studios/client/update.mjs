// Packs the files of the installed `socket.io-client` for the server, the same bytes at each run.
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';

const source = new URL('../../../e2e/node/node_modules/socket.io-client/', import.meta.url);
const target = new URL('./', import.meta.url);

for (const build of ['socket.io', 'socket.io.min', 'socket.io.esm.min', 'socket.io.msgpack.min']) {
  for (const file of [`${build}.js`, `${build}.js.map`]) {
    const packed = gzipSync(await readFile(new URL(`dist/${file}`, source)), { level: 9 });
    packed.writeUInt32LE(0, 4); // no time
    packed[9] = 255; // of no system
    await writeFile(new URL(`${file}.gz`, target), packed);
  }
}
await copyFile(new URL('LICENSE', source), new URL('LICENSE', target));

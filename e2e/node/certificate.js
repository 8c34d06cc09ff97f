// Certificates of tests: each signs itself, for 127.0.0.1.
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generate } from 'selfsigned';

const IP_ADDRESS = 7; // the kind of an alternative name

/** A new certificate and its key: `{ cert, private }`. Its name is its own: of two with the same, OpenSSL finds only one. */
export function make() {
  return generate([{ name: 'commonName', value: randomUUID() }], {
    keyType: 'ec',
    algorithm: 'sha256',
    extensions: [{ name: 'subjectAltName', altNames: [{ type: IP_ADDRESS, ip: '127.0.0.1' }] }],
  });
}

/** The two files that a server reads. */
export class CertificateFiles {
  static async of(certificate) {
    const files = new CertificateFiles();
    files.folder = await mkdtemp(join(tmpdir(), 'slop-studios-tls-'));
    await files.replace(certificate);
    return files;
  }

  get env() {
    return { TLS_CERT_FILE: join(this.folder, 'cert.pem'), TLS_KEY_FILE: join(this.folder, 'key.pem') };
  }

  async replace({ cert, private: key }) {
    const { TLS_CERT_FILE, TLS_KEY_FILE } = this.env;
    await writeFile(TLS_CERT_FILE, cert);
    await writeFile(TLS_KEY_FILE, key, { mode: 0o600 });
  }

  remove() {
    return rm(this.folder, { recursive: true, force: true });
  }
}

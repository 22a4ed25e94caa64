/** A Linux guest on the four disks of examples/, all in one daemon: what docs/write-a-bdev.md shows works. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { refusesWrites } from './guest-cases.ts';
import { whyNoGuests } from './requirements.ts';

const EXAMPLES = join(import.meta.dirname, '..', '..', 'examples');
const MIB = 2 ** 20;
const IMAGE_MIB = 8;
const BLOCK = 4096;
/** Where the guest writes its pattern. */
const PATTERN_AT_MIB = 2;
const PATTERN_MIB = 2;

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Serves one image, and ranges of it, as web servers do. */
function serveImage(image: Uint8Array, asked: string[]): Server {
  return createServer((request, response) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    const [from, to] = range === null ? [0, image.length] : [Number(range[1]), Number(range[2]) + 1];
    if (range !== null) asked.push(range[0]);
    response.writeHead(range === null ? 200 : 206, { 'accept-ranges': 'bytes', 'content-length': to - from });
    response.end(request.method === 'HEAD' ? undefined : image.subarray(from, to));
  });
}

describe.skipIf(whyNoGuests() !== null)('a guest on the disks of the examples', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ringhost-examples-'));
  const image = randomBytes(IMAGE_MIB * MIB);
  const asked: string[] = [];
  const paths: Record<string, string> = {};
  const file = (name: string): string => join(directory, name);
  const server = serveImage(image, asked);
  let daemon: Daemon;
  let guest: Guest;

  async function serve(name: string, options: Readonly<Record<string, string>>) {
    const path = join(EXAMPLES, `${name}.ts`);
    await daemon.rpc('bdev_module_create', { path, options, timeout_sec: 120 });
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: name, dev_name: name });
    return { id: name, socketPath: daemon.socketPath(name), queues: 2 };
  }

  beforeAll(async () => {
    writeFileSync(file('base'), image);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/image`;
    daemon = await Daemon.start();
    const disks = [
      await serve('ramdisk', { mib: '16' }),
      await serve('http-image', { url }),
      await serve('cow-overlay', { base: file('base'), diff: file('diff') }),
      await serve('sqlite-disk', { file: file('disk.db'), mib: '16' }),
    ];
    guest = await Guest.start({ name: 'examples', disks });
    for (const { id } of disks) paths[id] = await guest.devicePath(id);
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
    server.close();
    server.closeAllConnections();
    rmSync(directory, { recursive: true });
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  /** Writes a pattern of the guest's own, flushes it, reads it back; returns its checksum. */
  async function keepsPattern(name: string): Promise<string> {
    const place = `bs=256k seek=${PATTERN_AT_MIB * 4}`;
    const read = `bs=256k skip=${PATTERN_AT_MIB * 4} count=${PATTERN_MIB * 4} iflag=direct`;
    const { stdout } = await guest.run(`head -c ${PATTERN_MIB}M /dev/urandom >/tmp/pattern
      dd if=/tmp/pattern of=${paths[name]} ${place} oflag=direct conv=notrunc,fsync 2>/dev/null
      dd if=${paths[name]} ${read} 2>/dev/null | cmp - /tmp/pattern
      sha256sum /tmp/pattern | cut -d' ' -f1`);
    return stdout.trim();
  }

  test('ramdisk: keeps what is written', async () => {
    await keepsPattern('ramdisk');
  });

  test('http-image: reads what the web server has, asks for each piece once, and is read-only', async () => {
    const disk = { path: paths['http-image'] ?? '', sizeBytes: IMAGE_MIB * MIB, isReadonly: true };
    for (let i = 0; i < 2; i++) {
      const { stdout } = await guest.run(
        `dd if=${disk.path} bs=64k iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1`,
      );
      expect(stdout.trim()).toBe(sha256(image));
    }
    expect(asked.length).toBe(new Set(asked).size);
    await refusesWrites(guest, disk);
  });

  test('cow-overlay: the guest sees what it wrote over the image, which stays as it was', async () => {
    const sum = await keepsPattern('cow-overlay');
    const at = PATTERN_AT_MIB * MIB;
    const { stdout } = await guest.run(
      `dd if=${paths['cow-overlay']} bs=1M count=${PATTERN_AT_MIB} iflag=direct 2>/dev/null | sha256sum`,
    );
    expect(stdout).toContain(sha256(image.subarray(0, at)));
    expect(sha256(readFileSync(file('base')))).toBe(sha256(image));
    expect(sha256(readFileSync(file('diff')).subarray(at, at + PATTERN_MIB * MIB))).toBe(sum);
    expect(readFileSync(file('diff.map')).filter((byte) => byte === 1)).toHaveLength((PATTERN_MIB * MIB) / BLOCK);
  });

  test('sqlite-disk: what was flushed is in the database when the daemon was killed', async () => {
    const sum = await keepsPattern('sqlite-disk');
    await daemon.stop('SIGKILL');
    const db = new DatabaseSync(file('disk.db'), { readOnly: true });
    const [first, end] = [PATTERN_AT_MIB, PATTERN_AT_MIB + PATTERN_MIB].map((mib) => (mib * MIB) / BLOCK);
    const rows = db.prepare('SELECT data FROM blocks WHERE number >= ? AND number < ? ORDER BY number');
    const blocks = rows.all(first ?? 0, end ?? 0).map(({ data }) => data as Uint8Array);
    db.close();
    expect(sha256(Buffer.concat(blocks))).toBe(sum);
  });
});

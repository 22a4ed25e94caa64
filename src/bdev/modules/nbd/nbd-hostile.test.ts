/** NBD servers that do what no server may do, in this process and over real sockets. */
import { afterEach, describe, expect, it } from 'vitest';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import {
  chunk,
  dataChunk,
  errorChunk,
  exportInfo,
  type FakeNbdOptions,
  FakeNbdServer,
  holeChunk,
  type NbdRequest,
  optionReply,
  simpleReply,
} from '../../../../test/support/fake-nbd-server.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';
import { NbdBdev, type NbdParams } from './nbd.ts';

const DISK_BYTES = 1 << 20;
const BLOCKS = 8;
const BYTES = BLOCKS * 512;
const WHOLE = [{ offset: 0, length: BYTES }];

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

async function serve(options: FakeNbdOptions): Promise<FakeNbdServer> {
  const server = await FakeNbdServer.listen(DISK_BYTES, options);
  closers.push(() => server.close());
  for (let i = 0; i < DISK_BYTES; i++) server.disk[i] = (i * 7 + (i >> 9)) & 0xff;
  return server;
}

async function open(server: FakeNbdServer, params: Partial<NbdParams> = {}): Promise<DiskRig> {
  const rig = new DiskRig(await NbdBdev.open({ name: 'Nbd0', uri: server.uri, ...params }));
  closers.push(() => rig.close());
  return rig;
}

/** Evil answers to the first request of a connection. The next connections get good ones. */
const EVIL_ANSWERS: readonly (readonly [what: string, answer: (request: NbdRequest) => Buffer])[] = [
  ['noise', () => Buffer.alloc(64, 0x5a)],
  ['an answer to a request that was not made', () => chunk(Buffer.alloc(8, 0x77), 1, 0)],
  [
    'an answer with another serial number',
    ({ cookie }) => chunk(Buffer.concat([Buffer.alloc(4, 9), cookie.subarray(4)]), 1, 0),
  ],
  ['a simple answer to a read', ({ cookie }) => Buffer.concat([simpleReply(cookie), Buffer.alloc(BYTES)])],
  ['bytes before the request', (r) => dataChunk(r, r.offset - 512, Buffer.alloc(BYTES), 1)],
  ['bytes after the request', (r) => dataChunk(r, r.offset + 512, Buffer.alloc(BYTES), 1)],
  ['bytes at a negative place', (r) => dataChunk(r, -512, Buffer.alloc(BYTES), 1)],
  ['more bytes than were asked for', (r) => dataChunk(r, r.offset, Buffer.alloc(2 * BYTES), 1)],
  [
    'the same bytes twice',
    (r) =>
      Buffer.concat([dataChunk(r, r.offset, Buffer.alloc(BYTES), 0), dataChunk(r, r.offset, Buffer.alloc(BYTES), 1)]),
  ],
  ['fewer bytes than were asked for', (r) => dataChunk(r, r.offset, Buffer.alloc(512), 1)],
  ['no bytes at all', (r) => chunk(r.cookie, 1, 0)],
  ['an empty piece of data', (r) => dataChunk(r, r.offset, Buffer.alloc(0), 0)],
  ['a piece of data too short for its place', (r) => chunk(r.cookie, 0, 1, Buffer.alloc(4))],
  ['a hole that is too long', (r) => holeChunk(r, r.offset, 0xffff_ffff, 1)],
  ['a hole of a wrong length', (r) => chunk(r.cookie, 0, 2, Buffer.alloc(11))],
  ['a chunk of 4 GiB', (r) => chunk(r.cookie, 0, 1, Buffer.alloc(64), 0xffff_ffff)],
  ['an error of 4 GiB', (r) => chunk(r.cookie, 1, 0x8001, Buffer.alloc(64), 0xffff_ffff)],
  [
    'an error whose text is longer than itself',
    (r) => chunk(r.cookie, 1, 0x8001, Buffer.from([0, 0, 0, 5, 0xff, 0xff])),
  ],
  ['an error too short for its number', (r) => chunk(r.cookie, 1, 0x8001, Buffer.alloc(3))],
  ['an empty chunk that is not the last', (r) => chunk(r.cookie, 0, 0)],
  ['an empty chunk with bytes', (r) => chunk(r.cookie, 1, 0, Buffer.alloc(8))],
  ['a chunk of an unknown type', (r) => chunk(r.cookie, 1, 77)],
  ['that it shuts down', (r) => errorChunk(r, 1, 108, 'soon')],
  [
    'answers twice',
    (r) =>
      Buffer.concat([dataChunk(r, r.offset, Buffer.alloc(BYTES), 1), dataChunk(r, r.offset, Buffer.alloc(BYTES), 1)]),
  ],
];

describe('an NBD disk whose server sends', () => {
  it.each(EVIL_ANSWERS)('%s connects again, and the request is not lost', async (what, answer) => {
    // The first connection is that of the look at the export.
    const server = await serve({ onRequest: (request, connection) => (connection <= 2 ? answer(request) : null) });
    const rig = await open(server);
    rig.guest.fill(0xee);
    expect(await rig.run(IoType.read, 3, BLOCKS, WHOLE)).toBe(IoStatus.success);
    if (what === 'answers twice') expect(await rig.run(IoType.read, 3, BLOCKS, WHOLE)).toBe(IoStatus.success);
    expect(server.connections).toBe(3);
    expect(Buffer.compare(rig.gather(WHOLE), server.disk.subarray(3 * 512, 3 * 512 + BYTES))).toBe(0);
    expect(rig.guest.subarray(BYTES).every((byte) => byte === 0xee)).toBe(true);
  });

  it('half an answer and an end connects again', async () => {
    const server = await serve({
      onRequest: (request, connection, socket) => {
        if (connection > 2) return null;
        const whole = dataChunk(request, request.offset, Buffer.alloc(BYTES, 1), 1);
        setImmediate(() => socket.end());
        return whole.subarray(0, whole.length / 2);
      },
    });
    const rig = await open(server);
    expect(await rig.run(IoType.read, 0, BLOCKS, WHOLE)).toBe(IoStatus.success);
    expect(Buffer.compare(rig.gather(WHOLE), server.disk.subarray(0, BYTES))).toBe(0);
  });

  it('answers in pieces of any size, out of order and with holes is understood', async () => {
    const server = await serve({
      onRequest: (request) => {
        if (request.command !== 0) return null;
        const { offset } = request;
        const part = (at: number, length: number, flags: number): Buffer =>
          dataChunk(request, offset + at, server.disk.subarray(offset + at, offset + at + length), flags);
        return Buffer.concat([
          part(2048, 2048, 0),
          holeChunk(request, offset + 100, 412, 0),
          part(512, 1536, 0),
          part(0, 100, 1),
        ]);
      },
    });
    const rig = await open(server);
    rig.guest.fill(0xee);
    const segments = [
      { offset: 0, length: 50 },
      { offset: 100, length: 1000 },
      { offset: 2000, length: BYTES - 1050 },
    ];
    expect(await rig.run(IoType.read, 0, BLOCKS, segments)).toBe(IoStatus.success);
    const wanted = Buffer.from(server.disk.subarray(0, BYTES));
    wanted.fill(0, 100, 512);
    expect(Buffer.compare(rig.gather(segments), wanted)).toBe(0);
  });

  it('errors fails the request, and only that one', async () => {
    const server = await serve({
      onRequest: (request) => (request.offset === 0 ? errorChunk(request, 1, 5, 'disk on fire') : null),
    });
    const rig = await open(server);
    expect(await rig.run(IoType.read, 0, BLOCKS, WHOLE)).toBe(IoStatus.failed);
    expect(await rig.run(IoType.read, 8, BLOCKS, WHOLE)).toBe(IoStatus.success);
    expect(server.connections).toBe(2);
  });

  it('simple answers, without structured replies, is understood', async () => {
    const server = await serve({
      hasStructuredReplies: false,
      onRequest: ({ cookie, command }) => (command === 3 ? simpleReply(cookie, 5) : null),
    });
    const rig = await open(server);
    expect(await rig.run(IoType.read, 16, BLOCKS, WHOLE)).toBe(IoStatus.success);
    expect(Buffer.compare(rig.gather(WHOLE), server.disk.subarray(16 * 512, 16 * 512 + BYTES))).toBe(0);
    expect(await rig.run(IoType.flush, 0, 0)).toBe(IoStatus.failed);
  });

  it('nothing is left after the time that was set, and the request goes to the next connection', async () => {
    const server = await serve({ onRequest: (_, connection) => (connection <= 2 ? Buffer.alloc(0) : null) });
    const rig = await open(server, { ioTimeoutS: 1 });
    expect(await rig.run(IoType.read, 0, BLOCKS, WHOLE)).toBe(IoStatus.success);
    expect(server.connections).toBe(3);
  });
});

/** What a server may send before the export is open, and what is said of it. */
const EVIL_HANDSHAKES: readonly (readonly [what: string, options: FakeNbdOptions, message: RegExp])[] = [
  ['noise', { greeting: Buffer.alloc(200, 0x41) }, /does not speak NBD/],
  [
    'the oldstyle greeting',
    { greeting: Buffer.from('NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53'.padEnd(152, '\0'), 'latin1') },
    /oldstyle/,
  ],
  ['no fixed newstyle', { greeting: Buffer.from('NBDMAGICIHAVEOPT\0\0', 'latin1') }, /too old/],
  ['noise after the greeting', { onOption: () => Buffer.alloc(40, 1) }, /no option reply/],
  ['an answer of 1 GiB', { onOption: (option) => optionReply(option, 1).fill(0x40, 16, 17) }, /too long/],
  ['the answer to another option', { onOption: (option) => optionReply(option + 1, 1) }, /not asked/],
  ['information instead of an answer', { onOption: (option) => optionReply(option, 3) }, /makes no sense/],
  ['no such export', { onOption: (option) => (option === 7 ? optionReply(7, 0x8000_0006) : null) }, /no such export/],
  ['a wish for TLS', { onOption: (option) => (option === 7 ? optionReply(7, 0x8000_0005) : null) }, /nbds:\/\//],
  ['no size', { onOption: (option) => (option === 7 ? optionReply(7, 1) : null) }, /how large/],
  [
    'a size of nothing',
    { onOption: (option) => (option === 7 ? Buffer.concat([exportInfo(100), optionReply(7, 1)]) : null) },
    /smaller than a block/,
  ],
  [
    'a size beyond numbers',
    { onOption: (option) => (option === 7 ? Buffer.concat([exportInfo(2n ** 63n), optionReply(7, 1)]) : null) },
    /2\^53/,
  ],
  [
    'information that is too short',
    { onOption: (option) => (option === 7 ? optionReply(7, 3, Buffer.alloc(1)) : null) },
    /too short/,
  ],
  [
    'an export of a wrong length',
    { onOption: (option) => (option === 7 ? optionReply(7, 3, Buffer.alloc(11)) : null) },
    /wrong length/,
  ],
  [
    'block sizes that make no sense',
    {
      onOption: (option) =>
        option === 7
          ? Buffer.concat([
              exportInfo(DISK_BYTES),
              optionReply(7, 3, Buffer.from('00030000000300001000ffffffff', 'hex')),
              optionReply(7, 1),
            ])
          : null,
    },
    /make no sense/,
  ],
  [
    'blocks that are too large',
    {
      onOption: (option) =>
        option === 7
          ? Buffer.concat([
              exportInfo(DISK_BYTES),
              optionReply(7, 3, Buffer.from('00030001000000010000ffffffff', 'hex')),
              optionReply(7, 1),
            ])
          : null,
    },
    /4096 is the most/,
  ],
];

describe('an NBD disk is not made when the server sends', () => {
  it.each(EVIL_HANDSHAKES)('%s', async (_, options, message) => {
    const server = await serve(options);
    await expect(NbdBdev.open({ name: 'Nbd0', uri: server.uri })).rejects.toThrow(message);
  });

  it('nothing, because it is not there', async () => {
    const server = await serve({});
    const { uri } = server;
    await server.close();
    closers.length = 0;
    const code = 'ECONNREFUSED';
    await expect(NbdBdev.open({ name: 'Nbd0', uri })).rejects.toThrow(expect.objectContaining({ code }));
  });
});

describe('an NBD URI', () => {
  it.each(['http://host/', 'nbd:///export', 'nbd+unix:///export', 'disk'])('%s is refused', async (uri) => {
    const code = 'EINVAL';
    await expect(NbdBdev.open({ name: 'Nbd0', uri })).rejects.toThrow(expect.objectContaining({ code }));
  });
});

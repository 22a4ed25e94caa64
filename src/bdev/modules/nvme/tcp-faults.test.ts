/** What a disk over NVMe/TCP makes of targets that misbehave, go away, come back, and of several paths. */
import { afterEach, describe, expect, it } from 'vitest';
import { addressOf, idOf, TcpDiskRig, type TcpRigOptions } from '../../../../test/support/nvme-tcp-rig.ts';
import { Ana, type Fault, NvmeTcpTarget } from '../../../../test/support/nvme-tcp-target.ts';
import { until } from '../../../../test/support/waiting.ts';
import { SILENT } from '../../../base/log.ts';
import { CompletionPdu, DataPdu, PduFlag, PduType, R2tPdu, TermPdu } from '../../../nvme/tcp/pdu.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';

const { success, failed } = IoStatus;
const DIGESTS: TcpRigOptions = { host: { headerDigest: true, dataDigest: true } };
const READ = 0x02;
const WRITE = 0x01;

let rig: TcpDiskRig;
let others: NvmeTcpTarget[] = [];

afterEach(async () => {
  await rig.close();
  for (const target of others) await target.kill();
  others = [];
});

/** Writes and reads back `count` blocks of 4 KiB at once; all must be well. */
async function verify(count = 32, seed = 1): Promise<void> {
  const { disk } = rig;
  const blocks = 4096 / disk.blockSize;
  const place = (i: number) => [{ offset: i * 4096, length: 4096 }];
  for (let i = 0; i < count; i++) disk.guest.fill((i * 7 + seed) & 0xff, i * 4096, (i + 1) * 4096);
  const all = (type: IoType) =>
    disk.polled(Promise.all(Array.from({ length: count }, (_, i) => disk.submit(type, i * blocks, blocks, place(i)))));
  expect(new Set(await all(IoType.write))).toEqual(new Set([success]));
  disk.guest.fill(0xcc);
  expect(new Set(await all(IoType.read))).toEqual(new Set([success]));
  for (let i = 0; i < count; i++) {
    const wanted = Buffer.alloc(4096, (i * 7 + seed) & 0xff);
    if (disk.gather(place(i)).compare(wanted) !== 0) expect.fail(`block ${i} does not hold what was written`);
  }
}

/** Does something else instead of the first few commands of a kind. */
function faulty(opcode: number, times: number, act: (...args: Parameters<Fault>) => void): Fault {
  let left = times;
  return (connection, command) => {
    if (command.opcode !== opcode || left === 0) return false;
    left--;
    act(connection, command);
    return true;
  };
}

const BOTH_DIGESTS = PduFlag.headerDigest | PduFlag.dataDigest;
/** Header and its digest. */
const INNER_BYTES = 28;

/** The header of a C2HData PDU with digests for all of a command's data, some fields of which are others. */
function dataHeader(
  { commandId, length }: Parameters<Fault>[1],
  parts: Partial<Parameters<typeof DataPdu.encode>[0]>,
): Uint8Array {
  return DataPdu.encode({
    ...{ type: PduType.c2hData, flags: PduFlag.last | BOTH_DIGESTS, hlen: 24, pdo: INNER_BYTES },
    ...{ plen: INNER_BYTES + length + 4, commandId, transferTag: 0, dataOffset: 0, dataLength: length, reserved: 0 },
    ...parts,
  });
}

/** A completion with header digests, some fields of which are others. */
function completion(commandId: number, parts: Partial<Parameters<typeof CompletionPdu.encode>[0]>): Uint8Array {
  return CompletionPdu.encode({
    ...{ type: PduType.capsuleResp, flags: PduFlag.headerDigest, hlen: 24, pdo: 0, plen: INNER_BYTES },
    ...{ dword0: 0, dword1: 0, sqHead: 0, sqId: 0, commandId, status: 0, ...parts },
  });
}

type HeaderCase = readonly [what: string, ends: number, header: (command: Parameters<Fault>[1]) => Uint8Array];

/** Headers that a target must not send, as the answer to a read. */
const HEADERS: readonly HeaderCase[] = [
  ['data that is longer than its PDU', 1, (command) => dataHeader(command, { plen: INNER_BYTES + 100 })],
  ['data that is shorter than its PDU', 1, (command) => dataHeader(command, { plen: 0xffff_ffff })],
  ['data that begins in its header', 1, (command) => dataHeader(command, { pdo: 8 })],
  ['data of no length', 1, (command) => dataHeader(command, { dataLength: 0, plen: INNER_BYTES + 4 })],
  ['data of 4 GiB', 4, (command) => dataHeader(command, { dataLength: 0xffff_ffff })],
  ['data far behind the end', 4, (command) => dataHeader(command, { dataOffset: 0xffff_fe00 })],
  [
    'data without the digest that was agreed',
    1,
    (one) => dataHeader(one, { flags: PduFlag.headerDigest | PduFlag.last }),
  ],
  ['a header without the digest that was agreed', 1, (one) => dataHeader(one, { flags: PduFlag.dataDigest })],
  ['success before the last data', 1, (one) => dataHeader(one, { flags: BOTH_DIGESTS | PduFlag.success })],
  ['a completion that is too long', 1, ({ commandId }) => completion(commandId, { plen: 64 })],
  ['a completion that is too short', 1, ({ commandId }) => completion(commandId, { plen: 8 })],
  ['a header of another length', 1, ({ commandId }) => completion(commandId, { hlen: 32 })],
  ['a command', 1, ({ commandId }) => completion(commandId, { type: PduType.capsuleCmd })],
  ['another ICResp', 2, ({ commandId }) => completion(commandId, { type: PduType.icResp })],
];

/** What a target may do wrong, whether digests are on, and whether the host ends the connection for it. */
const FAULTS: readonly (readonly [what: string, ends: number | null, fault: () => Fault])[] = [
  [
    'sends data whose digest is wrong',
    null,
    () =>
      faulty(READ, 3, (to, { commandId, length }) => {
        to.sendData(commandId, Buffer.alloc(length, 0x55), 0, PduFlag.last, true);
        to.complete(commandId, 0);
      }),
  ],
  [
    'answers a command that nobody sent',
    1,
    () => faulty(READ, 1, (to, { commandId }) => to.complete(commandId ^ 0x3ff, 0)),
  ],
  [
    'answers a command twice',
    1,
    () =>
      faulty(WRITE, 1, (to, command) => {
        to.execute(command);
        to.complete(command.commandId, 0);
      }),
  ],
  [
    'says success of a read without its data',
    2,
    () => faulty(READ, 1, (to, { commandId }) => to.complete(commandId, 0)),
  ],
  [
    'says success with half of the data',
    1,
    () =>
      faulty(READ, 1, (to, { commandId, length }) =>
        to.sendData(commandId, Buffer.alloc(length / 2), 0, PduFlag.last | PduFlag.success),
      ),
  ],
  [
    'sends more data than was asked for',
    4,
    () =>
      faulty(READ, 1, (to, { commandId, length }) =>
        to.sendData(commandId, Buffer.alloc(length + 512), 0, PduFlag.last),
      ),
  ],
  [
    'sends data at another offset',
    4,
    () => faulty(READ, 1, (to, { commandId }) => to.sendData(commandId, Buffer.alloc(512), 512, PduFlag.last)),
  ],
  [
    'sends data for a write',
    1,
    () => faulty(WRITE, 1, (to, { commandId }) => to.sendData(commandId, Buffer.alloc(512), 0, PduFlag.last)),
  ],
  ['asks for data of a read', 2, () => faulty(READ, 1, (to, { commandId }) => to.sendR2t(commandId, 0, 512))],
  [
    'sends a PDU of an unknown type',
    1,
    () => faulty(READ, 1, (to) => to.send(Buffer.from([0x33, 0, 24, 0, ...Array(20).fill(0)]))),
  ],
  [
    'sends a header whose digest is wrong',
    3,
    () =>
      faulty(READ, 1, (to) => {
        const header = Buffer.alloc(28);
        header.set([5, PduFlag.headerDigest, 24, 0, 28]);
        to.socket.write(header);
      }),
  ],
  [
    'says success with the data, and once more',
    1,
    () =>
      faulty(READ, 1, (to, { commandId, length }) => {
        to.sendData(commandId, Buffer.alloc(length, 0x44), 0, PduFlag.last | PduFlag.success, true);
        to.complete(commandId, 0);
      }),
  ],
  ['asks for data that it has', 2, () => faulty(WRITE, 1, (to, { commandId }) => to.sendR2t(commandId, 0, 512))],
  ...HEADERS.map(
    ([what, ends, header]) =>
      [
        `sends ${what}`,
        ends,
        () => faulty(READ, 1, (to, command) => to.sendHeader(header(command), Buffer.alloc(4096))),
      ] as const,
  ),
  [
    'ends the connection with a reason',
    null,
    () =>
      faulty(READ, 1, (to) =>
        to.socket.write(
          TermPdu.encode({
            ...{ type: PduType.c2hTermReq, flags: 0, hlen: 24, pdo: 0, plen: 24, fatalErrorStatus: 2 },
            ...{ infoLow: 0, infoHigh: 0, reserved: 0, reserved2: 0 },
          }),
        ),
      ),
  ],
  ['drops the connection', null, () => faulty(READ, 2, (to) => to.socket.destroy())],
  [
    'drops the connection in the middle of data',
    null,
    () =>
      faulty(READ, 2, (to, { commandId }) => {
        const header = Buffer.alloc(24);
        header.set([7, 0, 24, 28]);
        header.writeUInt16LE(commandId, 8);
        to.socket.write(header);
        to.socket.resetAndDestroy();
      }),
  ],
  ['fails with a transient error', null, () => faulty(READ, 3, (to, { commandId }) => to.complete(commandId, 0x022))],
];

describe('a target that', () => {
  it.each(FAULTS)('%s costs time, and nothing else', async (_, ends, fault) => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target, DIGESTS);
    await verify();
    const before = target.admissions;
    target.fault = fault();
    await verify(32, 99);
    if (ends === null) return;
    await until(() => target.terminations.length > 0, 'the end of the connection');
    expect(target.terminations).toContain(ends);
    expect(target.admissions).toBeGreaterThan(before);
  });

  it.each<[string, number, (...args: Parameters<Fault>) => void]>([
    ['asks for more than a write has', 4, (to, { commandId, length }) => to.sendR2t(commandId, 0, length + 512)],
    ['asks for what comes later', 4, (to, { commandId }) => to.sendR2t(commandId, 512, 512)],
    ['asks for nothing', 4, (to, { commandId }) => to.sendR2t(commandId, 0, 0)],
    ['asks for data of a command that nobody sent', 1, (to, { commandId }) => to.sendR2t(commandId ^ 0x3ff, 0, 512)],
    ['says success of a write before it had the data', 2, (to, { commandId }) => to.complete(commandId, 0)],
    [
      'asks for more at once than was agreed',
      5,
      (to, { commandId }) => {
        to.sendR2t(commandId, 0, 512);
        to.sendR2t(commandId, 512, 512);
      },
    ],
    [
      'asks with a PDU of another length',
      1,
      (to, { commandId }) =>
        to.sendHeader(
          R2tPdu.encode({
            ...{ type: PduType.r2t, flags: 0, hlen: 24, pdo: 0, plen: 32, commandId },
            ...{ transferTag: 1, dataOffset: 0, dataLength: 512, reserved: 0 },
          }),
        ),
    ],
  ])('%s is left', async (_, ends, act) => {
    const target = new NvmeTcpTarget({ capsuleDataBytes: 0 });
    rig = await TcpDiskRig.open(target);
    await verify(4);
    target.fault = faulty(WRITE, 1, act);
    await verify(4, 2);
    expect(target.terminations).toEqual([ends]);
  });

  it('fails a command for good has that seen by the guest, at once', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target);
    target.fault = faulty(READ, 1, (to, { commandId }) => to.complete(commandId, 0x4281));
    const segments = [{ offset: 0, length: 4096 }];
    expect(await rig.disk.run(IoType.read, 0, 8, segments)).toBe(failed);
    expect(await rig.disk.run(IoType.read, 0, 8, segments)).toBe(success);
  });

  it('sends every byte by itself is waited for', async () => {
    const target = new NvmeTcpTarget({ padding: 4, c2hBytes: 512 });
    rig = await TcpDiskRig.open(target, DIGESTS);
    for (const { socket } of target.connections) {
      const write = socket.write.bind(socket);
      socket.write = ((bytes: Uint8Array) => {
        for (let i = 0; i < bytes.length; i += 7) write(bytes.subarray(i, i + 7));
        return true;
      }) as typeof socket.write;
    }
    await verify(8);
    expect(target.terminations).toEqual([]);
  });
});

describe('a target that goes away', () => {
  it('and comes back, again and again, loses nothing', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target);
    for (let round = 0; round < 4; round++) {
      const verified = verify(64, round);
      await target.kill();
      await target.listen();
      await verified;
    }
    expect(rig.gone).toEqual([]);
  });

  it('in its sleep is noticed by its silence, and what waited goes on when it is back', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target, { host: { keepAliveMs: 400 } });
    await verify(4);
    target.pause();
    const verified = verify(16, 5);
    await until(() => rig.controller.state === 'resetting', 'silence');
    await target.kill();
    target.resume();
    await target.listen();
    await verified;
    await until(() => target.keepAlives > 1, 'keep-alives');
    expect(rig.gone).toEqual([]);
  });

  it('in that it refuses keep-alives is left, and connected to anew', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target, { host: { keepAliveMs: 200 } });
    const before = target.admissions;
    target.keepAliveStatus = 0x018;
    await until(() => target.admissions > before, 'another association');
    target.keepAliveStatus = 0;
    await verify(16, 4);
    expect(rig.gone).toEqual([]);
  });

  it('for longer than requests are held has them fail, and serves new ones when it is back', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target, { reconnect: { fastFailSec: 0.2 } });
    await verify(4);
    await target.kill();
    const segments = [{ offset: 0, length: 4096 }];
    expect(await rig.disk.run(IoType.read, 0, 8, segments)).toBe(failed);
    await target.listen();
    await until(() => rig.controller.state === 'enabled', 'the connection');
    await verify(4, 9);
  });

  it('for good ends the controller after its time', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target, { reconnect: { lossTimeoutSec: 0.3 } });
    await verify(4);
    await target.kill();
    expect(await rig.disk.run(IoType.read, 0, 8, [{ offset: 0, length: 4096 }])).toBe(failed);
    await until(() => rig.gone.length === 1, 'the end');
    expect(rig.controller.state).toBe('failed');
  });

  it('and comes back with another namespace under the same number is not written to', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target);
    await target.kill();
    target.identityByte = 7;
    await target.listen();
    await until(() => rig.controller.namespaces.length === 0, 'the loss of the namespace');
    expect(target.done.get(WRITE)).toBe(undefined);
  });
});

describe('a target that grants fewer queues than there are channels', () => {
  it('keeps the last one waiting, which is said, until another one closes', async () => {
    const warnings: string[] = [];
    const log = { ...SILENT, warn: (text: string) => void warnings.push(text) };
    rig = await TcpDiskRig.open(new NvmeTcpTarget({ queues: 1 }), { log });
    await verify(4);
    const { disk } = rig;
    const second = disk.openChannel();
    let isOver = false;
    const request = disk.submit(IoType.read, 0, 8, [{ offset: 0, length: 4096 }], second);
    const over = request.then((status) => {
      isOver = true;
      return status;
    });
    await disk.polled(until(() => warnings.length > 0, 'a warning'));
    expect([isOver, warnings]).toEqual([
      false,
      [expect.stringMatching(/grants 1 I\/O queue, .* a disk waits for one/)],
    ]);
    disk.channels.shift()?.close();
    expect(await disk.polled(over)).toBe(success);
  });
});

describe('two paths', () => {
  async function openTwo(
    ana = false,
    reconnect: TcpRigOptions['reconnect'] = {},
  ): Promise<[NvmeTcpTarget, NvmeTcpTarget]> {
    const first = new NvmeTcpTarget();
    const second = new NvmeTcpTarget({}, first.namespaces);
    first.hasAna = ana;
    second.hasAna = ana;
    second.ana = ana ? Ana.inaccessible : Ana.optimized;
    others.push(second);
    await second.listen();
    rig = await TcpDiskRig.open(first, { reconnect });
    await rig.controller.addPath(idOf(second), addressOf(second));
    return [first, second];
  }
  const commandsOf = (target: NvmeTcpTarget): number =>
    [...target.done.values()].reduce((sum, count) => sum + count, 0);

  it('are used one at a time, and the other when that is lost', async () => {
    const [first, second] = await openTwo();
    await verify();
    const verified = verify(64, 3);
    await first.kill();
    await verified;
    expect(commandsOf(second)).toBeGreaterThan(0);
    await first.listen();
    await until(() => rig.controller.paths.every(({ isUp }) => isUp), 'the first path');
    await second.kill();
    await verify(32, 8);
  });

  it('are chosen by what they say of the access to the namespace', async () => {
    const [first, second] = await openTwo(true);
    await verify();
    expect(commandsOf(second)).toBe(0);
    first.ana = Ana.inaccessible;
    second.ana = Ana.optimized;
    // Nobody announces it: the first command that is refused shows it.
    await verify(32, 4);
    const before = commandsOf(first);
    await verify(32, 5);
    expect(commandsOf(first)).toBe(before);
    first.ana = Ana.optimized;
    second.ana = Ana.nonOptimized;
    for (const target of [first, second]) target.announce((0x0c << 16) | (3 << 8) | 2);
    await until(() => rig.controller.paths.every((path) => path.access(1) < 3), 'the news');
    await verify(32, 6);
    expect(commandsOf(first)).toBeGreaterThan(before);
  });

  it('of which one is lost for good are one, and it can be added again', async () => {
    const [first, second] = await openTwo(false, { lossTimeoutSec: 0.3 });
    await verify(8);
    await first.kill();
    await until(() => rig.controller.paths.length === 1, 'the end of the path');
    await verify(8, 2);
    await first.listen();
    await rig.controller.addPath(idOf(first), addressOf(first));
    await second.kill();
    await verify(8, 3);
    expect(rig.gone).toEqual([]);
  });

  it('of which one is taken away by the operator go on with the other', async () => {
    const [first, second] = await openTwo();
    await verify(8);
    await rig.controller.removePath('127.0.0.1', first.port);
    await verify(8, 2);
    expect([commandsOf(second) > 0, rig.controller.pathIds.length]).toEqual([true, 1]);
  });
});

describe('a controller over TCP', () => {
  it('is the same by IPv6', async () => {
    rig = await TcpDiskRig.open(new NvmeTcpTarget(), DIGESTS, '::1');
    await verify();
    const verified = verify(64, 3);
    await rig.target.kill();
    await rig.target.listen();
    await verified;
    expect(rig.controller.transportId).toMatchObject({ traddr: '::1' });
  });

  it('is reset without an error', async () => {
    rig = await TcpDiskRig.open(new NvmeTcpTarget());
    const verified = verify(64);
    await rig.disk.polled(rig.controller.reset());
    await verified;
    expect(rig.target.admissions).toBeGreaterThan(2);
  });

  it('hears of namespaces that come and grow', async () => {
    const target = new NvmeTcpTarget();
    rig = await TcpDiskRig.open(target);
    target.addNamespace(2);
    await until(() => {
      target.announce((0x04 << 16) | 2);
      return rig.controller.namespaces.length === 2;
    }, 'the new namespace');
    expect(rig.controller.namespaces.map(({ nsid }) => nsid)).toEqual([1, 2]);
  });

  it('that is refused says so', async () => {
    rig = await TcpDiskRig.open(new NvmeTcpTarget());
    const target = await new NvmeTcpTarget().listen();
    others.push(target);
    target.refusal = 0x4184;
    await expect(rig.controller.addPath(idOf(target), addressOf(target))).rejects.toThrow('invalid host');
    await target.kill();
    await expect(rig.controller.addPath(idOf(target), addressOf(target))).rejects.toThrow('refused');
  });
});

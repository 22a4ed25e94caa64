/** A drive that is there, that misbehaves, that vanishes: the controller and its channels over a model of one. */
import { afterEach, describe, expect, it } from 'vitest';
import { describeConformance, type Kind } from '../../../test/support/bdev-conformance.ts';
import { DiskRig, type Segment } from '../../../test/support/disk-rig.ts';
import { type Completion, type Fate, type ModelOptions, NvmeModel } from '../../../test/support/nvme-model.ts';
import { diskOf, guestMemory, openController } from '../../../test/support/nvme-rig.ts';
import { until } from '../../../test/support/waiting.ts';
import { IoStatus, IoType } from '../../bdev/bdev-io.ts';
import { readHealth } from '../admin.ts';
import type { ControllerEvents } from '../controller.ts';
import type { PcieController, PcieOptions } from './pcie-controller.ts';

const { success, failed, gone } = IoStatus;
const MIB = 1 << 20;
const KIB = 1 << 10;
/** Overdue after a fifth of a second, at the latest after two. */
const IMPATIENT = { tickMs: 10, timeoutMs: 200, abortMs: 200, adminTimeoutMs: 2000 } as const;

interface Rig {
  readonly model: NvmeModel;
  readonly controller: PcieController;
  readonly disk: DiskRig;
}

const rigs: Rig[] = [];

afterEach(async () => {
  for (const { model, controller, disk } of rigs.splice(0)) {
    await disk.close();
    await controller.close();
    model.check();
  }
});

async function setUp(
  options: ModelOptions = {},
  parts: Partial<PcieOptions> & Partial<ControllerEvents> & { memory?: 'own' | 'shared' } = {},
): Promise<Rig> {
  const model = new NvmeModel(options);
  const controller = await openController(model, parts, parts);
  const disk = new DiskRig(diskOf(controller, 1), parts.memory === 'own' ? undefined : guestMemory());
  const rig = { model, controller, disk };
  rigs.push(rig);
  return rig;
}

/** Pages in a row. */
const pages = (count: number, offset = 0): Segment[] => [{ offset, length: count * 4096 }];

async function expectRoundTrip({ disk, model }: Rig, seed: number, count = 8): Promise<void> {
  const bytes = disk.guest.subarray(0, count * disk.blockSize).fill(seed);
  const segments = [{ offset: 0, length: bytes.length }];
  expect(await disk.run(IoType.write, 3, count, segments)).toBe(success);
  expect(model.namespaces.get(1)?.disk.subarray(3 * disk.blockSize, (3 + count) * disk.blockSize)).toEqual(
    Buffer.alloc(bytes.length, seed),
  );
  bytes.fill(0);
  expect(await disk.run(IoType.read, 3, count, segments)).toBe(success);
  expect(Buffer.compare(bytes, Buffer.alloc(bytes.length, seed))).toBe(0);
}

function modelKind(options: ModelOptions, parts: Partial<PcieOptions>, memory: 'own' | 'shared'): Kind {
  const blockBytes = options.namespaces?.get(1)?.blockBytes ?? 512;
  return {
    canWake: (options.vectors ?? 0) > 0,
    ...(memory === 'shared' ? { memory: () => guestMemory() } : {}),
    async make(name, sizeBytes) {
      const namespaces = new Map([[1, { blockBytes, disk: Buffer.alloc(sizeBytes) }]]);
      const model = new NvmeModel({ ...options, namespaces });
      const controller = await openController(model, parts);
      return diskOf(controller, 1, name, async () => {
        await controller.close();
        model.check();
      });
    },
  };
}

const of4096 = new Map([[1, { blockBytes: 4096, disk: Buffer.alloc(0) }]]);
describeConformance('an NVMe drive that reaches the guest’s memory', modelKind({ vectors: 9 }, {}, 'shared'));
describeConformance('an NVMe drive whose requests are copied', modelKind({ namespaces: of4096 }, {}, 'own'));
describeConformance(
  'an NVMe drive of small queues, small transfers, and a boundary',
  modelKind({ queueEntriesMax: 4, mdts: 1, boundaryBlocks: 24, doorbellStride: 2 }, {}, 'shared'),
);

describe('a request', () => {
  it('goes to the drive on the guest’s own pages, and through a copy where the rules forbid it', async () => {
    const rig = await setUp({}, { memory: 'shared' });
    await expectRoundTrip(rig, 0x11, 64);
    const odd = [
      { offset: 3, length: 512 },
      { offset: 9001, length: 512 },
    ];
    rig.disk.guest.fill(0x22, 0, 16_384);
    expect(await rig.disk.run(IoType.write, 0, 2, odd)).toBe(success);
    expect(rig.model.namespaces.get(1)?.disk.subarray(0, 1024)).toEqual(Buffer.alloc(1024, 0x22));
  });

  it('larger than the drive takes is cut, and ends when its last part does', async () => {
    const rig = await setUp({ mdts: 2 });
    await expectRoundTrip(rig, 0x33, 256);
    expect(rig.model.seen.filter((opcode) => opcode === 2)).toHaveLength(8);
  });

  it('does not cross a boundary that the drive had rather not have crossed', async () => {
    const rig = await setUp({ boundaryBlocks: 16 });
    await expectRoundTrip(rig, 0x44, 64);
    expect(rig.model.boundaryCrossings).toBe(0);
  });

  it('that the drive refuses for good fails; one that it may try again is tried again', async () => {
    const rig = await setUp();
    rig.model.statusOf = (opcode) => (opcode === 2 ? 0x4281 : 0);
    expect(await rig.disk.run(IoType.read, 0, 8, pages(1))).toBe(failed);
    expect(rig.model.seen).toEqual([2]);
    let refusals = 2;
    rig.model.statusOf = () => (refusals-- > 0 ? 0x0082 : 0);
    expect(await rig.disk.run(IoType.read, 0, 8, pages(1))).toBe(success);
    expect(rig.model.seen).toEqual([2, 2, 2, 2]);
    refusals = 99;
    expect(await rig.disk.run(IoType.read, 0, 8, pages(1))).toBe(failed);
  });

  it('waits when there are more than a queue has room for', async () => {
    const { disk } = await setUp({ queueEntriesMax: 2 });
    const all = Array.from({ length: 700 }, (_, i) =>
      disk.submit(IoType.write, i, 1, [{ offset: i * 512, length: 512 }]),
    );
    expect(new Set(await disk.polled(Promise.all(all)))).toEqual(new Set([success]));
  });
});

describe('completions', () => {
  it('that come in another order belong to their requests', async () => {
    const { disk, model } = await setUp();
    for (let i = 0; i < 64; i++) model.namespaces.get(1)?.disk.fill(i + 1, i * 4096, (i + 1) * 4096);
    model.isBackwards = true;
    const order: number[] = [];
    const reads = Array.from({ length: 64 }, async (_, i) => {
      expect(await disk.submit(IoType.read, i * 8, 8, pages(1, i * 4096))).toBe(success);
      order.push(i);
    });
    await disk.polled(Promise.all(reads));
    expect(order[0]).toBeGreaterThan(order.at(-1) as number);
    for (let i = 0; i < 64; i++) expect(disk.guest[i * 4096]).toBe(i + 1);
  });

  it('that come twice end one request, and not a later one', async () => {
    const { disk, model } = await setUp();
    model.fateOf = () => 'twice';
    for (let round = 0; round < 20; round++) {
      model.namespaces.get(1)?.disk.fill(round, 0, 4096);
      expect(await disk.run(IoType.read, 0, 8, pages(1))).toBe(success);
      expect(disk.guest[4095]).toBe(round);
    }
  });

  it('go round the queue many times', async () => {
    const rig = await setUp({ queueEntriesMax: 3 });
    for (let round = 0; round < 50; round++) await expectRoundTrip(rig, round);
    expect(rig.model.seen).toHaveLength(100);
  });
});

describe('a command that does not end', () => {
  it('is aborted and driven again', async () => {
    const { disk, model, controller } = await setUp({}, IMPATIENT);
    model.fateOf = once('hold');
    model.namespaces.get(1)?.disk.fill(0x55, 0, 4096);
    expect(await disk.run(IoType.read, 0, 8, pages(1))).toBe(success);
    expect(disk.guest[0]).toBe(0x55);
    expect([controller.state, model.enables, model.seen]).toEqual(['enabled', 1, [2, 2]]);
  });

  it('and of which the drive knows nothing has the controller reset, and is driven again', async () => {
    const { disk, model, controller } = await setUp({}, IMPATIENT);
    model.fateOf = once('lose');
    disk.guest.fill(0x66, 0, 8192);
    const both = [
      disk.submit(IoType.write, 0, 8, pages(1)),
      disk.submit(IoType.write, 8, 8, pages(1, 4096)),
      disk.submit(IoType.flush, 0, 0),
    ];
    expect(await disk.polled(Promise.all(both))).toEqual([success, success, success]);
    expect(model.namespaces.get(1)?.disk.subarray(0, 8192)).toEqual(Buffer.alloc(8192, 0x66));
    await until(() => controller.state === 'enabled', 'the end of the reset');
    expect(model.enables).toBe(2);
  });
});

describe('a reset', () => {
  it('while hundreds of requests are under way loses none and doubles none', async () => {
    const rig = await setUp({ vectors: 9 });
    const { disk, controller, model } = rig;
    const total = 1000;
    let ended = 0;
    const all = Array.from({ length: total }, async (_, i) => {
      const segments = [{ offset: (i % 1024) * 4096, length: 4096 }];
      const status = await disk.submit(i % 2 === 0 ? IoType.write : IoType.read, (i * 8) % 8192, 8, segments);
      ended++;
      return status;
    });
    await disk.polled(until(() => ended > 100, 'progress'));
    model.fateOf = () => 'lose';
    await disk.polled(new Promise((resolve) => setTimeout(resolve, 5)));
    const reset = controller.reset();
    model.fateOf = () => 'post';
    await disk.polled(reset);
    expect(new Set(await disk.polled(Promise.all(all)))).toEqual(new Set([success]));
    expect([ended, model.enables]).toEqual([total, 2]);
  });

  it('of an idle drive, asked for twice at once, happens once', async () => {
    const rig = await setUp();
    await Promise.all([rig.controller.reset(), rig.controller.reset()]);
    expect(rig.model.enables).toBe(2);
    await expectRoundTrip(rig, 0x77);
  });

  it('follows when the controller says that it failed', async () => {
    const rig = await setUp({}, IMPATIENT);
    rig.model.isStuck = true;
    const request = rig.disk.submit(IoType.read, 0, 8, pages(1));
    rig.disk.channel.poll();
    rig.model.fail();
    expect(await rig.disk.polled(request)).toBe(success);
    expect(rig.model.enables).toBe(2);
  });

  it('that fails three times gives the drive up, and requests with it', async () => {
    const reasons: string[] = [];
    const rig = await setUp({}, { ...IMPATIENT, onGone: (reason) => reasons.push(reason) });
    rig.model.fateOf = () => 'lose';
    const request = rig.disk.submit(IoType.read, 0, 8, pages(1));
    rig.disk.channel.poll();
    rig.model.refusesQueues = true;
    const reset = rig.controller.reset().catch((error: Error) => error.message);
    expect(await rig.disk.polled(reset)).toContain('does not create an I/O queue');
    expect(await rig.disk.polled(request)).toBe(failed);
    expect(await rig.disk.run(IoType.read, 0, 8, pages(1))).toBe(failed);
    expect([rig.controller.state, reasons.length, rig.model.isBusMaster]).toEqual(['failed', 1, false]);
    await expect(rig.controller.reset()).rejects.toMatchObject({ code: 'ENODEV' });
  });
});

describe('a drive that is pulled out', () => {
  it('ends what is in flight, and says that it is gone', async () => {
    const reasons: string[] = [];
    const { disk, model, controller } = await setUp({}, { ...IMPATIENT, onGone: (reason) => reasons.push(reason) });
    model.fateOf = () => 'hold';
    const requests = Array.from({ length: 300 }, (_, i) =>
      disk.submit(IoType.read, i, 1, [{ offset: 0, length: 512 }]),
    );
    disk.channel.poll();
    model.remove();
    expect(new Set(await disk.polled(Promise.all(requests)))).toEqual(new Set([gone]));
    expect([controller.state, reasons]).toEqual(['failed', ['it was removed, or has lost power']]);
    expect(await disk.run(IoType.read, 0, 1, [{ offset: 0, length: 512 }])).toBe(failed);
  });

  it('in an orderly way, or unbound, is cut off from memory before requests in flight fail', async () => {
    const reasons: string[] = [];
    const { disk, model, controller } = await setUp({}, { ...IMPATIENT, onGone: (reason) => reasons.push(reason) });
    model.fateOf = () => 'hold';
    const request = disk.submit(IoType.read, 0, 1, [{ offset: 0, length: 512 }]);
    disk.channel.poll();
    // Until then there is no request that the drive could be cut off from.
    await until(() => model.held.length > 0, 'the command at the drive');
    model.isRequested = true;
    expect(await disk.polled(request)).toBe(failed);
    expect([controller.state, model.isBusMaster]).toEqual(['failed', false]);
    expect(reasons).toEqual(['it is being unplugged, or unbound from vfio-pci']);
  });

  it('before it is attached is an error', async () => {
    const model = new NvmeModel();
    model.remove();
    await expect(openController(model)).rejects.toMatchObject({ code: 'ENODEV' });
    expect([model.isClosed, model.violations]).toEqual([true, []]);
  });
});

describe('a controller', () => {
  it('tells of namespaces that come', async () => {
    let news = 0;
    const { model, controller } = await setUp({}, { ...IMPATIENT, onNamespaces: () => news++ });
    expect(await readHealth(controller.admin)).toMatchObject({ percentageUsed: 0 });
    expect(controller.namespaces.map(({ nsid }) => nsid)).toEqual([1]);
    model.namespaces.set(7, { blockBytes: 4096, disk: Buffer.alloc(MIB) });
    model.raiseEvent(2, 0, 4);
    await until(() => news === 1, 'news of namespaces');
    expect(controller.namespaces.map(({ nsid, blockCount }) => [nsid, blockCount])).toEqual([
      [1, 8192],
      [7, 256],
    ]);
    model.raiseEvent(1, 1, 2);
    model.raiseEvent(2, 0, 4);
    await until(() => news === 2, 'news after an event of another kind');
  });

  it('gives each channel a queue pair, and says when there is none left', async () => {
    const rig = await setUp({ queues: 2, queueEntriesMax: 5 });
    const { disk } = rig;
    disk.openChannel();
    expect(() => disk.openChannel()).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
    for (let round = 0; round < 12; round++) {
      await expectRoundTrip(rig, round + 1);
      disk.channels.shift()?.close();
      disk.openChannel();
    }
    await rig.controller.reset();
    await expectRoundTrip(rig, 99);
  });

  it('is closed while it does not answer', async () => {
    const rig = await setUp({}, IMPATIENT);
    rig.model.isStuck = true;
    const health = readHealth(rig.controller.admin);
    await expect(health).rejects.toMatchObject({ errno: expect.any(Number) });
  });

  it('takes memory that is shared later, and lets go of memory that is withdrawn', async () => {
    const rig = await setUp({}, { memory: 'own' });
    const memory = guestMemory();
    memory.close();
    await expectRoundTrip(rig, 0x12, (16 * KIB) / 512);
    expect(rig.model.violations).toEqual([]);
  });
});

/** A fate for the first completion; the others are posted. */
function once(fate: Fate): (completion: Completion) => Fate {
  let isFirst = true;
  return () => {
    const is = isFirst ? fate : 'post';
    isFirst = false;
    return is;
  };
}

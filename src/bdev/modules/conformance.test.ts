/** Every kind of disk does what a bdev does. The files of the file kind are real: on a disk, and in memory. */
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe } from 'vitest';
import { whyNoDirectIo } from '../../../test/e2e/requirements.ts';
import { describeConformance, type Kind } from '../../../test/support/bdev-conformance.ts';
import { MainThreadIo } from '../../../test/support/main-thread-io.ts';
import { SILENT } from '../../base/log.ts';
import { allowedCores } from '../../sys/thread.ts';
import type { Bdev } from '../bdev.ts';
import type { StackedParams } from '../stacked.ts';
import { CryptoBdev } from './crypto/crypto.ts';
import { CryptoKey } from './crypto/keys.ts';
import { DelayBdev } from './delay/delay.ts';
import { ErrorBdev } from './error/error.ts';
import { FileBdev, type FileParams } from './file/file.ts';
import { GptBdev } from './gpt/gpt.ts';
import { ownEntry } from './lvol/entries.ts';
import { planGeometry } from './lvol/format.ts';
import { LvolBdev } from './lvol/lvol.ts';
import { PageIo } from './lvol/page-io.ts';
import { LvolStore } from './lvol/store.ts';
import { RecordKind, record } from './lvol/volumes.ts';
import { MallocBdev, MemoryBudget } from './malloc/malloc.ts';
import { NullBdev } from './null/null.ts';
import { PassthruBdev } from './passthru/passthru.ts';
import { PowerCutBdev } from './powercut/powercut.ts';
import type { RaidLevel } from './raid/layout.ts';
import { MirrorBdev } from './raid/mirror.ts';
import { assemble } from './raid/mirror-assembly.ts';
import { RaidBdev } from './raid/raid.ts';
import { MAP_BYTES } from './raid/superblock.ts';
import { SplitBdev } from './split/split.ts';

const ON_DISK = mkdtempSync(join(import.meta.dirname, '../../../build/disks-'));
const LVOL_CLUSTER_BYTES = 64 * 1024;
const IN_MEMORY = mkdtempSync('/dev/shm/ringhost-disks-');

afterAll(() => {
  for (const directory of [ON_DISK, IN_MEMORY]) rmSync(directory, { recursive: true });
});

function mallocOf(blockSizeBytes: number): Kind {
  const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
  return {
    make: (name, bytes) => new MallocBdev({ name, blockCount: bytes / blockSizeBytes, blockSizeBytes }, budget),
  };
}

/** A new file each time: a kernel thread of the disk before may have the old one for a while, with its lock. */
function fileIn(directory: string, params: Partial<FileParams> = {}): Kind {
  let files = 0;
  return {
    canWake: true,
    make(name, bytes) {
      const filename = join(directory, `${name}-${files++}`);
      writeFileSync(filename, '');
      truncateSync(filename, bytes);
      return new FileBdev({ flavor: 'aio', name, filename, ...params });
    },
  };
}

function cryptOver(base: Kind, hexDigits: 32 | 64): Kind {
  const hex = ['1', '2'].map((digit) => digit.repeat(hexDigits)) as [string, string];
  const key = new CryptoKey({ name: 'K', tweakMode: 'SIMPLE_LBA', hex });
  return { ...over(base, (params) => new CryptoBdev({ ...params, key })), isZeroed: false };
}

/** Over two disks of which the first is smaller, in strips that most requests are longer than. */
function raidOver(base: Kind, level: RaidLevel): Kind {
  return {
    canWake: true,
    async make(name, bytes, registry) {
      const sizes = level === 'raid0' ? [bytes / 2, bytes / 2 + 8192] : [bytes / 4, (3 * bytes) / 4];
      const bases = [];
      for (const [i, size] of sizes.entries()) {
        const below = await base.make(`${name}-base${i}`, size, registry);
        bases.push(registry.create(below.name, below.uuid, () => below));
      }
      return new RaidBdev({ name, level, bases, stripKib: 8 });
    },
  };
}

/** Two legs that are the same from the start: nothing is rebuilt meanwhile. */
function mirrorOver(base: Kind, hasSuperblock: boolean): Kind {
  return {
    canWake: true,
    async make(name, bytes, registry) {
      const bases = [];
      for (const leg of ['a', 'b']) {
        const below = await base.make(`${name}-${leg}`, bytes + (hasSuperblock ? 2 ** 20 : 0), registry);
        bases.push(registry.create(below.name, below.uuid, () => below));
      }
      const io = new MainThreadIo(registry);
      const request = { name, uuid: undefined, bases, absent: [], hasSuperblock, slots: 2, allowsDegraded: false };
      const assembly = await assemble(request, io.blocks);
      for (const slot of assembly.slots) slot.state = 'in_sync';
      const same = { ...assembly, map: new Uint8Array(MAP_BYTES) };
      const mirror = new MirrorBdev({ name, hasSuperblock, isInherited: false }, same, io);
      registry.once('deleted', () => io.close());
      return mirror;
    },
    begin: (mirror) => (mirror as MirrorBdev).start(),
  };
}

/** A thin volume; a clone has every other cluster from its parent. */
function lvolOver(base: Kind, isClone: boolean): Kind {
  let side: MainThreadIo | null = null;
  afterAll(() => side?.close());
  return {
    canWake: true,
    async make(name, bytes, registry) {
      side ??= new MainThreadIo(registry);
      const bdev = await base.make(`${name}-base`, 4 * bytes, registry);
      const below = registry.create(bdev.name, bdev.uuid, () => bdev);
      const clusters = bytes / LVOL_CLUSTER_BYTES;
      const parts = { base: below, io: new PageIo(side.blocks, below), log: SILENT };
      const geometry = planGeometry(4 * bytes, LVOL_CLUSTER_BYTES);
      const store = await LvolStore.format(parts, geometry, randomUUID(), 'lvs');
      const change = (...fields: Parameters<typeof record>) => store.change(() => ({ record: record(...fields) }));
      await change(RecordKind.create, 1, clusters, 1, { uuid: randomUUID(), name });
      await store.ready();
      if (!isClone) return new LvolBdev(store, store.volumes.get(1));
      for (let i = 0; i < clusters; i += 2) {
        await change(RecordKind.map, 1, i, ownEntry(store.memory.takeReady()));
      }
      await change(RecordKind.snapshot, 1, 2, 0, { uuid: randomUUID(), name: 'parent' });
      await store.ready();
      return new LvolBdev(store, store.volumes.get(2));
    },
  };
}

/** A stacked bdev over a disk of another kind. */
function over(base: Kind, stack: (params: StackedParams) => Bdev): Kind {
  return {
    canWake: true,
    async make(name, bytes, registry) {
      const below = await base.make(`${name}-base`, bytes, registry);
      return stack({ name, base: registry.create(below.name, below.uuid, () => below) });
    },
  };
}

describeConformance('a RAM disk', mallocOf(512));
describeConformance('a RAM disk of 4096-byte blocks', mallocOf(4096));
describeConformance('a null disk', {
  keepsData: false,
  make: (name, bytes) => new NullBdev({ name, blockCount: bytes / 512, blockSizeBytes: 512 }),
});
describe.skipIf(whyNoDirectIo(ON_DISK) !== null)('O_DIRECT:', () => {
  describeConformance('a file', fileIn(ON_DISK, { isDirect: true }));
  describeConformance('a file of 4096-byte blocks', fileIn(ON_DISK, { isDirect: true, blockSizeBytes: 4096 }));
});
describeConformance('a file in the page cache', fileIn(ON_DISK, { isDirect: false }));
describeConformance('a file in memory', fileIn(IN_MEMORY));
describeConformance('a file with a kernel thread that submits', fileIn(ON_DISK, { sqPollCore: allowedCores().at(-1) }));
describeConformance(
  'a pass-through disk over a RAM disk',
  over(mallocOf(512), (params) => new PassthruBdev(params)),
);
describeConformance(
  'a pass-through disk over a pass-through disk over a file',
  over(
    over(fileIn(IN_MEMORY), (params) => new PassthruBdev(params)),
    (params) => new PassthruBdev(params),
  ),
);
describeConformance(
  'a delay disk over a RAM disk of 4096-byte blocks',
  over(mallocOf(4096), (params) => new DelayBdev({ ...params, latenciesUs: [50, 100, 150, 200] })),
);
describeConformance(
  'an error disk without errors over a RAM disk',
  over(mallocOf(512), (params) => new ErrorBdev(params)),
);
describeConformance('an encrypted RAM disk', cryptOver(mallocOf(512), 32));
describeConformance(
  'an encrypted file of 4096-byte blocks',
  cryptOver(fileIn(IN_MEMORY, { blockSizeBytes: 4096 }), 64),
);
describeConformance('a raid0 disk over RAM disks', raidOver(mallocOf(512), 'raid0'));
describeConformance(
  'a concat disk over files of 4096-byte blocks',
  raidOver(fileIn(IN_MEMORY, { blockSizeBytes: 4096 }), 'concat'),
);
describeConformance('a mirror of RAM disks', mirrorOver(mallocOf(512), false));
describeConformance(
  'a mirror with superblocks of files of 4096-byte blocks',
  mirrorOver(fileIn(IN_MEMORY, { blockSizeBytes: 4096 }), true),
);
describeConformance('a thin volume on a RAM disk', lvolOver(mallocOf(512), false));
describeConformance(
  'a clone on a file of 4096-byte blocks',
  lvolOver(fileIn(IN_MEMORY, { blockSizeBytes: 4096 }), true),
);
describeConformance('a disk whose power can be cut', {
  make: (name, bytes) =>
    new PowerCutBdev(
      { name, uuid: undefined, blockCount: bytes / 512, blockSizeBytes: 512, ignoresFlush: false },
      new MemoryBudget(Number.POSITIVE_INFINITY),
    ),
});
describeConformance('a partition of a RAM disk', {
  canWake: true,
  async make(name, bytes, registry) {
    const whole = await mallocOf(512).make(name, 2 * bytes, registry);
    const base = registry.create(name, undefined, () => whole);
    const place = { number: 1, firstBlock: 63, blockCount: bytes / 512 };
    const partition = { ...place, typeGuid: randomUUID(), guid: randomUUID(), name: '' };
    return new GptBdev({ base, types: undefined, bdevs: new Set() }, partition);
  },
});
describeConformance('the second part of a RAM disk', {
  canWake: true,
  make(name, bytes, registry) {
    const size = { blockCount: (2 * bytes) / 512, blockSizeBytes: 512 };
    const whole = new MallocBdev({ name, ...size }, new MemoryBudget(Number.POSITIVE_INFINITY));
    const base = registry.create(name, undefined, () => whole);
    return new SplitBdev({ base, count: 2, sizeMib: 0, partBlocks: bytes / 512, parts: new Set() }, 1);
  },
});

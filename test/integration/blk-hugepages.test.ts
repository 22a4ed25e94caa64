/** Guest memory of 2 MiB pages: mapped by other rules than ordinary memory, served in the same way. */
import { expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { BlkLoadGenerator } from '../../src/initiator/load-generator.ts';
import { reserveHugepages } from '../e2e/requirements.ts';
import { MIB, pattern, SECTOR, sameBytes } from './blk-case-helpers.ts';
import { QemuStorageDaemons, RinghostDaemon, type TargetProvider } from './fixtures/targets.ts';

const HUGEPAGE_BYTES = 2 * MIB;
const BLOCKS = 1024;
/** The second region is the later part of its file. */
const MEMORY = [
  { guestAddress: 0, sizeBytes: 16 * MIB, hugepageSizeBytes: HUGEPAGE_BYTES },
  { guestAddress: 64 * MIB, sizeBytes: 4 * MIB, hugepageSizeBytes: HUGEPAGE_BYTES, mmapOffset: HUGEPAGE_BYTES },
];

const providers: [string, () => Promise<TargetProvider>][] = [
  ['ringhost', () => RinghostDaemon.start()],
  ['qemu-storage-daemon', async () => new QemuStorageDaemons()],
];

it.for(providers)('%s serves a guest whose memory is huge pages', async ([, start], { skip }) => {
  const pages = reserveHugepages(24);
  if (typeof pages === 'string') return skip(pages);
  const provider = await start();
  const target = await provider.create();
  try {
    const disk = await BlkInitiator.connect(target.path, { memory: MEMORY });
    const data = pattern(MIB, 3);
    const place = (lengthBytes: number): number => (lengthBytes === MIB ? 66 * MIB - 4096 : disk.memory.allocate(16));
    await disk.write(9, data, { place });
    disk.memory.write(66 * MIB - 4096, new Uint8Array(MIB));
    sameBytes(await disk.read(9, data.length, { place }), data, 'a buffer across huge pages');
    sameBytes(await disk.read(9, SECTOR), data.subarray(0, SECTOR), 'the same from the first region');
    await disk.writeZeroes([{ sector: 0, sectors: BLOCKS * 8 }]);
    const stamps = new BlockStamps(BLOCKS, 4096, { isZeroed: true });
    const generator = new BlkLoadGenerator(disk, { depth: 32, writePercent: 50, stamps });
    const { errors, firstMismatch } = generator.run({ count: 20_000 });
    expect({ errors, firstMismatch }).toEqual({ errors: 0, firstMismatch: null });
    disk.close();
    provider.checkAlive();
  } finally {
    await target.close();
    await provider.close();
    pages.release();
  }
});

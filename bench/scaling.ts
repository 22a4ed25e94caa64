/**
 * What a daemon costs that carries many disks, for docs/scaling.md: `node bench/scaling.ts [COUNT…]` (1 10 100 1000)
 * starts one with so many null disks and controllers, connects as many guests, and looks at its memory, descriptors,
 * threads and processor time while all are silent. Then queues and mapped memory, on one guest.
 */
import { join } from 'node:path';
import { BlkInitiator } from '../src/initiator/blk-initiator.ts';
import type { SessionOptions } from '../src/initiator/frontend-session.ts';
import { CostlyDaemon, show, showHead } from './costly-daemon.ts';

const GUEST_BYTES = 16 << 20;
const BLOCKS = 8192;
const COUNTS = [1, 10, 100, 1000];
const QUEUES = [1, 4, 16, 64];
const GIB = [1, 4, 16, 64];

const name = (i: number): string => `vhost.${i}`;

function configOf(count: number): object {
  const numbers = Array.from({ length: count }, (_, i) => i);
  const disks = numbers.map((i) => ({
    method: 'bdev_null_create',
    params: { name: `Null${i}`, num_blocks: BLOCKS, block_size: 512 },
  }));
  const controllers = numbers.map((i) => ({
    method: 'vhost_create_blk_controller',
    params: { ctrlr: name(i), dev_name: `Null${i}` },
  }));
  return {
    subsystems: [
      { subsystem: 'bdev', config: disks },
      { subsystem: 'vhost_blk', config: controllers },
    ],
  };
}

async function connect(daemon: CostlyDaemon, i: number, options: SessionOptions = {}): Promise<BlkInitiator> {
  const memory = [{ guestAddress: 2 ** 32, sizeBytes: GUEST_BYTES }];
  const guest = await BlkInitiator.connect(join(daemon.directory, name(i)), { memory, ...options });
  for (let queue = 0; queue < (options.queues ?? 1); queue++) await guest.read(0, 4096, { queue });
  return guest;
}

async function measureControllers(count: number): Promise<void> {
  const daemon = new CostlyDaemon(configOf(count));
  try {
    const startMs = await daemon.ready();
    show(`${count} controllers`, await daemon.cost(), `started in ${(startMs / 1000).toFixed(2)} s`);
    const sinceMs = performance.now();
    const guests: BlkInitiator[] = [];
    for (let i = 0; i < count; i++) guests.push(await connect(daemon, i));
    const connectMs = (performance.now() - sinceMs) / count;
    show(`${count} guests on them`, await daemon.cost(), `${connectMs.toFixed(1)} ms to connect one and read`);
    for (const guest of guests) guest.close();
  } finally {
    await daemon.stop();
  }
}

async function measureGuest(what: string, options: SessionOptions): Promise<void> {
  const daemon = new CostlyDaemon(configOf(1));
  try {
    await daemon.ready();
    const guest = await connect(daemon, 0, options);
    show(what, await daemon.cost());
    guest.close();
  } finally {
    await daemon.stop();
  }
}

const counts = process.argv.slice(2).map(Number);
showHead();
for (const count of counts.length > 0 ? counts : COUNTS) await measureControllers(count);
for (const queues of QUEUES) await measureGuest(`1 guest, ${queues} queues`, { queues });
for (const gib of GIB) {
  const memory = [{ guestAddress: 2 ** 32, sizeBytes: gib * 2 ** 30 }];
  await measureGuest(`1 guest of ${gib} GiB`, { memory });
}

/**
 * Runs in a guest whose daemon drives an NVMe drive by VFIO, as the front-end of that disk: attaches the drive, puts
 * verified load on it, and says what it saw in one line of JSON. `use` works and leaves a message on the disk, `lose`
 * goes on until the drive is gone, `measure` reads at random without looking at what it reads (bench/nvme-guest.ts).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlkInitiator, capacityBytes } from '../../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../../src/initiator/block-stamps.ts';
import { BlkLoadGenerator } from '../../../src/initiator/load-generator.ts';
import { RpcClient } from '../../../src/rpc/client.ts';

const DIRECTORY = '/run/ringhost';
const TRADDR = '0000:01:00.0';
const MIB = 2 ** 20;
const BLOCK_BYTES = 4096;
const DEPTH = 16;
/** TCG on a busy machine. */
const LIMIT_MS = 120_000;
const IDLE_MS = 1000;
/** Of `measure`, by depth: requests to get warm, and milliseconds. */
const MEASURED_DEPTHS = [1, 32];
const WARM_UP_REQUESTS = 500;
const MEASURE_MS = 8000;

const rpc = await RpcClient.connect(`${DIRECTORY}/rpc.sock`, { timeoutMs: LIMIT_MS });
const disks = await rpc.call('bdev_nvme_attach_controller', { name: 'Nvme0', trtype: 'PCIe', traddr: TRADDR });
await rpc.call('vhost_create_blk_controller', { ctrlr: 'disk', dev_name: disks[0] ?? '' });
const disk = await BlkInitiator.connect(`${DIRECTORY}/disk`, { timeoutMs: LIMIT_MS });
const blockCount = capacityBytes(disk.config) / BLOCK_BYTES;
const stamps = new BlockStamps(blockCount, BLOCK_BYTES);
/** The first MiB is not part of it: what the kernel wrote there is read, and the kernel finds ours there. */
for (let block = 0; block < MIB / BLOCK_BYTES; block++) stamps.claim(block);
const load = new BlkLoadGenerator(disk, { depth: DEPTH, writePercent: 50, stamps, stallMs: LIMIT_MS });

/** Interrupts of the drive's vectors so far, on all processors. */
function countInterrupts(): number {
  const lines = readFileSync('/proc/interrupts', 'utf8').split('\n');
  return lines
    .filter((line) => line.includes('vfio-msix'))
    .flatMap((line) => line.trim().split(/\s+/).slice(1))
    .reduce((sum, word) => sum + (/^\d+$/.test(word) ? Number(word) : 0), 0);
}

/** Seconds that the daemon's threads have run. */
function processorSeconds(): number {
  const pid = readFileSync(`${DIRECTORY}/pid`, 'utf8').trim();
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Whether the daemon, left alone, comes to run for less than half of a second's time. */
async function fallsAsleep(): Promise<boolean> {
  for (const end = Date.now() + LIMIT_MS; Date.now() < end; ) {
    const before = processorSeconds();
    await sleep(IDLE_MS);
    if (processorSeconds() - before < IDLE_MS / 2000) return true;
  }
  return false;
}

async function use(): Promise<Record<string, unknown>> {
  const found = Buffer.from(await disk.read(0, 512)).toString('latin1');
  const before = countInterrupts();
  const first = await load.runAsync({ count: 400 });
  const interrupts = countInterrupts() - before;
  const sleeps = await fallsAsleep();
  const reset = rpc.call('bdev_nvme_reset_controller', { name: 'Nvme0' });
  const second = await load.runAsync({ count: 400 });
  await reset;
  const third = await load.runAsync({ count: 200 });
  await disk.write(8, Buffer.alloc(512, 'written by Ringhost '));
  await disk.flush();
  const health = await rpc.call('bdev_nvme_get_controller_health_info', { name: 'Nvme0' });
  const runs = [first, second, third].map(({ ios, errors, mismatches }) => ({ ios, errors, mismatches }));
  const { model_number: model, host_write_commands: writes } = health;
  return { disks, found, runs, interrupts, sleeps, model, writes, knownBlocks: stamps.knownCount() };
}

async function measure(): Promise<unknown[]> {
  const results: unknown[] = [];
  for (const depth of MEASURED_DEPTHS) {
    const reads = new BlkLoadGenerator(disk, { depth, stallMs: LIMIT_MS });
    await reads.runAsync({ count: WARM_UP_REQUESTS });
    const before = countInterrupts();
    const { ios, iops, latency } = await reads.runAsync({ durationMs: MEASURE_MS });
    const interrupts = (countInterrupts() - before) / ios;
    results.push({ depth, iops, p50Ns: latency.percentile(50), interrupts });
    reads.close();
  }
  return results;
}

async function lose(): Promise<Record<string, unknown>> {
  const ios = { good: 0, bad: 0, mismatches: 0 };
  while (ios.bad === 0) {
    const { errors, mismatches, ...run } = await load.runAsync({ count: 100 });
    if (ios.good === 0) writeFileSync('/dev/console', 'nvme-client: the load runs\n');
    ios.good += run.ios - errors;
    ios.bad += errors;
    ios.mismatches += mismatches;
  }
  let left: unknown[] = ['not asked yet'];
  while (left.length > 0) {
    await sleep(100);
    left = [...(await rpc.call('bdev_nvme_get_controllers')), ...(await rpc.call('bdev_get_bdevs'))];
  }
  return ios;
}

const WORK: Readonly<Record<string, () => Promise<unknown>>> = { use, lose, measure };
const answer = await WORK[process.argv[2] ?? '']?.();
load.close();
disk.close();
await rpc.call('vhost_delete_controller', { ctrlr: 'disk', force: true });
rpc.close();
console.log(JSON.stringify(answer));

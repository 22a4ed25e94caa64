/**
 * `npm run bench:files`: disks over a file, in interleaved rounds on the same file and core: Ringhost and
 * qemu-storage-daemon with a polling client on the other core, and fio, which asks the kernel without a guest between.
 * While fio runs, the client's core is kept as busy as the client keeps it: in a virtual machine that takes time from
 * the disk itself.
 *
 *   npm run bench:files -- [--file PATH] [--buffered] [--write PERCENT] [--depths 1,32] [--rounds N] [--seconds S]
 *
 * The file (1 GiB, default in the checkout) is on the file system that is to be measured.
 */
import { execFile } from 'node:child_process';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { findOnPath } from '../scripts/setup/child.mjs';
import { RpcClient } from '../src/rpc/client.ts';
import { allowedCores, pinToCore } from '../src/sys/thread.ts';
import { LoadClient } from './client.ts';
import { table } from './report.ts';
import { pairedRatios, summarize } from './statistics.ts';
import { canConnect } from './targets/ringhost.ts';
import { areThere, launch, makeDirectory, ROOT, socketName, type Target } from './targets/target.ts';

const FILE_MIB = 1024;
const CHUNK_MIB = 4;
const SUBJECT = 'ringhost';
const WARM_UP_MS = 200;
const ENDPOINT = { protocol: 'blk', disk: 'ram' } as const;

const { values } = parseArgs({
  options: {
    file: { type: 'string', default: join(ROOT, 'build', 'bench-disk') },
    buffered: { type: 'boolean', default: false },
    write: { type: 'string', default: '0' },
    depths: { type: 'string', default: '1,32,128' },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
  },
});
const { file, buffered: isBuffered } = values;
const writePercent = Number(values.write);
const seconds = Number(values.seconds);

/** One who can be measured: IOPS at a depth. */
interface Contestant {
  readonly name: string;
  measure(depth: number): Promise<number>;
  stop(): Promise<void>;
}

/** Random bytes all over the file, on the disk and nowhere else. */
function fillFile(): void {
  if (existsSync(file) && statSync(file).size === FILE_MIB << 20) return;
  mkdirSync(join(file, '..'), { recursive: true });
  const fd = openSync(file, 'w');
  const chunk = Buffer.alloc(CHUNK_MIB << 20, 'ringhost');
  for (let i = 0; i < FILE_MIB / CHUNK_MIB; i++) writeSync(fd, chunk);
  fsyncSync(fd);
  closeSync(fd);
}

async function startRinghost(core: number, mode: 'adaptive' | 'interrupt'): Promise<Target> {
  const directory = makeDirectory();
  const socket = join(directory, 'rpc');
  return await launch({
    name: mode === 'adaptive' ? SUBJECT : `${SUBJECT} --mode ${mode}`,
    description: mode,
    directory,
    command: process.execPath,
    args: [join(ROOT, 'bin/ringhost'), 'serve', '-S', directory, '-r', socket, '-m', `[${core}]`, '--mode', mode],
    isUp: () => canConnect(socket),
    configure: async () => {
      using rpc = await RpcClient.connect(socket);
      await rpc.call('bdev_aio_create', { name: 'File0', filename: file, ...(isBuffered ? { direct: false } : {}) });
      await rpc.call('vhost_create_blk_controller', { ctrlr: socketName(ENDPOINT), dev_name: 'File0' });
    },
  });
}

async function startQemu(core: number): Promise<Target> {
  const directory = makeDirectory();
  const socket = join(directory, socketName(ENDPOINT));
  const cache = isBuffered ? 'cache.direct=off,aio=threads' : 'cache.direct=on,aio=io_uring';
  const args = [
    ...['-c', String(core), 'qemu-storage-daemon', '--object', 'iothread,id=io,poll-max-ns=1000000'],
    ...['--blockdev', `driver=file,node-name=disk,filename=${file},${cache},locking=off`],
    '--export',
    `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${socket},writable=on,iothread=io`,
  ];
  return await launch({
    name: 'qemu-storage-daemon',
    description: cache,
    directory,
    command: 'taskset',
    args,
    isUp: async () => areThere([socket]),
  });
}

/** A vhost-user target with our client in front of it; stopped while others have their turn. */
async function served(starting: Promise<Target>): Promise<Contestant> {
  const target = await starting;
  target.suspend();
  return {
    name: target.name,
    async measure(depth) {
      target.resume();
      const load = { format: 'indirect', queues: 1, depth, blockBytes: 4096, pattern: 'random', writePercent } as const;
      const client = await LoadClient.connect(target.path(ENDPOINT), { protocol: 'blk', ...load });
      try {
        return client.measure(seconds * 1000, WARM_UP_MS).iops;
      } finally {
        await client.close();
        target.suspend();
      }
    },
    stop: () => target.stop(),
  };
}

function fio(core: number): Contestant {
  const engine = isBuffered ? ['--ioengine=psync'] : ['--ioengine=io_uring', '--registerfiles=1', '--direct=1'];
  return {
    name: 'fio',
    async measure(depth) {
      const kind = writePercent === 0 ? 'randread' : writePercent === 100 ? 'randwrite' : 'randrw';
      const args = [
        ...['-c', String(core), 'fio', '--name=bench', `--filename=${file}`, '--bs=4k', `--rw=${kind}`],
        ...[...engine, `--iodepth=${depth}`, `--rwmixwrite=${writePercent}`, `--size=${FILE_MIB}m`, '--invalidate=0'],
        ...['--time_based', `--runtime=${seconds}`, `--ramp_time=${WARM_UP_MS}ms`, '--norandommap', '--randrepeat=0'],
        ...['--output-format=json'],
      ];
      const text = await outputWhileBusy('taskset', args);
      const { jobs } = JSON.parse(text) as { jobs: { read: { iops: number }; write: { iops: number } }[] };
      return jobs.reduce((sum, { read, write }) => sum + read.iops + write.iops, 0);
    },
    stop: async () => undefined,
  };
}

/** What a command prints. Until it ends, this thread never sleeps. */
async function outputWhileBusy(command: string, args: readonly string[]): Promise<string> {
  let output: string | null = null;
  let failure: Error | null = null;
  execFile(command, args, (error, stdout) => {
    failure = error;
    output = stdout;
  });
  for (;;) {
    if (failure !== null) throw failure;
    if (output !== null) return output;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function main(): Promise<void> {
  const [clientCore, targetCore] = allowedCores();
  if (clientCore === undefined || targetCore === undefined) throw new Error('two cores are needed: one a side');
  fillFile();
  const contestants = [await served(startRinghost(targetCore, 'adaptive'))];
  const depths = values.depths.split(',').map(Number);
  const iops = new Map<string, number[]>();
  const key = (name: string, depth: number): string => `${name} ${depth}`;
  try {
    contestants.push(await served(startRinghost(targetCore, 'interrupt')));
    if (findOnPath('qemu-storage-daemon') !== null) contestants.push(await served(startQemu(targetCore)));
    if (findOnPath('fio') !== null) contestants.push(fio(targetCore));
    pinToCore(clientCore);
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const depth of depths) {
        for (const { name, measure } of contestants) {
          const list = iops.get(key(name, depth)) ?? [];
          list.push(await measure(depth));
          iops.set(key(name, depth), list);
        }
      }
    }
  } finally {
    for (const contestant of contestants) await contestant.stop();
    if (values.file === join(ROOT, 'build', 'bench-disk')) rmSync(file, { force: true });
  }
  const rows = depths.flatMap((depth) =>
    contestants.map(({ name }) => {
      const own = iops.get(key(name, depth)) ?? [];
      const ratio = summarize(pairedRatios(iops.get(key(SUBJECT, depth)) ?? [], own));
      const { median, min, max } = summarize(own);
      const text = (value: number): string => `${(value / 1000).toFixed(1)} k`;
      return [
        `depth ${depth}`,
        name,
        `${text(median)} (${text(min)}–${text(max)})`,
        `${ratio.median.toFixed(2)} (${ratio.min.toFixed(2)}–${ratio.max.toFixed(2)})`,
      ];
    }),
  );
  console.log(table([['4 KiB random', 'who', 'IOPS (min–max)', 'ringhost is'], ...rows]));
}

await main();

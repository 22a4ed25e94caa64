/**
 * A daemon that runs out of something, or whose peers do not do their part: what it says, that it goes on, and that
 * nothing is left behind. Connections that come and go with errors in the middle are sampled here;
 * `RINGHOST_CYCLES=10000` makes it the long run.
 */
import { execFileSync, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { DescriptorFlag } from '../../src/initiator/driver-ring.ts';
import { OwnedMemory } from '../../src/initiator/owned-memory.ts';
import type { VhostUserFrontend } from '../../src/initiator/vhost-user-frontend.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { closeFd, createEventFd } from '../../src/sys/events.ts';
import { connectUnix, sendMessage } from '../../src/sys/socket.ts';
import { encodeMessage, encodeU64, HeaderFlag, REQUESTS } from '../../src/vhost-user/messages.ts';
import { whyNoHugepages } from '../e2e/requirements.ts';
import { MIB, pattern, writeAndReadBack } from './blk-case-helpers.ts';
import {
  anyOutcome,
  type HostileBench,
  isClosedByPeer,
  onHostileBench,
  refusal,
  seededRandom,
  waitUntil,
} from './hostile-helpers.ts';
import { REGIONS, RING_SIZE, RingAttacker } from './ring-attacker.ts';

const CYCLES = Number(process.env['RINGHOST_CYCLES'] ?? 300);
const GIB = 1024 * MIB;
/** Far more than a thread that turns in its loop would need in a second; ticks of 10 ms. */
const IDLE_TICKS_MAX = 50;
const UNLIMITED = 'unlimited';
const HUGEPAGE_BYTES = 2 * MIB;
const HUGEPAGES = '/sys/kernel/mm/hugepages/hugepages-2048kB';
const withoutHugepages = whyNoHugepages();

let bench: HostileBench;
onHostileBench((started) => {
  bench = started;
});

/** Changes a limit of the running daemon. */
function limit(resource: 'nofile' | 'as', soft: number | typeof UNLIMITED): void {
  execFileSync('prlimit', ['--pid', String(bench.daemon.pid), `--${resource}=${soft}:`]);
}

function fdLimit(): number {
  const line = readFileSync(`/proc/${bench.daemon.pid}/limits`, 'utf8').match(/Max open files\s+(\d+)/);
  return Number(line?.[1]);
}

/** The lowest descriptor that is not open: with it as the limit none can be opened. */
function firstFreeFd(): number {
  const open = new Set(readdirSync(`/proc/${bench.daemon.pid}/fd`).map(Number));
  let fd = 0;
  while (open.has(fd)) fd++;
  return fd;
}

/** Processor time of the main thread, in ticks. */
function mainThreadTicks(): number {
  const { pid } = bench.daemon;
  const fields = readFileSync(`/proc/${pid}/task/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

describe('without descriptors', () => {
  it('front-ends and clients wait or are refused, the main thread rests, and goes on when there are some', async () => {
    const before = fdLimit();
    const driver = await bench.connect();
    limit('nofile', firstFreeFd() + 2);
    const sockets: Socket[] = [];
    try {
      const fds = Array.from({ length: 8 }, () => connectUnix(bench.victim.path));
      for (const fd of fds) bench.track({ close: () => closeFd(fd) });
      for (let i = 0; i < 8; i++) sockets.push(connect(join(bench.daemon.directory, 'rpc.sock')).on('error', () => {}));
      await waitUntil('the log says why', () => /cannot accept/.test(bench.daemon.log));
      const ticks = mainThreadTicks();
      await sleep(1000);
      expect(mainThreadTicks() - ticks).toBeLessThan(IDLE_TICKS_MAX);
      await writeAndReadBack(driver, 0, pattern(4096, 3));
    } finally {
      limit('nofile', before);
      for (const socket of sockets) socket.destroy();
    }
    const client = await RpcClient.connect(join(bench.daemon.directory, 'rpc.sock'));
    expect(await client.call('spdk_get_version')).toBeDefined();
    client.close();
  });

  it('a message that brings some ends its session with the reason', async () => {
    const frontend = await bench.negotiated();
    const before = fdLimit();
    limit('nofile', firstFreeFd());
    const fd = createEventFd();
    try {
      expect(await refusal('KICK', frontend.command(REQUESTS.SET_VRING_KICK.code, encodeU64(0), [fd]))).toBe('closed');
    } finally {
      closeFd(fd);
      limit('nofile', before);
    }
    await waitUntil('the log says so', () => /front-end disconnected: /.test(bench.daemon.log));
  });
});

describe('without memory', () => {
  it('a disk is refused, and what is there goes on', async () => {
    const { rpc } = bench.daemon;
    const create = rpc.call('bdev_malloc_create', { name: 'Huge', block_size: 4096, num_blocks: (64 * GIB) / 4096 });
    await expect(create).rejects.toThrow(/memory/i);
  });

  it('guest memory that cannot be mapped is refused with the reason, and the session goes on', async () => {
    const memory = new OwnedMemory([{ guestAddress: 0, sizeBytes: 64 * GIB }]);
    const frontend = await bench.negotiated();
    const size = Number(/VmSize:\s+(\d+)/.exec(readFileSync(`/proc/${bench.daemon.pid}/status`, 'utf8'))?.[1]) * 1024;
    limit('as', size + GIB);
    try {
      const [region] = memory.regions;
      if (region === undefined) throw new Error('the memory has a region');
      expect(await refusal('64 GiB', frontend.addMemRegion(region))).toBe('nack');
    } finally {
      limit('as', UNLIMITED);
      memory.close();
    }
    expect(await frontend.getFeatures()).toBeGreaterThan(0n);
    expect(bench.daemon.log).toMatch(/ADD_MEM_REG refused: .*memory/);
  });
});

describe('guest memory of huge pages', () => {
  it.skipIf(withoutHugepages !== null)('of which none are left ends its session with the reason', async () => {
    // More than there are, or may be made. Nobody touches them but the device.
    const read = (name: string): number => Number(readFileSync(join(HUGEPAGES, name), 'utf8'));
    const count = read('free_hugepages') + read('nr_overcommit_hugepages') + 16;
    const huge = { guestAddress: GIB, sizeBytes: count * HUGEPAGE_BYTES, hugepageSizeBytes: HUGEPAGE_BYTES };
    const options = { queues: 2, queueSize: RING_SIZE, memory: [...REGIONS, { ...huge, isGuarded: true }] };
    const attack = new RingAttacker(await bench.connect(options));
    attack.goodRead();
    for (let page = 0; page < count && !attack.disk.frontend.isClosed; page++) {
      attack.descriptor(1, GIB + page * HUGEPAGE_BYTES, 512, DescriptorFlag.next | DescriptorFlag.write, 2);
      await attack.fire(0);
    }
    expect(await isClosedByPeer(attack.disk.frontend)).toBe(true);
    await waitUntil('the log says why', () => /no huge pages are left/.test(bench.daemon.log));
  });
});

describe('a log', () => {
  it('that nobody reads, or without room, does not stop the daemon', async () => {
    for (const stderr of ['pipe', 'full'] as const) {
      const daemon = await QuietDaemon.start(stderr);
      try {
        await daemon.rpc.call('log_set_level', { level: 'DEBUG' });
        // Each is a line of more than 100 bytes; a pipe holds 64 KiB.
        for (let i = 0; i < 800; i++) (await RpcClient.connect(daemon.socket)).close();
        expect(await daemon.rpc.call('bdev_get_bdevs')).toHaveLength(1);
        const driver = await BlkInitiator.connect(daemon.disk);
        await writeAndReadBack(driver, 0, pattern(4096, 4));
        driver.close();
      } finally {
        await daemon.close();
      }
    }
  });
});

describe('front-ends that come and go', () => {
  it(`leave no descriptor and no mapping behind, ${CYCLES} times with errors in the middle`, {
    timeout: 3_600_000,
  }, async () => {
    const random = seededRandom(CYCLES);
    const memory = OwnedMemory.single(MIB);
    const counts = { clean: 0, cut: 0, refused: 0, vanished: 0, drivers: 0 };
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const die = random();
      if (die < 0.2) await cutShort(memory, random);
      else if (die < 0.4) await vanish(memory);
      else if (die < 0.6) await refuse(memory);
      else if (die < 0.8) await disconnect(memory);
      else (await bench.connect({ queues: 2 })).close();
      const kind = (['cut', 'vanished', 'refused', 'clean', 'drivers'] as const)[Math.floor(die * 5)] ?? 'drivers';
      counts[kind]++;
      // The bench counts descriptors and mappings, and serves a good driver.
      if (cycle % 100 === 99) await bench.checkAftermath();
    }
    memory.close();
    console.log(`${CYCLES} connections: ${JSON.stringify(counts)}`);
    expect(Object.values(counts).reduce((sum, count) => sum + count)).toBe(CYCLES);
  });

  /** Ends inside a message that has descriptors. */
  async function cutShort(memory: OwnedMemory, random: () => number): Promise<void> {
    const fd = connectUnix(bench.victim.path);
    const payload = new Uint8Array(40);
    payload[0] = 1;
    const bytes = encodeMessage(REQUESTS.SET_MEM_TABLE.code, HeaderFlag.needReply, payload);
    const fds = memory.regions.map((region) => region.fd);
    sendMessage(fd, bytes.subarray(0, 1 + Math.floor(random() * (bytes.length - 1))), 0, fds);
    closeFd(fd);
  }

  /** Goes while its messages are handled. */
  async function vanish(memory: OwnedMemory): Promise<void> {
    const frontend = await bench.negotiated();
    const [region] = memory.regions;
    if (region !== undefined) void anyOutcome(frontend.addMemRegion(region));
    void anyOutcome(frontend.setVringNum(0, 128));
    frontend.close();
  }

  /** Is told no, with descriptors of all kinds. */
  async function refuse(memory: OwnedMemory): Promise<void> {
    const frontend = await bench.negotiated();
    const fds = [...memory.regions.map((region) => region.fd), createEventFd()];
    await anyOutcome(frontend.command(REQUESTS.SET_VRING_KICK.code, encodeU64(200), [fds[1] as number]));
    if (!frontend.isClosed) await anyOutcome(frontend.command(99, new Uint8Array(8), fds));
    closeFd(fds[1] as number);
    frontend.close();
  }

  async function disconnect(memory: OwnedMemory): Promise<void> {
    const frontend: VhostUserFrontend = await bench.negotiated();
    const [region] = memory.regions;
    if (region !== undefined) await frontend.addMemRegion(region);
    frontend.close();
  }
});

/** A daemon whose log goes nowhere. */
class QuietDaemon {
  readonly rpc: RpcClient;
  readonly socket: string;
  readonly disk: string;
  readonly #stop: () => Promise<void>;

  private constructor(directory: string, rpc: RpcClient, stop: () => Promise<void>) {
    this.socket = join(directory, 'quiet.sock');
    this.disk = join(directory, 'vhost.0');
    this.rpc = rpc;
    this.#stop = stop;
  }

  /** `pipe`: one that nobody reads; `full`: a file without room. */
  static async start(stderr: 'pipe' | 'full'): Promise<QuietDaemon> {
    const { directory } = bench.daemon;
    const socket = join(directory, 'quiet.sock');
    const where = stderr === 'full' ? '>/dev/full 2>/dev/full' : '';
    const command = `exec "$0" bin/ringhost serve -S "$1" -r "$2" --default-config ${where}`;
    const child = spawn('/bin/sh', ['-c', command, process.execPath, directory, socket], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let isGone = false;
    child.once('exit', () => (isGone = true));
    let rpc: RpcClient | null = null;
    for (let i = 0; i < 9000 && rpc === null; i++) {
      rpc = await RpcClient.connect(socket).catch(() => null);
      if (rpc === null) await sleep(10);
      if (isGone) throw new Error('the daemon ended');
    }
    if (rpc === null) throw new Error('the daemon does not start');
    const client = rpc;
    return new QuietDaemon(directory, client, async () => {
      client.close();
      child.kill('SIGTERM');
      await waitUntil('the daemon ends', () => isGone);
    });
  }

  close(): Promise<void> {
    return this.#stop();
  }
}

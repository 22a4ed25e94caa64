/** Requests of a running daemon, one by one: what is traced is what an initiator did. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import type { CallParams } from '../../src/rpc/methods.ts';
import { until } from '../support/waiting.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

const RINGHOST = join(import.meta.dirname, '../../bin/ringhost');
const BLOCK = 4096;

let daemon: RinghostDaemon;
let target: BlkTarget;
let disk: BlkInitiator;

beforeAll(async () => {
  daemon = await RinghostDaemon.start(['--trace-protocol', 'other,traced', '--log-level', 'notice,rpc=debug']);
  target = await daemon.create({ blockBytes: 4096, sizeBytes: 16 << 20 });
  disk = await BlkInitiator.connect(target.path, { queues: 2 });
});

afterAll(async () => {
  disk.close();
  await target.close();
  await daemon.close();
});

/** What was traced while `work` was done, as `controller queue type offset length status`. */
async function traced(filter: CallParams<'trace_start_requests'>, work: () => Promise<unknown>) {
  await daemon.rpc.call('trace_start_requests', filter);
  await work().finally(() => daemon.rpc.call('trace_stop_requests'));
  const { requests, queues, types, dropped } = await daemon.rpc.call('trace_read_requests', {});
  const lines = requests.map(([queue = 0, type = 0, , , offset, length, status]) => {
    return `${queues[queue]?.join(' ')} ${types[type]} ${offset} ${length} ${status}`;
  });
  return { lines, requests, dropped };
}

/** The parameter list of an UNMAP of these ranges: first block, and how many. */
function unmapList(...ranges: readonly (readonly [lba: number, blocks: number])[]): Uint8Array {
  const list = Buffer.alloc(8 + 16 * ranges.length);
  list.writeUInt16BE(list.length - 2, 0);
  list.writeUInt16BE(list.length - 8, 2);
  ranges.forEach(([lba, blocks], index) => {
    list.writeUInt32BE(lba, 8 + 16 * index + 4);
    list.writeUInt32BE(blocks, 8 + 16 * index + 8);
  });
  return list;
}

describe('a trace of requests', () => {
  it('has each with its queue, type, place, length and status', async () => {
    const { lines, requests } = await traced({}, async () => {
      await disk.write(8, new Uint8Array(BLOCK), { queue: 1 });
      await disk.read(16, 2 * BLOCK);
      await disk.flush();
      await disk.discard([{ sector: 800, sectors: 64 }]);
      await disk.writeZeroes([{ sector: 80, sectors: 8 }], { queue: 1 });
      await disk.getId();
      await disk.read(1 << 30, BLOCK).catch(() => undefined);
    });
    expect(lines).toEqual([
      'disk.1 1 write 4096 4096 0',
      'disk.1 0 read 8192 8192 0',
      'disk.1 0 flush 0 0 0',
      'disk.1 0 unmap 409600 32768 0',
      'disk.1 1 write_zeroes 40960 4096 0',
      'disk.1 0 other 0 0 0',
      `disk.1 0 read ${2 ** 39} 4096 1`,
    ]);
    const times = requests.map(([, , startNs = 0, durationNs = 0]) => [startNs, startNs + durationNs] as const);
    for (const [index, [startNs, endNs]] of times.entries()) {
      expect(endNs).toBeGreaterThan(startNs);
      expect(startNs).toBeGreaterThanOrEqual(times[index - 1]?.[1] ?? 0);
    }
  });

  it('has what passes the filter, and nothing else', async () => {
    const work = async (): Promise<void> => {
      for (let sector = 0; sector < 80; sector += 8) {
        await disk.read(sector, BLOCK, { queue: sector % 16 === 0 ? 0 : 1 });
        await disk.write(sector, new Uint8Array(BLOCK));
      }
    };
    const count = async (filter: CallParams<'trace_start_requests'>): Promise<number> => {
      return (await traced(filter, work)).lines.length;
    };
    expect(await count({})).toBe(20);
    expect(await count({ types: ['write', 'flush'] })).toBe(10);
    expect(await count({ queue: 1 })).toBe(5);
    expect(await count({ controllers: ['disk.1'], queue: 0, types: ['read'] })).toBe(5);
    // The third block to the fifth.
    expect(await count({ from_bytes: 2 * BLOCK + 1, to_bytes: 4 * BLOCK + 1 })).toBe(6);
    expect(await count({ slower_than_us: 3_600_000_000 })).toBe(0);
    await expect(daemon.rpc.call('trace_start_requests', { controllers: ['x'] })).rejects.toThrow();
  });

  it('has each range of a discard, and of these what the filter names', async () => {
    const ranges = [0, 160, 320].map((sector) => ({ sector, sectors: 16 }));
    const discard = () => disk.discard(ranges);
    expect((await traced({}, discard)).lines).toEqual([
      'disk.1 0 unmap 0 8192 0',
      'disk.1 0 unmap 81920 8192 0',
      'disk.1 0 unmap 163840 8192 0',
    ]);
    const { lines } = await traced({ from_bytes: 81_920, to_bytes: 81_921 }, discard);
    expect(lines).toEqual(['disk.1 0 unmap 81920 8192 0']);
  });

  it('adds up what reads bring, when it is told to', async () => {
    const bytes = Uint8Array.from({ length: 3 * BLOCK }, (_, index) => index % 251);
    await disk.write(0, bytes);
    const hashes = async (filter: CallParams<'trace_start_requests'>) => {
      const { requests } = await traced(filter, async () => {
        await disk.read(0, 3 * BLOCK);
        await disk.write(800, new Uint8Array(BLOCK));
        await disk.read(1 << 30, BLOCK).catch(() => undefined);
      });
      return requests.map((request) => request[7]);
    };
    expect(await hashes({ hash_reads: true })).toEqual([crc32(bytes), -1, -1]);
    expect(await hashes({})).toEqual([-1, -1, -1]);
  });

  it('has the slow ones of a disk that is slow now and then', async () => {
    await daemon.rpc.call('bdev_null_create', { name: 'Base', num_blocks: 2048, block_size: 512 });
    const latencies = { avg_read_latency: 0, p99_read_latency: 0, avg_write_latency: 5000, p99_write_latency: 5000 };
    await daemon.rpc.call('bdev_delay_create', { base_bdev_name: 'Base', name: 'Slow', ...latencies });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'slow', dev_name: 'Slow' });
    const slow = await BlkInitiator.connect(join(daemon.directory, 'slow'));
    const { lines, requests } = await traced({ slower_than_us: 5000, types: ['write'] }, async () => {
      for (let i = 0; i < 20; i++) {
        await slow.read(i, 512);
        if (i % 5 === 0) await slow.write(i, new Uint8Array(512));
        await disk.write(0, new Uint8Array(BLOCK)).catch(() => undefined);
      }
    });
    const own = lines.filter((line) => line.startsWith('slow'));
    expect(own).toEqual([0, 5, 10, 15].map((sector) => `slow 0 write ${sector * 512} 512 0`));
    for (const [, , , durationNs] of requests) expect(durationNs).toBeGreaterThanOrEqual(5_000_000);
    slow.close();
    await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'slow', force: true });
    await daemon.rpc.call('delete_bdev', { name: 'Base' });
  });

  it('drops what there is no room for, and says how many', async () => {
    const { lines, dropped } = await traced({ entries: 8 }, async () => {
      for (let i = 0; i < 20; i++) await disk.read(i * 8, BLOCK);
    });
    expect([lines.length, dropped]).toEqual([8, 12]);
  });

  it('begins with queues that start later, and loses none that stops', async () => {
    const { lines } = await traced({}, async () => {
      await disk.read(8, BLOCK);
      await disk.stop();
      await disk.start();
      await disk.read(16, BLOCK, { queue: 1 });
    });
    expect(lines).toEqual(['disk.1 0 read 4096 4096 0', 'disk.1 1 read 8192 4096 0']);
  });

  it('has those of a scsi controller by what their commands say', async () => {
    await daemon.rpc.call('bdev_malloc_create', { name: 'S', num_blocks: 2048, block_size: 4096 });
    await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi' });
    await daemon.rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'S' });
    const host = await ScsiInitiator.connect(join(daemon.directory, 'scsi'));
    // The first command is answered with a unit attention.
    await host.command({ target: 0, cdb: [0, 0, 0, 0, 0, 0] });
    const { lines, requests } = await traced({ controllers: ['scsi'], hash_reads: true }, async () => {
      await host.command({ target: 0, cdb: [0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0], inBytes: 2 * BLOCK });
      const write16 = [0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0];
      await host.command({ target: 0, cdb: write16, out: new Uint8Array(BLOCK) });
      await host.command({ target: 0, cdb: [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0] });
      await host.command({ target: 0, cdb: [0x12, 0, 0, 0, 36, 0], inBytes: 36 });
      await host.command({ target: 0, cdb: [0x28, 0, 0, 1, 0, 0, 0, 0, 1, 0], inBytes: BLOCK });
      await host.command({ target: 3, cdb: [0, 0, 0, 0, 0, 0] });
      await host.command({ target: 0, cdb: [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], out: unmapList([1, 2], [9, 4]) });
    });
    // The last but one is past the end: CHECK CONDITION; the last has no target.
    expect(lines).toEqual([
      'scsi 2 read 20480 8192 0',
      'scsi 2 write 28672 4096 0',
      'scsi 2 flush 0 0 0',
      'scsi 2 other 0 0 0',
      `scsi 2 read ${65_536 * BLOCK} 4096 2`,
      'scsi 2 other 0 0 768',
      'scsi 2 unmap 4096 8192 0',
      'scsi 2 unmap 36864 16384 0',
    ]);
    expect(requests.map((request) => request[7] ?? 0).map((hash) => hash >= 0)).toEqual(lines.map((_, at) => at === 0));
    expect(requests[0]?.[7]).toBe(crc32(new Uint8Array(2 * BLOCK)));
    host.close();
    await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'scsi', force: true });
    await daemon.rpc.call('delete_bdev', { name: 'S' });
  });
});

describe('--log-level', () => {
  it('lets a part of the daemon say more than the others, until it is told not to', async () => {
    await until(() => daemon.log.includes('RPC client 1 is connected'), 'a line of rpc');
    expect(await daemon.rpc.call('log_get_flags')).toMatchObject({ rpc: true, vhost: false });
    await daemon.rpc.call('log_clear_flag', { flag: 'rpc' });
    await daemon.rpc.call('log_set_flag', { flag: 'vhost' });
    expect(await daemon.rpc.call('log_get_flags')).toMatchObject({ rpc: false, vhost: true });
    await expect(daemon.rpc.call('log_set_flag', { flag: 'lvol' })).rejects.toThrow();
  });
});

describe('--trace-protocol', () => {
  it('puts the messages of the controllers that it names into the log, and of no others', async () => {
    await daemon.rpc.call('bdev_null_create', { name: 'N', num_blocks: 2048, block_size: 512 });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'traced', dev_name: 'N' });
    const guest = await BlkInitiator.connect(join(daemon.directory, 'traced'), { queues: 1 });
    await guest.stop();
    guest.close();
    const said = (): string[] =>
      daemon.log.split('\n').flatMap((line) => {
        if (!line.startsWith('{')) return [];
        const { ctrlr, msg } = JSON.parse(line) as { ctrlr?: string; msg: string };
        return /^(->|<-) /.test(msg) ? [`${ctrlr}: ${msg}`] : [];
      });
    await until(() => said().some((line) => line.includes('<- GET_VRING_BASE reply index 0, num 0')), 'the last reply');
    const lines = said();
    expect(lines.filter((line) => !line.startsWith('traced: '))).toEqual([]);
    for (const expected of [
      /^traced: <- GET_FEATURES reply 0x[0-9a-f]+ = .*FLUSH .*INDIRECT_DESC EVENT_IDX .*VERSION_1/,
      /^traced: -> SET_PROTOCOL_FEATURES 0x[0-9a-f]+ = MQ .*REPLY_ACK .*CONFIG/,
      /^traced: -> ADD_MEM_REG guestAddress 0x100000000, sizeBytes 0x4000000, .*1 descriptor/,
      /^traced: -> SET_VRING_NUM index 0, num 128/,
      /^traced: -> SET_VRING_KICK index 0, 1 descriptor/,
      /^traced: <- SET_VRING_NUM reply ok/,
    ]) {
      expect(lines).toContainEqual(expect.stringMatching(expected));
    }
    await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'traced', force: true });
    await daemon.rpc.call('delete_bdev', { name: 'N' });
  });
});

describe('ringhost trace', () => {
  it('writes a file in the Trace Event Format, and ends well when it is interrupted', async () => {
    const file = join(daemon.directory, 'trace.json');
    const socket = join(daemon.directory, 'rpc.sock');
    const command = [RINGHOST, 'trace', '-s', socket, '--type', 'write', '--seconds', '600', '-o', file];
    const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'] });
    const exit = once(child, 'exit');
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    // It takes a while until it traces; a test that hangs is ended by its limit.
    while (!existsSync(file) || !readFileSync(file, 'utf8').includes('"ph":"X"')) {
      await disk.write(8, new Uint8Array(BLOCK));
      await disk.read(8, BLOCK);
    }
    child.kill('SIGINT');
    expect(await exit).toEqual([0, null]);
    const { traceEvents, otherData } = JSON.parse(readFileSync(file, 'utf8')) as {
      traceEvents: Readonly<Record<string, unknown>>[];
      otherData: Readonly<Record<string, number>>;
    };
    const slices = traceEvents.filter(({ ph }) => ph === 'X');
    expect(slices.length).toBeGreaterThan(0);
    expect(otherData).toEqual({ requests: slices.length, dropped: 0 });
    expect(said).toContain(`${slices.length} requests in ${file}, 0 dropped`);
    for (const { name, ts, dur, pid, tid, args } of slices) {
      expect(name).toBe('write');
      for (const value of [ts, dur, pid, tid]) expect(value).toEqual(expect.any(Number));
      expect(args).toEqual({ offset: 4096, bytes: BLOCK, status: 0 });
    }
    const names = traceEvents.filter(({ ph }) => ph === 'M').map(({ name, args }) => [name, args]);
    expect(names).toEqual([
      ['process_name', { name: 'disk.1' }],
      ['thread_name', { name: 'queue 0' }],
    ]);
  });
});

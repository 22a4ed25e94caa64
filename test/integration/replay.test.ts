/** What a guest did is recorded, and carried out again on another disk: the same requests, in the same order. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { type Recording, readRecording } from '../../src/observe/recording.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

const RINGHOST = join(import.meta.dirname, '../../bin/ringhost');
const BLOCK = 4096;
const run = promisify(execFile);

let daemon: RinghostDaemon;
let first: BlkTarget;
let second: BlkTarget;
/** Holds what the first held when the recording began. */
let copy: BlkTarget;
let file: string;
let recording: Recording;

/** What the guest does: type, queue, first byte, length. */
const DONE = [
  ...Array.from({ length: 30 }, (_, index) => ['read', index % 2, (index * 37 * BLOCK) % (8 << 20), BLOCK] as const),
  ...Array.from({ length: 10 }, (_, index) => ['write', 1, index * 2 * BLOCK, 2 * BLOCK] as const),
  ['flush', 0, 0, 0],
  ['unmap', 0, 1 << 20, 64 * BLOCK],
  ['write_zeroes', 1, 2 << 20, 16 * BLOCK],
  ['read', 1, 0, 128 * BLOCK],
] as const;

beforeAll(async () => {
  daemon = await RinghostDaemon.start();
  first = await daemon.create({ blockBytes: 512, sizeBytes: 16 << 20 });
  second = await daemon.create({ blockBytes: 512, sizeBytes: 16 << 20 });
  copy = await daemon.create({ blockBytes: 512, sizeBytes: 16 << 20 });
  await fill(first);
  await fill(copy);
  file = join(daemon.directory, 'guest.rec');
  recording = await record();
});

afterAll(async () => {
  await first.close();
  await second.close();
  await copy.close();
  await daemon.close();
});

/** Every block with bytes of its own. */
async function fill({ path }: BlkTarget): Promise<void> {
  const disk = await BlkInitiator.connect(path);
  const piece = new Uint8Array(256 * BLOCK);
  for (let at = 0; at < 16 << 20; at += piece.length) {
    for (let block = 0; block < 256; block++) {
      const from = block * BLOCK;
      piece.subarray(from, from + BLOCK).fill((at + from) / BLOCK + 1);
    }
    await disk.write(at / 512, piece);
  }
  disk.close();
}

async function record(): Promise<Recording> {
  const args = [RINGHOST, 'record', 'disk.1', '-s', join(daemon.directory, 'rpc.sock'), '-o', file, '--hash'];
  const child = spawn(process.execPath, args, { stdio: 'inherit' });
  const exit = once(child, 'exit');
  const disk = await BlkInitiator.connect(first.path, { queues: 2 });
  // Until it records, and its file grows, there is nothing to be lost.
  const size = (): number => (existsSync(file) ? statSync(file).size : 0);
  for (let before = 0; before === 0 || size() === before; ) {
    await disk.read(8, 512);
    before ||= size();
  }
  for (const [type, queue, offset, length] of DONE) {
    const [sector, sectors] = [offset / 512, length / 512];
    if (type === 'read') await disk.read(sector, length, { queue });
    else if (type === 'write') await disk.write(sector, new Uint8Array(length), { queue });
    else if (type === 'flush') await disk.flush({ queue });
    else if (type === 'unmap') await disk.discard([{ sector, sectors }], { queue });
    else await disk.writeZeroes([{ sector, sectors }], { queue });
  }
  // These are left out, and counted.
  await disk.getId();
  await disk.read(1 << 30, 512).catch(() => undefined);
  disk.close();
  child.kill('SIGINT');
  expect(await exit).toEqual([0, null]);
  return readRecording(readFileSync(file));
}

/** Without the reads that came before. */
const isOfGuest = ({ offsetBytes, lengthBytes }: { offsetBytes: number; lengthBytes: number }): boolean =>
  offsetBytes !== BLOCK || lengthBytes !== 512;

const replay = (...args: string[]) => run(process.execPath, [RINGHOST, 'replay', ...args]);
const refusal = (...args: string[]): Promise<string> =>
  replay(...args).then(
    () => 'none',
    ({ code, stderr }: { code: number; stderr: string }) => (code === 1 ? stderr : `exit code ${code}`),
  );

describe('a recording', () => {
  it('has what the guest did, in its order, and says what it has not', () => {
    const own = recording.requests.filter(isOfGuest);
    const what = own.map(({ type, queue, offsetBytes, lengthBytes }) => [type, queue, offsetBytes, lengthBytes]);
    expect(what).toEqual(DONE);
    expect(recording).toMatchObject({ dropped: 0, failed: 2, head: { controller: 'disk.1', diskBytes: 16 << 20 } });
    for (const { durationNs } of own) expect(durationNs).toBeGreaterThan(0);
  });
});

describe('ringhost replay', () => {
  it.each(['max', 'original'])('makes the same requests of another disk, at the speed %s', async (speed) => {
    await daemon.rpc.call('trace_start_requests', { controllers: ['disk.2'] });
    const { stdout } = await replay(file, second.path, '--speed', speed, '--depth', '1', '--write', '--json');
    await daemon.rpc.call('trace_stop_requests');
    const traced = await daemon.rpc.call('trace_read_requests', {});
    const seen = traced.requests.map(([queue = 0, type = 0, , , offset, length, status]) => {
      return [traced.types[type], traced.queues[queue]?.[1], offset, length, status];
    });
    const wanted = recording.requests.map(({ type, queue, offsetBytes, lengthBytes }) => {
      return [type, queue, offsetBytes, lengthBytes, 0];
    });
    expect(seen).toEqual(wanted);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ requests: wanted.length, failed: 0 });
    expect(report.latencies.write).toMatchObject({ count: 10 });
    expect(report.latencies.write.p50_ns).toBeGreaterThan(0);
    expect(report.latencies.write.p999_ns).toBeLessThanOrEqual(report.latencies.write.max_ns);
    const lastStart = (recording.requests.at(-1)?.startNs ?? 0) / 1e9;
    if (speed === 'original') expect(report.seconds).toBeGreaterThanOrEqual(lastStart);
    else expect(report.lateness).toBeNull();
  });

  it('keeps many in flight, and says it in words', async () => {
    const { stdout } = await replay(file, second.path, '--speed', 'max', '--reads-only');
    expect(stdout).toMatch(/^\d+ requests in [\d.]+ s: .* IOPS, .*\/s, 0 failed$/m);
    expect(stdout).toContain('12 requests that write were left out');
    expect(stdout).toMatch(/^read +\d+ requests +p50 .*p99.9 .*max /m);
  });

  it('compares what a copy of the disk brings with what the guest read', async () => {
    const verify = ['--speed', 'max', '--reads-only', '--verify'];
    const reads = recording.requests.filter(({ type }) => type === 'read').length;
    const { stdout } = await replay(file, copy.path, ...verify);
    // The last read was of what the guest had written over.
    expect(stdout).toContain(`${reads - 1} reads compared: ${reads - 1} equal, 0 different\n1 reads not compared`);
    const disk = await BlkInitiator.connect(copy.path);
    const offset = 20 * 37 * BLOCK;
    const [was] = await disk.read(offset / 512, 512);
    await disk.write(offset / 512, new Uint8Array(512).fill(~(was ?? 0)));
    disk.close();
    const answer = await replay(file, copy.path, ...verify).catch((error: { code: number; stdout: string }) => error);
    expect(answer).toMatchObject({ code: 1 });
    expect(answer.stdout).toContain(`${reads - 2} equal, 1 different\n  different: 4096 bytes from ${offset} on`);
    expect(await refusal(file, copy.path, '--verify', '--write')).toContain('give --reads-only, too');
  });

  it('does not write unless it is told to', async () => {
    expect(await refusal(file, second.path)).toContain('12 requests of the recording write: --write carries them out');
  });

  it('says what is wrong with a file', async () => {
    const bytes = readFileSync(file);
    const other = join(daemon.directory, 'other.rec');
    writeFileSync(other, bytes.subarray(0, bytes.length / 2));
    expect(await refusal(other, second.path)).toContain(`${other}: it ends in the middle`);
    expect(await refusal('/nowhere.rec', second.path)).toContain(
      'there is no file /nowhere.rec: ringhost record makes',
    );
  });

  it('refuses a disk that is too small, before it does anything', async () => {
    const small = await daemon.create({ blockBytes: 512, sizeBytes: 1 << 20 });
    expect(await refusal(file, small.path, '--reads-only')).toContain('take a larger one');
    await small.close();
  });
});

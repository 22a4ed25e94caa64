/** Disks that users wrote in TypeScript: they do what every bdev does, and what goes wrong in them stays in them. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { Logger } from '../../src/base/log.ts';
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import { moduleRpc } from '../../src/bdev/modules/module/module.rpc.ts';
import { ModuleBdev } from '../../src/bdev/modules/module/module.ts';
import { BdevRegistry } from '../../src/bdev/registry.ts';
import type { RpcContext } from '../../src/rpc/methods.ts';
import { describeConformance, type Kind } from '../support/bdev-conformance.ts';
import { openFdCount } from '../support/descriptors.ts';
import { DiskRig } from '../support/disk-rig.ts';
import { until } from '../support/waiting.ts';
import { MIB_MAX } from './fixtures/growing-disk.ts';
import { Mood } from './fixtures/moody-disk.ts';

const EXAMPLES = join(import.meta.dirname, '..', '..', 'examples');
const GROWING = join(import.meta.dirname, 'fixtures', 'growing-disk.ts');
const MOODY = join(import.meta.dirname, 'fixtures', 'moody-disk.ts');
const MIB = 2 ** 20;
/** The conformance tests open four channels, and another disk's. */
const RINGS = 8;
const { success, failed } = IoStatus;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

/** Keeps what was logged. */
class Lines implements Logger {
  readonly all: string[] = [];
  readonly debug = (line: string): void => void this.all.push(line);
  readonly info = this.debug;
  readonly warn = this.debug;
  readonly error = this.debug;

  with(text: string): string[] {
    return this.all.filter((line) => line.includes(text));
  }
}

function example(file: string, options: (name: string, mib: number) => Record<string, string>): Kind {
  const directories: string[] = [];
  return {
    canWake: true,
    async make(name, sizeBytes) {
      const directory = mkdtempSync(join(tmpdir(), 'ringhost-module-'));
      directories.push(directory);
      const path = join(EXAMPLES, file);
      const params = { name, path, options: options(join(directory, name), sizeBytes / MIB), timeoutS: 60 };
      return await ModuleBdev.open(params, RINGS, new Lines());
    },
    clean() {
      for (const directory of directories.splice(0)) rmSync(directory, { recursive: true });
    },
  };
}

describeConformance(
  'a RAM disk in TypeScript',
  example('ramdisk.ts', (_, mib) => ({ mib: String(mib) })),
);
describeConformance(
  'a disk in a database',
  example('sqlite-disk.ts', (file, mib) => ({ file, mib: String(mib) })),
);

let rig: DiskRig | undefined;
afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

async function moody(options: Record<string, string> = {}, timeoutS = 60): Promise<{ disk: DiskRig; log: Lines }> {
  const log = new Lines();
  const params = { name: 'Moody', path: MOODY, options: { moody: 'yes', ...options }, timeoutS };
  rig = new DiskRig(await ModuleBdev.open(params, 1, log));
  return { disk: rig, log };
}

const ONE = [{ offset: 0, length: 512 }];
/** Of a disk that hangs. A request that does not hang is over long before, on the slowest machine. */
const LIMIT_S = 3;

describe('a disk in TypeScript', () => {
  it('fails the request in which it throws, logs the stack, and goes on', async () => {
    const { disk, log } = await moody();
    expect(await disk.run(IoType.read, Mood.throws, 1, ONE)).toBe(failed);
    expect(await disk.run(IoType.read, Mood.rejects, 1, ONE)).toBe(failed);
    expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(success);
    await until(() => log.with('a string').length > 0, 'the second line');
    const [first = ''] = log.with('no such track');
    expect(first).toContain('disk Moody: read of 512 bytes at 512 failed: Error: no such track');
    expect(first).toContain('moody-disk.ts');
  });

  it('limits what it logs', async () => {
    const { disk, log } = await moody();
    for (let i = 0; i < 40; i++) expect(await disk.run(IoType.read, Mood.throws, 1, ONE)).toBe(failed);
    await until(() => log.with('are not shown').length > 0, 'the last line');
    expect(log.with('no such track')).toHaveLength(5);
  });

  it.each([
    ['loops for ever', Mood.loops],
    ['never answers', Mood.never],
  ])('that %s is ended and started again; what it had fails', async (_, mood) => {
    const { disk, log } = await moody({}, LIMIT_S);
    expect(await disk.run(IoType.read, mood, 1, ONE)).toBe(failed);
    expect(log.with(`did not answer a request in ${LIMIT_S} s: its thread is ended`)).toHaveLength(1);
    await until(() => log.with('its thread runs again').length === 1, 'the new thread');
    expect(disk.entry.bdev.driverSpecific()).toMatchObject({ module: { thread: 'running', restarts: 1 } });
    expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(success);
  });

  it('whose thread ends by itself is started again, and requests wait for that', async () => {
    const { disk, log } = await moody();
    expect(await disk.run(IoType.read, Mood.exits, 1, ONE)).toBe(failed);
    expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(success);
    expect(log.with('is started again, and new requests wait')).toHaveLength(1);
  });

  it('whose content was in its thread is not: it fails everything, and can be deleted', async () => {
    const { disk, log } = await moody({ volatile: 'yes' });
    expect(await disk.run(IoType.read, Mood.exits, 1, ONE)).toBe(failed);
    for (let i = 0; i < 3; i++) expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(failed);
    expect(log.with('its content is lost')).toHaveLength(1);
    expect(disk.entry.bdev.driverSpecific()).toMatchObject({ module: { thread: 'dead' } });
  });

  it('that comes back no more lets requests wait no longer than the limit', async () => {
    const gate = join(mkdtempSync(join(tmpdir(), 'ringhost-module-')), 'gate');
    writeFileSync(gate, '');
    const { disk } = await moody({ until: gate }, LIMIT_S);
    rmSync(gate);
    expect(await disk.run(IoType.read, Mood.exits, 1, ONE)).toBe(failed);
    expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(failed);
    writeFileSync(gate, '');
    await until(() => (disk.entry.bdev as ModuleBdev).host.state === 'running', 'the thread');
    expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(success);
    rmSync(join(gate, '..'), { recursive: true });
  });

  it('finds its buffers empty after the request, and the guest its memory as it was', async () => {
    const { disk, log } = await moody();
    expect(await disk.run(IoType.read, Mood.late, 1, ONE)).toBe(success);
    disk.guest.fill(0x55, 0, 512);
    await until(() => log.with('thrown outside of a request').length > 0, 'the error of the late write');
    expect(disk.guest.subarray(0, 512).every((byte) => byte === 0x55)).toBe(true);
    expect(log.with('detached')).toHaveLength(1);
    expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(success);
  });

  it('goes on after an exception outside of any request', async () => {
    const { disk, log } = await moody();
    expect(await disk.run(IoType.read, Mood.stray, 1, ONE)).toBe(success);
    await until(() => log.with('nobody asked').length > 0, 'the line');
    expect(await disk.run(IoType.read, Mood.fine, 1, ONE)).toBe(success);
  });

  it('has more requests under way than there are places for', async () => {
    const { disk } = await moody({}, 30);
    const reads = Array.from({ length: 700 }, () => disk.submit(IoType.read, Mood.slow, 1, ONE));
    expect(new Set(await disk.polled(Promise.all(reads)))).toEqual(new Set([success]));
  });

  it('that is deleted while it hangs goes when its thread is ended', async () => {
    const { disk } = await moody({}, 0);
    const stuck = disk.submit(IoType.read, Mood.loops, 1, ONE);
    await disk.polled(disk.channel.remove());
    expect(await stuck).toBe(failed);
  });
});

describe('bdev_module_resize', () => {
  it('gives a disk a new size while it is used, or leaves it as it was, and says why', async () => {
    const params = { name: 'Growing', path: GROWING, options: {}, timeoutS: 60 };
    const disk = new DiskRig(await ModuleBdev.open(params, 1, new Lines()));
    rig = disk;
    const rpc = moduleRpc(disk.registry, 1, new Lines());
    const resize = (mebibytes: number) => rpc.bdev_module_resize({ name: 'Growing', new_size: mebibytes }, context);
    const last = (mebibytes: number): number => (mebibytes * MIB) / 512 - 1;
    disk.guest.fill(7, 0, 512);
    expect(await disk.run(IoType.write, last(1), 1, ONE)).toBe(success);
    expect(await disk.run(IoType.write, last(2), 1, ONE)).toBe(failed);

    expect(await resize(2)).toBe(true);
    expect(disk.blocks).toBe((2 * MIB) / 512);
    expect(await disk.run(IoType.write, last(2), 1, ONE)).toBe(success);
    expect(await disk.run(IoType.write, last(2) + 1, 1, ONE)).toBe(failed);
    disk.guest.fill(0, 0, 512);
    expect(await disk.run(IoType.read, last(1), 1, ONE)).toBe(success);
    expect(disk.guest[511]).toBe(7);

    await expect(resize(1)).rejects.toMatchObject({ code: 'EBUSY' });
    await expect(resize(MIB_MAX + 1)).rejects.toThrow(/there is room for 8 MiB/);
    expect(disk.blocks).toBe((2 * MIB) / 512);
    expect(await disk.run(IoType.read, last(2), 1, ONE)).toBe(success);
  });
});

describe('bdev_module_create', () => {
  const setUp = () => {
    const registry = new BdevRegistry(1);
    const log = new Lines();
    return { registry, log, rpc: moduleRpc(registry, 1, log) };
  };
  const create = (rpc: ReturnType<typeof moduleRpc>, options: Record<string, string>, path = MOODY) =>
    rpc.bdev_module_create({ path, options, timeout_sec: 20 }, context);

  it('names the disk after its file, and bdev_module_delete ends its thread', async () => {
    const before = openFdCount();
    const { registry, rpc, log } = setUp();
    expect(await create(rpc, { a: 'b' })).toBe('moody-disk');
    expect(log.with('disk moody-disk: started with {"a":"b"}')).toHaveLength(1);
    await expect(create(rpc, {})).rejects.toMatchObject({ code: 'EEXIST' });
    expect(registry.get('moody-disk').bdev.toConfig()).toMatchObject({
      method: 'bdev_module_create',
      params: { name: 'moody-disk', path: MOODY, options: { a: 'b' } },
    });
    await expect(rpc.bdev_module_resize({ name: 'moody-disk', new_size: 1 }, context)).rejects.toMatchObject({
      code: 'ENOTSUP',
    });
    expect(await rpc.bdev_module_delete({ name: 'moody-disk' }, context)).toBe(true);
    await until(() => openFdCount() === before, 'descriptors to be closed');
  });

  it('tries a disk again that throws at its start', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-module-'));
    const gate = join(directory, 'gate');
    const { registry, rpc, log } = setUp();
    const creating = create(rpc, { until: gate });
    await until(() => log.with('is not there yet').length > 0, 'the first failure');
    expect(existsSync(gate)).toBe(false);
    writeFileSync(gate, '');
    expect(await creating).toBe('moody-disk');
    await registry.delete(registry.get('moody-disk'));
    rmSync(directory, { recursive: true });
  });

  it('says what is wrong with a file', async () => {
    const { registry, rpc } = setUp();
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-module-'));
    const file = (name: string, text: string): string => {
      writeFileSync(join(directory, name), text);
      return join(directory, name);
    };
    await expect(create(rpc, {}, '/no/such.ts')).rejects.toThrow('there is no file /no/such.ts');
    await expect(create(rpc, {}, 'disk.ts')).rejects.toThrow('give the whole path');
    await expect(create(rpc, {}, file('a.ts', 'export default 1;'))).rejects.toThrow('its default export is no disk');
    await expect(create(rpc, {}, file('b.ts', 'const a = ;'))).rejects.toMatchObject({ code: 'EIO' });
    expect(registry.list()).toEqual([]);
    rmSync(directory, { recursive: true });
  });
});

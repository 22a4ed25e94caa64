/**
 * Controllers by name: made with care, placed, connected to, and removed. Their reactors only record what they are
 * asked.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { REMOVAL_MS_MAX } from '../base/limits.ts';
import { type Logger, SILENT } from '../base/log.ts';
import { NullBdev } from '../bdev/modules/null/null.ts';
import { BdevRegistry } from '../bdev/registry.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { METHODS, type Params, type RpcContext } from '../rpc/methods.ts';
import { closeFd } from '../sys/events.ts';
import { connectUnix, createFdBuffer, receiveMessage } from '../sys/socket.ts';
import { type CreateBlkParams, VhostRegistry } from './registry.ts';
import { ScsiCall } from './scsi-service.ts';
import { vhostConfig, vhostRpc } from './vhost.rpc.ts';

class FakeReactor {
  readonly core: number;
  readonly node = 0;
  load = 0;
  readonly calls: string[] = [];
  /** A call that is answered when `release` is called. */
  held: string | null = null;
  release: () => void = () => {};

  constructor(core: number) {
    this.core = core;
  }

  async call(name: string, payload: unknown): Promise<unknown> {
    this.calls.push(`${name} ${typeof payload === 'number' ? payload : ''}`.trim());
    if (name === this.held) await new Promise<void>((resolve) => (this.release = resolve));
    return 0;
  }
}

let directory: string;
let bdevs: BdevRegistry;
let reactors: FakeReactor[];
let registry: VhostRegistry;
let warnings: string[];
let fdsBefore = 0;
const peers: number[] = [];

beforeEach(async () => {
  await turns();
  fdsBefore = openFdCount();
  directory = mkdtempSync(join(tmpdir(), 'ringhost-vhost-'));
  bdevs = new BdevRegistry(2);
  for (const name of ['A', 'B']) {
    bdevs.create(name, undefined, () => new NullBdev({ name, blockCount: 8, blockSizeBytes: 512 }));
  }
  reactors = [new FakeReactor(0), new FakeReactor(1)];
  warnings = [];
  const log: Logger = { ...SILENT, warn: (message) => warnings.push(message) };
  registry = new VhostRegistry({
    socketDirectory: directory,
    reactors: reactors as unknown as ReactorThread[],
    bdevs,
    mode: 'adaptive',
    log,
  });
});

afterEach(async () => {
  for (const fd of peers.splice(0)) closeFd(fd);
  await registry.close();
  assert.deepEqual(readdirSync(directory), []);
  rmSync(directory, { recursive: true });
  await until(() => openFdCount() === fdsBefore, 'end without a descriptor left over');
}, 30_000);

function create(name: string, parts: Partial<CreateBlkParams> = {}) {
  return registry.createBlk({
    name,
    bdevName: 'A',
    cpumask: undefined,
    mode: undefined,
    placement: undefined,
    isReadonly: false,
    serial: undefined,
    ...parts,
  });
}

async function connect(name: string): Promise<number> {
  const fd = connectUnix(join(directory, name));
  peers.push(fd);
  return fd;
}

const isEnded = (fd: number): boolean => receiveMessage(fd, new Uint8Array(1), 0, 1, createFdBuffer()) === 0;

describe('a new controller', () => {
  it('has its socket, its bdev and the least loaded reactor', () => {
    const [first, second, third] = ['c0', 'c1', 'c2'].map((name) => create(name));
    expect([first, second, third].map((one) => one?.places.home.core)).toEqual([0, 1, 0]);
    expect(reactors.map(({ load }) => load)).toEqual([2, 1]);
    expect(existsSync(join(directory, 'c1'))).toBe(true);
    expect([...bdevs.get('A').users]).toEqual([first, second, third]);
    expect(registry.list().map(({ name }) => name)).toEqual(['c0', 'c1', 'c2']);
    expect([registry.get('c1'), second?.socketPath]).toEqual([second, join(directory, 'c1')]);
  });

  it('stays on the cores it was given', () => {
    expect(create('c0', { cpumask: '0x2' }).places.home.core).toBe(1);
    expect(create('c1', { cpumask: '[1]' }).cores).toEqual([1]);
    expect(() => create('c2', { cpumask: '0x4' })).toThrow('names core 2, but the daemon runs on 0x3');
    expect(() => create('c2', { cpumask: 'x' })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it.each(['a/b', '/etc/passwd', '..', '.', 'nul\0byte', `${'x'.repeat(120)}`])('cannot be called %j', (name) => {
    expect(() => create(name)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect([readdirSync(directory), registry.list(), bdevs.get('A').users.size]).toEqual([[], [], 0]);
  });

  it('cannot have a name that is taken, or a bdev that is not there', () => {
    create('c0');
    expect(() => create('c0')).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    expect(() => create('c1', { bdevName: 'C' })).toThrow(expect.objectContaining({ code: 'ENODEV' }));
    expect([readdirSync(directory), reactors.map(({ load }) => load)]).toEqual([['c0'], [1, 0]]);
  });

  it('shows the serial it was given, or the name of its bdev', () => {
    expect(create('c0').serial).toBe('A');
    expect(create('c1', { serial: 'exactly-20-characters' }).serial).toBe('exactly-20-character');
  });
});

describe('a front-end', () => {
  it('is served alone; the next one when it has gone', async () => {
    const controller = create('c0');
    const first = await connect('c0');
    await until(() => controller.session !== null, 'session');
    const { id } = controller.session ?? {};
    const second = await connect('c0');
    await until(() => isEnded(second), 'refusal of the second');
    expect([warnings.length, controller.session?.id]).toEqual([1, id]);
    peers.splice(peers.indexOf(first), 1);
    closeFd(first);
    const third = await connect('c0');
    await until(() => controller.session !== null && controller.session.id !== id, 'next session');
    expect(isEnded(third)).toBe(false);
  });

  it('that reconnects before its end was seen is let in', async () => {
    const controller = create('c0');
    const first = await connect('c0');
    await until(() => controller.session !== null, 'session');
    const { id } = controller.session ?? {};
    await connect('c0');
    peers.splice(peers.indexOf(first), 1);
    closeFd(first);
    await until(() => controller.session !== null && controller.session.id !== id, 'next session');
    expect(warnings).toEqual([]);
  });
});

describe('deletion', () => {
  it('takes away socket and bdev, and makes room on the reactor', async () => {
    create('c0');
    expect(reactors[0]?.load).toBe(1);
    await registry.delete('c0', false);
    expect([readdirSync(directory), bdevs.get('A').users.size, reactors[0]?.load]).toEqual([[], 0, 0]);
    expect(() => registry.get('c0')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
    await expect(registry.delete('c0', false)).rejects.toMatchObject({ code: 'ENODEV' });
    expect(create('c0').name).toBe('c0');
  });

  it('is refused with a front-end connected, unless it is forced: then its requests fail until it goes', async () => {
    const controller = create('c0');
    const peer = await connect('c0');
    await until(() => controller.session !== null, 'session');
    const { id } = controller.session ?? {};
    await expect(registry.delete('c0', false)).rejects.toMatchObject({ code: 'EBUSY' });
    expect(registry.list()).toHaveLength(1);
    await registry.delete('c0', true);
    expect([registry.list(), readdirSync(directory), reactors[0]?.calls]).toEqual([[], [], [`vring.detach ${id}`]]);
    expect([isEnded(peer), controller.isBdevRemoved, bdevs.get('A').users.size]).toEqual([false, true, 1]);
    // Its name is free meanwhile.
    expect(create('c0', { bdevName: 'B' }).name).toBe('c0');
    peers.splice(peers.indexOf(peer), 1);
    closeFd(peer);
    await until(() => bdevs.get('A').users.size === 0, 'end of the old session');
    expect(controller.session).toBe(null);
  });
});

describe('before an upgrade', () => {
  it('disks are opened where their queues will run, but not those that only one may have open', async () => {
    class Sole extends NullBdev {
      readonly isExclusive = true;
    }
    const sole = bdevs.create('Sole', undefined, () => new Sole({ name: 'Sole', blockCount: 8, blockSizeBytes: 512 }));
    const stacked = () => new NullBdev({ name: 'Stacked', blockCount: 8, blockSizeBytes: 512 });
    bdevs.create('Stacked', undefined, stacked, { bases: [sole] });
    create('pinned', { cpumask: '0x2', placement: 'pinned' });
    create('stacked', { bdevName: 'Stacked' });
    await registry.openEarly(1000);
    expect(reactors.map(({ calls }) => calls)).toEqual([[], ['bdev.openEarly']]);
    create('spread', { bdevName: 'B', placement: 'spread' });
    await registry.openEarly(1000);
    expect(reactors.map(({ calls }) => calls.length)).toEqual([1, 3]);
  });

  it('a disk that does not answer keeps the others waiting for as long as it may', async () => {
    create('c');
    const [reactor] = reactors as [FakeReactor];
    for (const [call, wait] of [
      ['bdev.openEarly', () => registry.openEarly(1)],
      ['bdev.flushEarly', () => registry.flushEarly(1)],
    ] as const) {
      reactor.held = call;
      await wait();
      reactor.release();
    }
    expect(reactor.calls).toEqual(['bdev.openEarly', 'bdev.flushEarly']);
  });

  it('rings of both layouts start and stop in every reactor, and leave nothing', async () => {
    await registry.rehearse();
    for (const { calls } of reactors) expect(calls).toEqual(['vring.start', 'vring.stop', 'vring.start', 'vring.stop']);
  });
});

describe('the end of the daemon', () => {
  it('ends every session, of deleted controllers too', async () => {
    const controllers = [create('c0'), create('c1')];
    const fds = [await connect('c0'), await connect('c1')];
    await until(() => controllers.every(({ session }) => session !== null), 'sessions');
    await registry.delete('c1', true);
    await registry.close();
    expect(fds.map(isEnded)).toEqual([true, true]);
    expect([registry.list(), bdevs.get('A').users.size]).toEqual([[], 0]);
    // The end of the test closes it once more: give it another.
    registry = new VhostRegistry({ socketDirectory: directory, reactors: [], bdevs, mode: 'adaptive', log: SILENT });
  });
});

describe('a bdev', () => {
  it('that changes or goes is told to the reactor of each controller', async () => {
    const controllers = [create('c0'), create('c1', { cpumask: '0x1' })];
    const entry = bdevs.get('A');
    await bdevs.changed(entry);
    expect(reactors[0]?.calls).toEqual(['bdev.changed', 'bdev.changed']);
    await bdevs.delete(entry);
    expect(reactors[0]?.calls.slice(2)).toEqual(['bdev.removed 1', 'bdev.removed 1']);
    expect(controllers.map(({ isBdevRemoved }) => isBdevRemoved)).toEqual([true, true]);
  });
});

describe('the calls of controllers', () => {
  const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
  const params = (parts: Partial<Params<'vhost_create_blk_controller'>> = {}) =>
    METHODS.vhost_create_blk_controller.params.parse({ ctrlr: 'c0', dev_name: 'A', ...parts });

  it('make, list and delete them, in the form of the table', async () => {
    const rpc = vhostRpc(registry, bdevs);
    expect(rpc.vhost_create_blk_controller(params({ cpumask: '[0]', readonly: true, serial: 'S' }), context)).toBe(
      true,
    );
    await connect('c0');
    await until(() => registry.get('c0').session !== null, 'session');
    const list = await rpc.vhost_get_controllers({}, context);
    expect(METHODS.vhost_get_controllers.result.parse(list)).toEqual(list);
    expect(list).toMatchObject([
      {
        ctrlr: 'c0',
        cpumask: '0x1',
        socket: join(directory, 'c0'),
        sessions: [{ started: false, max_queues: 0 }],
        backend_specific: { block: { readonly: true, bdev: 'A' } },
      },
    ]);
    expect(await rpc.vhost_get_controllers({ name: 'c0' }, context)).toEqual(list);
    expect(() => rpc.vhost_get_controllers({ name: 'none' }, context)).toThrow(
      expect.objectContaining({ code: 'ENODEV' }),
    );
    await expect(rpc.vhost_delete_controller({ ctrlr: 'c0', force: false }, context)).rejects.toMatchObject({
      code: 'EBUSY',
    });
    expect(await rpc.vhost_delete_controller({ ctrlr: 'c0', force: true }, context)).toBe(true);
    expect(await rpc.vhost_get_controllers({}, context)).toEqual([]);
  });

  it('refuse a transport that is not known', () => {
    const rpc = vhostRpc(registry, bdevs);
    expect(() => rpc.vhost_create_blk_controller(params({ transport: 'vfio_user' }), context)).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
    expect(rpc.vhost_create_blk_controller(params({ transport: 'VHOST_USER_BLK' }), context)).toBe(true);
  });

  it('show a bdev that is gone as null', async () => {
    const rpc = vhostRpc(registry, bdevs);
    rpc.vhost_create_blk_controller(params(), context);
    await bdevs.delete(bdevs.get('A'));
    expect(await rpc.vhost_get_controllers({}, context)).toMatchObject([
      { backend_specific: { block: { bdev: null } } },
    ]);
  });

  it('can be made again from the configuration', async () => {
    const rpc = vhostRpc(registry, bdevs);
    rpc.vhost_create_blk_controller(params({ serial: 'S', cpumask: '0x2' }), context);
    rpc.vhost_create_blk_controller(params({ ctrlr: 'c1', readonly: true }), context);
    const saved = vhostConfig(registry, 'blk', false);
    expect(saved.map((call) => call.method)).toEqual(Array(2).fill('vhost_create_blk_controller'));
    expect(saved.map((call) => METHODS.vhost_create_blk_controller.params.parse(call.params))).toMatchObject([
      { ctrlr: 'c0', dev_name: 'A', cpumask: '0x2', readonly: false, serial: 'S' },
      { ctrlr: 'c1', dev_name: 'A', readonly: true },
    ]);
    // One that may use all cores has no mask: the next daemon may have others.
    expect(saved[1]?.params).not.toHaveProperty('cpumask');
    await bdevs.delete(bdevs.get('A'));
    expect(vhostConfig(registry, 'blk', false)).toEqual([]);
    expect(vhostConfig(registry, 'blk', true)).toEqual(saved);
  });
});

describe('what is in flight on a bdev that hangs', () => {
  it('holds up a removal for ten seconds only, and the removal ends with it', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const controller = await registry.createScsi({
        name: 'scsi',
        cpumask: '0x1',
        mode: undefined,
        placement: undefined,
        isDelayed: false,
      });
      const identity = { vendor: undefined, model: undefined, serial: undefined };
      const flags = { isReadonly: false, isRemovable: false };
      await controller.addTarget({ target: 0, lun: 0, bdev: bdevs.get('A'), ...identity, ...flags });
      const [reactor] = reactors as [FakeReactor];
      reactor.held = ScsiCall.removeLun;
      const removals = [
        controller.removeTarget(0, undefined),
        bdevs.delete(bdevs.get('A')),
        registry.delete('scsi', true),
      ];
      const ends = Promise.allSettled(removals);
      await expect(controller.removeTarget(0, undefined)).rejects.toMatchObject({ code: 'EBUSY' });
      await vi.advanceTimersByTimeAsync(REMOVAL_MS_MAX);
      for (const end of await ends) expect(end).toMatchObject({ status: 'rejected', reason: { code: 'ETIMEDOUT' } });
      expect(controller.luns()).toHaveLength(1);
      reactor.release();
      await turns();
      expect([controller.luns(), bdevs.find('A')]).toEqual([[], undefined]);
      expect(reactor.calls.filter((call) => call === ScsiCall.removeLun)).toHaveLength(1);
    } finally {
      vi.useRealTimers();
    }
  });
});

/**
 * A vhost-user target that lies, breaks the rules, stalls and vanishes, under a virtio disk of a daemon: what becomes
 * of the disk is defined, the daemon lives on, and its other disks are not touched.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { VirtioBlkBdev } from '../../src/bdev/modules/virtio/blk.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { truncateFile } from '../../src/sys/mapping.ts';
import { BACKEND_REQUESTS, encodeU64, HeaderFlag, maskOf } from '../../src/vhost-user/messages.ts';
import { BlkFeature } from '../../src/virtio/blk.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { waitUntil } from '../e2e/wait.ts';
import { openFdCount } from '../support/descriptors.ts';
import { DISK_SECTORS, HostileTarget, type Manners, replyTo } from '../support/hostile-target.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const LIMIT_MS = 60_000;

let daemon: RinghostDaemon;
/** A disk that has nothing to do with it, and what it holds. */
let other: BlkInitiator;
const held = new Uint8Array(64 * 1024).map((_, i) => (i * 31 + (i >> 8)) & 0xff);

let target: HostileTarget;
let disk: BlkInitiator | null = null;
let lastName = 0;

beforeAll(async () => {
  daemon = await RinghostDaemon.start();
  const { path } = await daemon.create();
  other = await BlkInitiator.connect(path);
  await other.write(0, held);
});
afterAll(async () => {
  other.close();
  await daemon.close();
});

beforeEach(() => {
  target = new HostileTarget(join(daemon.directory, `hostile.${++lastName}`));
});
afterEach(async () => {
  disk?.close();
  const names = (await daemon.rpc.call('bdev_get_bdevs', {})).map(({ name }) => name);
  if (disk !== null) await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'victim', force: true });
  disk = null;
  if (names.includes('Hostile')) await daemon.rpc.call('bdev_virtio_detach_controller', { name: 'Hostile' });
  target.close();
  daemon.checkAlive();
  if (Buffer.compare(await other.read(0, held.length), held) !== 0) throw new Error('the other disk lost its data');
});

function attach(): Promise<string[]> {
  const params = { name: 'Hostile', trtype: 'user', dev_type: 'blk', traddr: target.path } as const;
  return daemon.rpc.call('bdev_virtio_attach_controller', params);
}

/** Attaches it, and serves it to a guest. */
async function serve(manners: Manners): Promise<BlkInitiator> {
  await attach();
  await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'victim', dev_name: 'Hostile' });
  disk = await BlkInitiator.connect(join(daemon.directory, 'victim'), { timeoutMs: LIMIT_MS });
  target.manners = manners;
  return disk;
}

/** What is at the borders of two sectors of the disk. */
async function served(): Promise<number[]> {
  const data = await (disk as BlkInitiator).read(5, 1024);
  return [0, 511, 512, 1023].map((at) => data[at] as number);
}
const GOOD = [5, 5, 6, 6];

describe('a target is not attached that', () => {
  const short = new Uint8Array(4);
  const config = (values: NonNullable<Manners['config']>): Manners => ({ config: values });
  const all = maskOf(VirtioFeature.VERSION_1, 30, BlkFeature.BLK_SIZE, BlkFeature.SIZE_MAX);
  it.each<readonly [what: string, manners: Manners, error: RegExp]>([
    ['has no protocol features', { features: 1n << 32n }, /no protocol features/],
    ['is of before virtio 1', { features: 1n << 30n }, /no virtio 1 device/],
    ['has no configuration', { protocol: 0n }, /no configuration to read/],
    ['has no queues', { queues: 0n }, /has 0 queues/],
    ['has no sectors', config({ capacitySectors: 0 }), /says that it has 0 sectors/],
    ['has 2^63 sectors', config({ capacitySectors: 2 ** 63 }), /says that it has 9223372036854776000 sectors/],
    ['has blocks of 0 bytes', config({ blockSizeBytes: 0 }), /blocks of 0 bytes/],
    ['has blocks of 3 bytes', config({ blockSizeBytes: 3 }), /blocks of 3 bytes/],
    ['has blocks of 2 GiB', config({ blockSizeBytes: 2 ** 31 }), /blocks of 2147483648 bytes/],
    ['takes less than a block', { features: all, config: { sizeMax: 100 } }, /takes 100 bytes at once/],
    [
      'answers too little',
      { answer: (name) => (name === 'GET_FEATURES' ? replyTo('GET_FEATURES', short) : undefined) },
      /GET_FEATURES with 4 bytes, not 8/,
    ],
    [
      'answers too much',
      { answer: (name) => (name === 'GET_CONFIG' ? replyTo('GET_CONFIG', new Uint8Array(500)) : undefined) },
      /GET_CONFIG with 500 bytes/,
    ],
    [
      'answers another question',
      { answer: (name) => (name === 'GET_QUEUE_NUM' ? replyTo('GET_CONFIG', encodeU64(1)) : undefined) },
      /answered GET_QUEUE_NUM by GET_CONFIG/,
    ],
    [
      'answers without saying so',
      { answer: (name) => (name === 'GET_QUEUE_NUM' ? replyTo('GET_QUEUE_NUM', encodeU64(1), 0) : undefined) },
      /answered GET_QUEUE_NUM by GET_QUEUE_NUM with flags/,
    ],
    [
      'announces an answer of 4 GiB',
      { answer: (name) => (name === 'GET_CONFIG' ? new Uint8Array(12).fill(0xff) : undefined) },
      /closed the connection/,
    ],
    [
      'refuses the memory',
      { answer: (name) => (name === 'SET_MEM_TABLE' ? replyTo('SET_MEM_TABLE', encodeU64(1)) : undefined) },
      /refused SET_MEM_TABLE/,
    ],
  ])('%s', async (_, manners, error) => {
    target.manners = manners;
    await expect(attach()).rejects.toThrow(error);
    expect(await daemon.rpc.call('bdev_get_bdevs', { name: 'Hostile' }).catch(() => null)).toBeNull();
  });

  it('hangs up at any message', async () => {
    target.manners = {};
    await attach();
    const messages = [...new Set(target.seen)];
    await daemon.rpc.call('bdev_virtio_detach_controller', { name: 'Hostile' });
    for (const message of messages) {
      target.manners = {
        answer: (name) => {
          if (name === message) target.hangUp();
          return name === message ? null : undefined;
        },
      };
      await expect(attach()).rejects.toThrow();
    }
  });

  it('does not answer', async () => {
    target.manners = { answer: (name) => (name === 'GET_CONFIG' ? null : undefined) };
    const before = openFdCount();
    const params = { name: 'Hostile', path: target.path, timeoutMs: 200 };
    await expect(VirtioBlkBdev.open(params)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    target.hangUp();
    // What watched them goes with the event loop's next turns.
    await waitUntil(() => openFdCount() === before, LIMIT_MS, 'end of its descriptors');
  });
});

describe('a target is as good as any that', () => {
  it.each<readonly [what: string, manners: Manners]>([
    ['takes no segments', { config: { segMax: 0 } }],
    ['has 65535 queues', { queues: 65535n, config: { queueCount: 65535 } }],
    ['has 2^64-1 queues', { queues: 2n ** 64n - 1n }],
    ['says that the longest request has 0 bytes', { config: { sizeMax: 0 } }],
  ])('%s', async (_, manners) => {
    target.manners = manners;
    await serve(manners);
    expect(await served()).toEqual(GOOD);
  });

  it('lies about how much it wrote', async () => {
    await serve({
      serve: (ring, head) => {
        const use = ring.use.bind(ring);
        ring.use = (id) => use(id, 0xffff_ffff);
        ring.complete(head);
      },
    });
    expect(await served()).toEqual(GOOD);
  });
});

describe('a request fails, and the next is served,', () => {
  it.each([1, 2, 3, 7, 0x80, 0xff])('when its status is %i', async (status) => {
    const victim = await serve({ serve: (ring, head) => ring.complete(head, status) });
    await expect(victim.read(0, 512)).rejects.toThrow(/IOERR/);
    await expect(victim.write(0, new Uint8Array(512))).rejects.toThrow(/IOERR/);
    target.manners = {};
    expect(await served()).toEqual(GOOD);
    expect(target.connections).toBe(1);
  });
});

describe('the connection is made anew, and goes on, when the target', () => {
  it.each<readonly [what: string, misbehave: NonNullable<Manners['serve']>]>([
    ['gives back an id beyond its ring', (ring) => ring.use(0xffff_ffff, 1)],
    ['gives back the first id beyond its slots', (ring) => ring.use(3 * Math.floor(ring.size / 3), 1)],
    ['gives back what is inside a request', (ring, head) => ring.use(head + 1, 1)],
    ['gives back what it does not have', (ring) => ring.use(3 * 60, 1)],
    [
      'gives back a request twice',
      (ring, head) => {
        ring.complete(head);
        ring.use(head, 1);
      },
    ],
    [
      'says that it did a thousand more',
      (ring, head) => {
        ring.complete(head);
        ring.showUsed((ring.nextUsed + 1000) & 0xffff);
      },
    ],
    ['runs backwards', (ring) => ring.showUsed((ring.nextUsed - 1) & 0xffff)],
  ])('%s', async (_what, misbehave) => {
    let isDone = false;
    const victim = await serve({
      serve: (ring, head) => {
        // After that it does nothing more until it is connected to again.
        if (target.connections > 1) ring.complete(head);
        else if (!isDone) misbehave(ring, head);
        isDone = true;
      },
    });
    // Whatever becomes of the requests at that time, they end.
    await Promise.allSettled(Array.from({ length: 4 }, (_, i) => victim.read(i, 512)));
    await waitUntil(() => target.connections > 1, LIMIT_MS, 'new connection');
    expect(await served()).toEqual(GOOD);
  });

  it('hangs up with requests that it took: they are done by the next connection', async () => {
    const victim = await serve({
      serve: () => {
        target.manners = {};
        target.hangUp();
      },
    });
    const all = await Promise.all(Array.from({ length: 40 }, (_, i) => victim.read(i, 512)));
    expect(all.map((data) => data[0])).toEqual(Array.from({ length: 40 }, (_, i) => i));
    expect(target.connections).toBe(2);
  });
});

it('the memory that it shares keeps its size', async () => {
  await serve({});
  for (const size of [0, 4096, 2 ** 40])
    expect(() => truncateFile(target.session.memory.fd, size)).toThrow(/not permitted/);
  expect(await served()).toEqual(GOOD);
});

it('a request that is never answered waits, and fails when its disk is deleted', async () => {
  const victim = await serve({ serve: () => undefined });
  const read = victim.read(0, 512);
  await sleep(100);
  expect(victim.queue(0).pendingCount).toBe(1);
  const [, outcome] = await Promise.all([
    daemon.rpc.call('bdev_virtio_detach_controller', { name: 'Hostile' }),
    read.catch((error: Error) => error.message),
  ]);
  expect(outcome).toMatch(/IOERR/);
});

it('a storm of changes of the configuration ends with the largest disk that can be', async () => {
  const victim = await serve({});
  const sizes = [0, 2 ** 63, 1, 4 * DISK_SECTORS, 2 ** 53 + 2, 2 * DISK_SECTORS];
  const code = BACKEND_REQUESTS.CONFIG_CHANGE_MSG.code;
  let sent = 0;
  for (let i = 0; i < 5000; i++) {
    target.manners = { config: { capacitySectors: sizes[i % sizes.length] as number } };
    if (target.session.tell(code, new Uint8Array(0)) > 0) sent++;
    if (i % 100 === 0) expect(await served()).toEqual(GOOD);
  }
  expect(sent).toBeGreaterThan(100);
  target.manners = { config: { capacitySectors: 4 * DISK_SECTORS } };
  await waitUntil(
    async () => {
      target.session.tell(code, new Uint8Array(0));
      return (await victim.readConfig()).capacitySectors === 4 * DISK_SECTORS;
    },
    LIMIT_MS,
    'new size',
  );
  // What no target may ask for is answered, and its descriptors are closed.
  for (let i = 0; i < 100; i++) target.session.tell(i * 7, new Uint8Array(i), HeaderFlag.needReply, [0, 1]);
  expect(await served()).toEqual(GOOD);
});

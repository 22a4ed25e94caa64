/**
 * What a guest can do to its rings and requests: descriptors that loop, lie and change under the device's eyes, indices
 * that jump, memory that is not there. The queue it does it to, or its session, may break; the session's other queue is
 * served as long as the session lives.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { BlkInitiatorOptions } from '../../src/initiator/blk-initiator.ts';
import { encodeRanges } from '../../src/initiator/blk-initiator.ts';
import { STATUS_UNTOUCHED } from '../../src/initiator/blk-request.ts';
import { DescriptorFlag } from '../../src/initiator/driver-ring.ts';
import { RING_FEATURES, STORAGE_PROTOCOL_FEATURES } from '../../src/initiator/frontend-session.ts';
import type { SplitDriverRing } from '../../src/initiator/split-driver-ring.ts';
import { closeFd } from '../../src/sys/events.ts';
import { maskOf, ProtocolFeature } from '../../src/vhost-user/messages.ts';
import { BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { MIB, pattern, SECTOR, sameBytes, writeAndReadBack } from './blk-case-helpers.ts';
import { anyOutcome, type HostileBench, onHostileBench, seededRandom, waitUntil } from './hostile-helpers.ts';
import { HOSTILE_CHAINS, REACTION_MS, REGIONS, RING_SIZE, RingAttacker } from './ring-attacker.ts';

const { next, write } = DescriptorFlag;
const { OUT, DISCARD, WRITE_ZEROES } = BlkRequestType;
const WITHOUT_SLOTS = STORAGE_PROTOCOL_FEATURES & ~maskOf(ProtocolFeature.CONFIGURE_MEM_SLOTS);
let bench: HostileBench;
onHostileBench((started) => {
  bench = started;
});

type Attacker = RingAttacker<SplitDriverRing>;

async function attacker(options: BlkInitiatorOptions = {}): Promise<Attacker> {
  return new RingAttacker<SplitDriverRing>(
    await bench.connect({ queues: 2, queueSize: RING_SIZE, memory: REGIONS, ...options }),
  );
}

describe('a descriptor chain', () => {
  it.each(HOSTILE_CHAINS)('%s breaks nothing but its own queue', async (_name, prepare) => {
    const attack = await attacker();
    await prepare(attack);
    await attack.fire(0);
    expect(await attack.othersServed()).toBe(true);
  });

  it.each(HOSTILE_CHAINS)(
    '%s breaks nothing on a ring without EVENT_IDX, published many times',
    async (_name, prepare) => {
      const attack = await attacker({ features: RING_FEATURES & ~maskOf(VirtioFeature.EVENT_IDX) });
      await prepare(attack);
      await attack.fire(...Array.from({ length: RING_SIZE }, () => 0));
      expect(await attack.othersServed()).toBe(true);
    },
  );
});

const BREAKING: [string, (attack: Attacker) => unknown][] = [
  ['a head outside the ring', (a) => a.fire(RING_SIZE)],
  ['heads of all sizes', (a) => a.fire(RING_SIZE, 0x7fff, 0x8000, 0xffff)],
  ['the same head twice', (a) => a.fireGoodReads(0, 0)],
  ['the same head as often as the ring is long', (a) => a.fireGoodReads(...Array.from({ length: RING_SIZE }, () => 0))],
  [
    'chains that share descriptors',
    (a) => {
      a.descriptor(3, a.header, 16, next, 1);
      return a.fireGoodReads(0, 3, 0, 3);
    },
  ],
  [
    'an available index that jumps ahead',
    async (a) => {
      a.goodRead();
      a.ring.nextAvail = (a.ring.nextAvail + RING_SIZE + 1) & 0xffff;
      await a.publish();
    },
  ],
  [
    'an available index that jumps half a turn',
    async (a) => {
      a.ring.nextAvail = (a.ring.nextAvail + 0x8000) & 0xffff;
      await a.publish();
    },
  ],
  [
    'an available index that goes back',
    async (a) => {
      a.goodRead();
      await a.fire(0);
      a.ring.nextAvail = (a.ring.nextAvail - 1) & 0xffff;
      await a.publish();
    },
  ],
];

const ODD: [string, (attack: Attacker) => unknown][] = [
  [
    'a used index that the guest overwrites',
    async (a) => {
      a.goodRead();
      a.ring.used16[1] = 0x5555;
      await a.fire(0);
    },
  ],
  [
    'available flags and events of all values',
    async (a) => {
      a.goodRead();
      for (const value of [0, 1, 2, 0x7fff, 0x8000, 0xffff]) {
        a.ring.available[0] = value;
        a.ring.available[2 + RING_SIZE] = value;
        await a.fire(0);
      }
    },
  ],
];

describe('an available ring with', () => {
  it.each(BREAKING)('%s is broken, counted and logged once, and its device needs a reset', async (_name, act) => {
    const attack = await attacker({ protocolFeatures: STORAGE_PROTOCOL_FEATURES | maskOf(ProtocolFeature.STATUS) });
    expect(await attack.breakFirstQueue(bench, () => act(attack))).toEqual([1, 0]);
  });

  it.each(ODD)('%s breaks nothing but its own queue', async (_name, act) => {
    const attack = await attacker();
    await act(attack);
    expect(await attack.othersServed()).toBe(true);
  });
});

describe('a request', () => {
  const ranges: [string, number, Uint8Array][] = [
    ['of no ranges', WRITE_ZEROES, new Uint8Array(0)],
    ['of 4096 ranges', WRITE_ZEROES, encodeRanges(Array.from({ length: 4096 }, () => ({ sector: 0, sectors: 1 })))],
    [
      'of 4096 ranges to discard',
      DISCARD,
      encodeRanges(Array.from({ length: 4096 }, () => ({ sector: 0, sectors: 1 }))),
    ],
    ['of a range of 2^32 - 1 sectors', WRITE_ZEROES, encodeRanges([{ sector: 0, sectors: 0xffff_ffff }])],
    ['of a range that ends past 2^64', DISCARD, encodeRanges([{ sector: 2n ** 64n - 1n, sectors: 0xffff_ffff }])],
    ['of ranges that end past 2^55', DISCARD, encodeRanges([{ sector: 2n ** 55n, sectors: 1 }])],
  ];
  it.each(ranges)('%s is answered', async (_name, type, out) => {
    const disk = await bench.connect({ queueSize: 256 });
    const { status } = await disk.request({ type, out });
    expect(status).not.toBe(STATUS_UNTOUCHED);
    await writeAndReadBack(disk, 0, pattern(4096));
  });

  it('of any type, with any sector and any lengths, is answered', async () => {
    const disk = await bench.connect({ queueSize: 256 });
    const random = seededRandom(7);
    for (let i = 0; i < 400; i++) {
      const type = random() < 0.7 ? Math.floor(random() * 28) : Math.floor(random() * 2 ** 32);
      const sector = random() < 0.5 ? Math.floor(random() * 65536) : BigInt(Math.floor(random() * 2 ** 53)) << 11n;
      const out = pattern(Math.floor(random() * 2048), i + 1);
      const inBytes = Math.floor(random() * 2048);
      const { status } = await disk.request({ type, sector, out, inBytes, isIndirect: random() < 0.5 });
      expect(status).not.toBe(STATUS_UNTOUCHED);
    }
  });

  it('that cannot be completed is not completed with a status outside its writable part', async () => {
    const attack = await attacker();
    const { memory } = attack.disk;
    memory.bytes(attack.status, 1)[0] = 0x77;
    attack.setHeader(OUT, 0n);
    attack.descriptor(0, attack.header, 16, next, 1);
    attack.descriptor(1, attack.data, SECTOR, next, 2);
    attack.descriptor(2, attack.status, 1, 0);
    await attack.fire(0);
    expect(memory.bytes(attack.status, 1)[0]).toBe(0x77);
    expect(await attack.othersServed()).toBe(true);
  });

  it('whose descriptors change while the device reads them breaks nothing else', async () => {
    for (let seed = 1; seed <= 8; seed++) {
      const attack = await attacker();
      const random = seededRandom(seed);
      for (let head = 0; head + 2 < RING_SIZE; head += 3) attack.goodRead(head);
      const untilMs = Date.now() + 150;
      while (Date.now() < untilMs && !attack.disk.frontend.isClosed) {
        for (let head = 0; head + 2 < RING_SIZE; head += 3) attack.ring.expose(head);
        attack.ring.publish();
        attack.disk.queue(0).kick();
        for (let i = 0; i < 2000; i++) {
          const word = Math.floor(random() * RING_SIZE * 4);
          const { descriptors } = attack.ring;
          const before = descriptors[word] as number;
          descriptors[word] = random() < 0.5 ? random() * 2 ** 32 : before ^ (1 << Math.floor(random() * 32));
          descriptors[word] = before;
        }
        await sleep(1);
      }
      expect(await attack.othersServed()).toBe(true);
      attack.disk.close();
    }
  });
});

describe('guest memory', () => {
  it('that is cut off under a request ends the session, not the daemon', async () => {
    const attack = await attacker();
    const region = attack.disk.memory.regions[1];
    region?.truncate(0);
    attack.goodRead();
    attack.descriptor(1, 16 * MIB, SECTOR, next | write, 2);
    await attack.fire(0);
    await waitUntil('the session ends', () => attack.disk.frontend.isClosed);
    expect((await attack.disk.frontend.closed).isByPeer).toBe(true);
  });

  it('that is cut off under the rings ends the session, not the daemon', async () => {
    const attack = await attacker();
    attack.disk.memory.regions[0]?.truncate(0);
    attack.disk.queue(0).kick();
    attack.disk.queue(1).kick();
    await waitUntil('the session ends', () => attack.disk.frontend.isClosed);
    expect((await attack.disk.frontend.closed).isByPeer).toBe(true);
  });

  it('that is cut off under load ends the session, not the daemon', async () => {
    for (let round = 0; round < 5; round++) {
      const attack = await attacker();
      for (let head = 0; head + 2 < RING_SIZE; head += 3) {
        attack.goodRead(head);
        attack.descriptor(head + 1, 16 * MIB + head * 4096, SECTOR, next | write, head + 2);
      }
      const heads = Array.from({ length: 21 }, (_, i) => 3 * i);
      for (const head of heads) attack.ring.expose(head);
      attack.ring.publish();
      attack.disk.queue(0).kick();
      attack.disk.memory.regions[1]?.truncate(0);
      await attack.fire(...heads);
      await waitUntil('the session ends', () => attack.disk.frontend.isClosed);
      attack.disk.close();
    }
    expect(bench.internalErrors()).toEqual([]);
  });

  it('that is taken away under running rings breaks nothing else', async () => {
    const attack = await attacker();
    attack.goodRead();
    for (let i = 0; i < 20; i++) attack.ring.expose(0);
    attack.ring.publish();
    attack.disk.queue(0).kick();
    const [region] = attack.disk.memory.regions;
    await anyOutcome(region === undefined ? Promise.resolve() : attack.disk.frontend.remMemRegion(region));
    attack.disk.queue(0).kick();
    await sleep(REACTION_MS);
    expect(bench.internalErrors()).toEqual([]);
  });

  it('that is replaced by nothing under running rings breaks nothing else', async () => {
    const attack = await attacker({ protocolFeatures: WITHOUT_SLOTS });
    attack.goodRead();
    for (let i = 0; i < 20; i++) attack.ring.expose(0);
    attack.ring.publish();
    attack.disk.queue(0).kick();
    await anyOutcome(attack.disk.frontend.setMemTable([]));
    attack.disk.queue(0).kick();
    await sleep(REACTION_MS);
    expect(bench.internalErrors()).toEqual([]);
  });
});

describe('a running ring', () => {
  it('that is given other sizes, bases and addresses breaks nothing else', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const attack = await attacker();
      const random = seededRandom(seed);
      const { frontend, memory } = attack.disk;
      attack.goodRead();
      for (let i = 0; i < 40 && !frontend.isClosed; i++) {
        attack.ring.expose(0);
        attack.ring.publish();
        attack.disk.queue(0).kick();
        const base = memory.userAddressOf(0);
        const address = (): number => base + Math.floor(random() * 16 * MIB) - (random() < 0.1 ? 32 * MIB : 0);
        const messages = [
          () => frontend.setVringNum(0, 2 ** Math.floor(random() * 17)),
          () => frontend.setVringBase(0, Math.floor(random() * 2 ** 32)),
          () => frontend.setVringAddr(0, { descriptor: address(), used: address(), available: address() }),
          () =>
            frontend.setVringAddr(0, { descriptor: address() & ~15, used: address() & ~3, available: address() & ~1 }),
          () => frontend.setVringEnable(0, random() < 0.5),
          () => frontend.getVringBase(0),
          () => frontend.setFeatures(attack.disk.features & BigInt(Math.floor(random() * 2 ** 34))),
          () => frontend.setVringKick(0, attack.disk.queue(0).kickFd),
        ];
        await anyOutcome((messages[Math.floor(random() * messages.length)] ?? (() => Promise.resolve()))());
      }
      attack.disk.close();
    }
    expect(bench.internalErrors()).toEqual([]);
  });

  it('whose parts overlap each other breaks nothing else', async () => {
    const attack = await attacker();
    const { frontend, memory } = attack.disk;
    await anyOutcome(frontend.getVringBase(0));
    const base = memory.userAddressOf(8 * MIB);
    await anyOutcome(frontend.setVringAddr(0, { descriptor: base, used: base, available: base }));
    await anyOutcome(frontend.setVringKick(0, attack.disk.queue(0).kickFd));
    await anyOutcome(frontend.setVringEnable(0, true));
    for (let i = 0; i < 64; i++) {
      memory.bytes(8 * MIB, 4096).fill(i * 5);
      attack.disk.queue(0).kick();
      await sleep(1);
    }
    expect(await attack.othersServed()).toBe(true);
  });

  it('is reset and handed over under load as often as the front-end likes', async () => {
    const disk = await bench.connect({ queues: 2 });
    const requests: Promise<unknown>[] = [];
    for (let i = 0; i < 20; i++) {
      for (let k = 0; k < 16; k++) requests.push(disk.read(k * 8, 4096, { queue: k % 2 }).catch(() => {}));
      await anyOutcome(i % 2 === 0 ? disk.frontend.resetDevice() : disk.frontend.resetOwner());
      if (disk.frontend.isClosed) break;
      await anyOutcome(disk.start());
    }
    disk.close();
    await Promise.all(requests);
    expect(bench.internalErrors()).toEqual([]);
  });

  it('whose call descriptor blocks stops nobody else', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-fifo-'));
    const path = join(directory, 'fifo');
    execFileSync('/usr/bin/mkfifo', [path]);
    const filler = openSync(path, 'r+');
    // A pipe holds 64 KiB: full to the last byte, every further write would wait for ever.
    for (let i = 0; i < 16; i++) writeSync(filler, new Uint8Array(4096));
    const disk = await bench.connect({ poll: true });
    await anyOutcome(disk.frontend.setVringCall(0, filler));
    disk.queue(0).ring.wantCalls();
    await anyOutcome(disk.read(0, 4096));
    closeFd(filler);
    rmSync(directory, { recursive: true });
    expect(bench.internalErrors()).toEqual([]);
  });
});

describe('a good driver', () => {
  it('is served on the attacked controller beside a broken queue of its own', async () => {
    const attack = await attacker();
    attack.descriptor(0, attack.data, SECTOR, next | write, 0);
    await attack.fire(0);
    const data = pattern(4096, 5);
    const disk = attack.disk.frontend.isClosed ? await bench.connect({ queues: 2 }) : attack.disk;
    for (let i = 0; i < 50; i++) {
      await disk.write(i * 8, data, { queue: 1 });
      sameBytes(await disk.read(i * 8, 4096, { queue: 1 }), data, `round ${i}`);
    }
    expect((await disk.request({ type: OUT, sector: 0, out: data, queue: 1 })).status).toBe(BlkStatus.OK);
  });
});

/**
 * What a guest can do to a packed ring: ids that are not its own, chains without end, marks of the wrong turn, and the
 * chains that a split ring is given too. The queue it does it to breaks, and its device asks for a reset; the session's
 * other queue is served.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { BlkInitiatorOptions } from '../../src/initiator/blk-initiator.ts';
import { DescriptorFlag } from '../../src/initiator/driver-ring.ts';
import { RING_FEATURES, STORAGE_PROTOCOL_FEATURES } from '../../src/initiator/frontend-session.ts';
import type { PackedDriverRing } from '../../src/initiator/packed-driver-ring.ts';
import { maskOf, ProtocolFeature } from '../../src/vhost-user/messages.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { SECTOR } from './blk-case-helpers.ts';
import { type HostileBench, onHostileBench, seededRandom, waitUntil } from './hostile-helpers.ts';
import { DRIVER_RUNS, HOSTILE_CHAINS, NEEDS_RESET, REGIONS, RING_SIZE, RingAttacker } from './ring-attacker.ts';

const { next, write, indirect } = DescriptorFlag;
/** Makes a descriptor available in the first turn, and in the second. */
const FIRST_TURN = 0x0080;
const SECOND_TURN = 0x8000;

type Attacker = RingAttacker<PackedDriverRing>;

let bench: HostileBench;
onHostileBench((started) => {
  bench = started;
});

async function attacker(options: BlkInitiatorOptions = {}): Promise<Attacker> {
  const common = { queues: 2, queueSize: RING_SIZE, memory: REGIONS, isPacked: true };
  return new RingAttacker<PackedDriverRing>(await bench.connect({ ...common, ...options }));
}

/** A descriptor in the ring itself. */
type Slot = readonly [gpa: number, lengthBytes: number, id: number, flags: number];

/** Writes descriptors from the first place on, the first of them last, and kicks. */
async function fireSlots({ ring, disk }: Attacker, slots: readonly Slot[], place = 0): Promise<void> {
  for (const [i, [gpa, lengthBytes, id, flags]] of [...slots.entries()].toReversed()) {
    const at = (place + i) % RING_SIZE;
    ring.ring32.set([gpa % 2 ** 32, Math.floor(gpa / 2 ** 32), lengthBytes], 4 * at);
    ring.ring16[8 * at + 6] = id;
    Atomics.store(ring.ring16, 8 * at + 7, flags);
  }
  disk.queue(0).kick();
  await sleep(20);
}

/** A read of one sector with this id, from this place on. */
function goodRead(a: Attacker, id: number): Slot[] {
  return [
    [a.header, 16, id, next | FIRST_TURN],
    [a.data, SECTOR, id, next | write | FIRST_TURN],
    [a.status, 1, id, write | FIRST_TURN],
  ];
}

const fill = (slot: Slot): Slot[] => Array.from({ length: RING_SIZE }, () => slot);

const BREAKING: readonly [string, (attack: Attacker) => Promise<unknown>][] = [
  ['an id just outside the ring', (a) => fireSlots(a, goodRead(a, RING_SIZE))],
  ['an id of 65535', (a) => fireSlots(a, goodRead(a, 0xffff))],
  ['NEXT through the whole ring, without end', (a) => fireSlots(a, fill([a.data, 1, 0, next | FIRST_TURN]))],
  [
    'NEXT through the whole ring by descriptors of no bytes',
    (a) => fireSlots(a, fill([a.data, 0, 0, next | FIRST_TURN])),
  ],
  ['a table that has a NEXT', (a) => fireSlots(a, [[a.table, 48, 0, indirect | next | FIRST_TURN], ...goodRead(a, 0)])],
  ['a table of no bytes', (a) => fireSlots(a, [[a.table, 0, 0, indirect | FIRST_TURN]])],
  ['a table of 17 bytes', (a) => fireSlots(a, [[a.table, 17, 0, indirect | FIRST_TURN]])],
  ['a table of 4 GiB', (a) => fireSlots(a, [[a.table, 0xffff_fff0, 0, indirect | FIRST_TURN]])],
  ['a table at the top of the address space', (a) => fireSlots(a, [[2 ** 64 - 4096, 4096, 0, indirect | FIRST_TURN]])],
  [
    'readable parts behind writable ones',
    (a) =>
      fireSlots(a, [
        [a.data, 16, 0, next | write | FIRST_TURN],
        [a.data, 16, 0, FIRST_TURN],
      ]),
  ],
];

const ODD: readonly [string, (attack: Attacker) => Promise<unknown>][] = [
  ['the same id in every chain', (a) => fireSlots(a, fill([a.data, 16, 5, write | FIRST_TURN]))],
  ['none of the marks', (a) => fireSlots(a, fill([a.header, 16, 0, 0]))],
  ['both marks', (a) => fireSlots(a, fill([a.header, 16, 0, FIRST_TURN | SECOND_TURN]))],
  ['the marks of the next turn', (a) => fireSlots(a, fill([a.header, 16, 0, SECOND_TURN]))],
  ['unknown flags', (a) => fireSlots(a, fill([a.data, 16, 0, 0x7f78 | write | FIRST_TURN]))],
  [
    'used descriptors that the guest makes available again, in the turn that is over',
    async (a) => {
      await fireSlots(a, goodRead(a, 0));
      for (let i = 0; i < 20; i++) await fireSlots(a, goodRead(a, i % RING_SIZE));
    },
  ],
  [
    'events of all kinds, and its own overwritten',
    async (a) => {
      for (const value of [0, 1, 2, 3, 0x7fff, 0x8000, 0xffff]) {
        a.ring.driverEvent.fill(value);
        a.ring.deviceEvent.fill(0xffff ^ value);
        a.goodRead();
        await a.fire(0);
      }
    },
  ],
];

describe('a descriptor chain in a packed ring', () => {
  it.each(HOSTILE_CHAINS)('%s breaks nothing but its own queue', async (_name, prepare) => {
    const attack = await attacker();
    await prepare(attack as unknown as RingAttacker);
    await attack.fire(0);
    expect(await attack.othersServed()).toBe(true);
  });
});

describe('a packed ring with', () => {
  it.each(BREAKING)('%s is broken, counted and logged once, and its device needs a reset', async (_name, act) => {
    const attack = await attacker({ protocolFeatures: STORAGE_PROTOCOL_FEATURES | maskOf(ProtocolFeature.STATUS) });
    expect(await attack.breakFirstQueue(bench, () => act(attack))).toEqual([1, 0]);
  });

  it.each(ODD)('%s breaks nothing but its own queue', async (_name, act) => {
    for (const features of [RING_FEATURES, RING_FEATURES & ~maskOf(VirtioFeature.EVENT_IDX)]) {
      const attack = await attacker({ features: features | maskOf(VirtioFeature.RING_PACKED) });
      await act(attack);
      expect(await attack.othersServed()).toBe(true);
      attack.disk.close();
    }
  });

  it('descriptors that change while the device reads them breaks nothing else', async () => {
    for (let seed = 1; seed <= 8; seed++) {
      const attack = await attacker();
      const random = seededRandom(seed);
      const { ring32 } = attack.ring;
      const untilMs = Date.now() + 150;
      while (Date.now() < untilMs && !attack.disk.frontend.isClosed) {
        for (let place = 0; place + 2 < RING_SIZE; place += 3) {
          await fireSlots(attack, goodRead(attack, place), place);
          for (let i = 0; i < 2000; i++) {
            const word = Math.floor(random() * RING_SIZE * 4);
            const before = ring32[word] as number;
            ring32[word] = random() < 0.5 ? random() * 2 ** 32 : before ^ (1 << Math.floor(random() * 32));
            ring32[word] = before;
          }
        }
      }
      expect(await attack.othersServed()).toBe(true);
      attack.disk.close();
    }
  });
});

describe('a device with a broken queue', () => {
  it('tells its driver by a change of the configuration, once, and is well after a reset', async () => {
    const attack = await attacker({ protocolFeatures: STORAGE_PROTOCOL_FEATURES | maskOf(ProtocolFeature.STATUS) });
    const { disk } = attack;
    let changes = 0;
    disk.events.on('configChange', () => changes++);
    await disk.frontend.setStatus(DRIVER_RUNS);
    await fireSlots(attack, goodRead(attack, 0xffff));
    await waitUntil('the driver is told', () => changes > 0);
    expect(await disk.frontend.getStatus()).toBe(DRIVER_RUNS | NEEDS_RESET);
    // A front-end that adds a bit to what it has read, as QEMU does, does not make it stay.
    await disk.frontend.setStatus(DRIVER_RUNS | NEEDS_RESET);
    await disk.frontend.setStatus(0);
    expect(await disk.frontend.getStatus()).toBe(0);
    expect(changes).toBe(1);
  });
});

/**
 * Millions of wake-ups, none lost: a driver in one thread and a device in another, with the real rings and a real kick
 * descriptor. The device sleeps whenever it found nothing, and then looks at nothing but its kick.
 *
 * Counts decide when a run is over. A lost wake-up shows as a stall; `canary` leaves out the second look after arming,
 * and must stall.
 */
import { equal } from 'node:assert/strict';
import { expect, test } from 'vitest';
import { type DriverRing, NO_HEAD } from '../../src/initiator/driver-ring.ts';
import { OwnedMemory } from '../../src/initiator/owned-memory.ts';
import { PackedDriverRing } from '../../src/initiator/packed-driver-ring.ts';
import { SplitDriverRing } from '../../src/initiator/split-driver-ring.ts';
import { closeFd, createEventFd, signalEventFd } from '../../src/sys/events.ts';
import { PACKED_BASE_FIRST } from '../../src/virtio/ring-shape.ts';
import { startThread } from '../support/processes.ts';

const RING_SIZE = 16;
/** Requests of a run. Nearly each of them finds the device asleep, or on its way there. */
const REQUESTS = 1_000_000;
const STALL_MS = 20_000;
const CANARY_STALL_MS = 2_000;
/** Fruitless looks before a thread lets the other one have the core, should they share it. */
const SPINS_MAX = 5_000;

/** Shared words. */
const Word = { isEnding: 0, sleeps: 1, length: 2 } as const;

/** The device's side. It answers each chain at once. */
const DEVICE = `
  const { GuestMemory } = await import(url('memory/guest-memory.ts'));
  const { createRing } = await import(url('virtio/create-ring.ts'));
  const { Chain } = await import(url('virtio/chain.ts'));
  const { readEventFd } = await import(url('sys/events.ts'));
  const setup = JSON.parse(decodeURIComponent(SETUP));
  const words = new Int32Array(await new Promise((resolve) => parentPort.once('message', resolve)));
  const ring = createRing(setup.ring, new GuestMemory(setup.regions));
  const chain = new Chain();
  let idle = 0;
  const pause = () => {
    if (++idle % ${SPINS_MAX} === 0) Atomics.wait(words, ${Word.isEnding}, 0, 0.05);
  };
  ring.disarmKick();
  while (Atomics.load(words, ${Word.isEnding}) === 0) {
    if (ring.pop(chain)) {
      ring.push(chain.head, 0);
      ring.publish();
      idle = 0;
      continue;
    }
    const hasMore = ring.armKick();
    if (!hasMore || setup.isCanary) {
      Atomics.add(words, ${Word.sleeps}, 1);
      while (readEventFd(setup.kickFd) < 0 && Atomics.load(words, ${Word.isEnding}) === 0) pause();
    }
    ring.disarmKick();
  }
  ring.close();
  post('done');
`;

/** How kicks are asked for. */
interface Wishes {
  readonly isPacked: boolean;
  readonly hasEventIdx: boolean;
}

/** Drives requests until all are answered; returns how often the device slept. Throws when one never is. */
async function run(wishes: Wishes, requests: number, stallMs: number, isCanary = false): Promise<number> {
  const memory = OwnedMemory.single(1 << 20);
  const { isPacked, hasEventIdx } = wishes;
  const options = { size: RING_SIZE, hasEventIdx };
  const driver = isPacked ? new PackedDriverRing(memory, options) : new SplitDriverRing(memory, options);
  const kickFd = createEventFd();
  const setup = {
    isCanary,
    kickFd,
    ring: {
      size: RING_SIZE,
      descriptorAddress: memory.userAddressOf(driver.descriptorAddress),
      availableAddress: memory.userAddressOf(driver.availableAddress),
      usedAddress: memory.userAddressOf(driver.usedAddress),
      ...wishes,
      isInOrder: false,
      base: isPacked ? PACKED_BASE_FIRST : 0,
    },
    regions: memory.regions.map(({ guestAddress, sizeBytes, userAddress }) => ({
      guestAddress,
      sizeBytes,
      userAddress,
      hostAddress: userAddress,
    })),
  };
  const heads = Array.from({ length: 4 }, () =>
    driver.addChain([{ gpa: memory.allocate(64), lengthBytes: 64, isWritable: true }]),
  );
  const words = new Int32Array(new SharedArrayBuffer(4 * Word.length));
  const text = DEVICE.replace('SETUP', JSON.stringify(encodeURIComponent(JSON.stringify(setup))));
  const { worker, message, exit } = startThread(text);
  worker.postMessage(words.buffer);
  try {
    drive(driver, heads, kickFd, words, { requests, stallMs });
    return Atomics.load(words, Word.sleeps);
  } finally {
    Atomics.store(words, Word.isEnding, 1);
    Atomics.notify(words, Word.isEnding);
    equal(await message, 'done');
    await exit;
    closeFd(kickFd);
    memory.close();
  }
}

function drive(
  driver: DriverRing,
  heads: readonly number[],
  kickFd: number,
  words: Int32Array,
  limits: { requests: number; stallMs: number },
): void {
  let random = 1;
  let done = 0;
  while (done < limits.requests) {
    random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
    // One to four at a time, after a pause of up to a microsecond or so: every phase of the device's is met.
    const count = ((random >>> 16) & 3) + 1;
    for (let spin = (random >>> 18) & 0x1ff; spin > 0; spin--) Atomics.load(words, Word.isEnding);
    for (let i = 0; i < count; i++) driver.expose(heads[i] as number);
    if (driver.publish()) signalEventFd(kickFd);
    let deadlineMs = 0;
    for (let left = count, spins = 0; left > 0; ) {
      if (driver.popUsed() !== NO_HEAD) {
        left--;
        spins = 0;
      } else if (++spins % SPINS_MAX === 0) {
        Atomics.wait(words, Word.isEnding, 0, 0.05);
        if (deadlineMs === 0) deadlineMs = Date.now() + limits.stallMs;
        else if (Date.now() > deadlineMs) throw new Error(`a wake-up was lost after ${done} requests`);
      }
    }
    done += count;
  }
}

const WISHES: readonly (readonly [string, Wishes])[] = [
  ['EVENT_IDX', { isPacked: false, hasEventIdx: true }],
  ['flags', { isPacked: false, hasEventIdx: false }],
  ['EVENT_IDX on a packed ring', { isPacked: true, hasEventIdx: true }],
  ['flags on a packed ring', { isPacked: true, hasEventIdx: false }],
];

test.each(WISHES)('a device that sleeps with %s is woken every time', { timeout: 300_000 }, async (_, wishes) => {
  const sleeps = await run(wishes, REQUESTS, STALL_MS);
  // It did sleep: the count of requests above is of wake-ups, near enough.
  expect(sleeps).toBeGreaterThan(REQUESTS / 20);
});

test.each(WISHES)('one that does not look again first, with %s, is not', { timeout: 120_000 }, async (_, wishes) => {
  await expect(run(wishes, 100 * REQUESTS, CANARY_STALL_MS, true)).rejects.toThrow('a wake-up was lost');
});

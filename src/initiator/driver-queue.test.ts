/** A driver's queue against a device that the test plays by hand, on the same ring memory. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FdSet, readEventFd, signalEventFd } from '../sys/events.ts';
import { DriverQueue } from './driver-queue.ts';
import { OwnedMemory } from './owned-memory.ts';
import type { SplitDriverRing } from './split-driver-ring.ts';

const LIMIT_MS = 20_000;
const SIZE = 8;

let memory: OwnedMemory;
let fds: FdSet;
let queue: DriverQueue;

beforeEach(() => {
  memory = OwnedMemory.single(1 << 20);
  fds = new FdSet();
});
afterEach(() => {
  queue.close();
  fds.close();
  memory.close();
});

function createQueue(isPolled = false, hasEventIdx = true): DriverQueue {
  queue = new DriverQueue(memory, { index: 0, size: SIZE, isPacked: false, hasEventIdx, isPolled, fds });
  return queue;
}

function splitRing(): SplitDriverRing {
  return queue.ring as SplitDriverRing;
}

function addChain(lengthBytes = 512): number {
  return queue.ring.addChain([{ gpa: 0, lengthBytes, isWritable: true }]);
}

/** Completes a head as a device does. */
function complete(head: number, length: number): void {
  const { used16, used32 } = splitRing();
  const index = used16[1] as number;
  used32[1 + 2 * (index % SIZE)] = head;
  used32[2 + 2 * (index % SIZE)] = length;
  used16[1] = index + 1;
}

/** What a promise is rejected with. */
async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('the promise was fulfilled');
}

describe('driver queue', () => {
  it('resolves each request when the device calls, in the order of completion', async () => {
    createQueue();
    const heads = [addChain(), addChain(), addChain()] as const;
    const done = Promise.all(heads.map((head) => queue.submit(head, LIMIT_MS)));
    complete(heads[2], 30);
    complete(heads[0], 10);
    complete(heads[1], 20);
    signalEventFd(queue.callFd);
    expect(await done).toEqual([
      { usedLen: 10, order: 1 },
      { usedLen: 20, order: 2 },
      { usedLen: 30, order: 0 },
    ]);
    expect(queue.ring.freeCount).toBe(SIZE);
    expect(queue.calls).toBe(1);
  });

  it('kicks when the device wants it, and asks for the next call', async () => {
    createQueue();
    const first = queue.submit(addChain(), LIMIT_MS);
    expect(readEventFd(queue.kickFd)).toBe(1);
    // avail_event stays where it was: no kick for the second.
    const second = queue.submit(addChain(), LIMIT_MS);
    expect(readEventFd(queue.kickFd)).toBeLessThan(0);
    complete(0, 1);
    signalEventFd(queue.callFd);
    await first;
    expect(splitRing().available[2 + SIZE]).toBe(1);
    complete(1, 1);
    signalEventFd(queue.callFd);
    await second;
    expect(queue.kicks).toBe(1);
  });

  it('finds completions without calls when it polls', async () => {
    createQueue(true, false);
    expect(splitRing().available[0]).toBe(1);
    const done = queue.submit(addChain(), LIMIT_MS);
    complete(0, 7);
    expect(await done).toEqual({ usedLen: 7, order: 0 });
    expect(queue.calls).toBe(0);
  });

  it('leaves completions alone while it is paused', async () => {
    createQueue();
    queue.pause();
    const done = queue.submit(addChain(), LIMIT_MS);
    complete(0, 7);
    signalEventFd(queue.callFd);
    for (let i = 0; i < 10; i++) await new Promise(setImmediate);
    expect(queue.pendingCount).toBe(1);
    queue.resume();
    expect(await done).toEqual({ usedLen: 7, order: 0 });
  });

  it('keeps the descriptors of a request that timed out until the device gives them back', async () => {
    createQueue();
    expect(await failureOf(queue.submit(addChain(), 1))).toMatchObject({ code: 'ETIMEDOUT' });
    expect(queue.ring.freeCount).toBe(SIZE - 1);
    complete(0, 1);
    expect(queue.drain()).toBe(1);
    expect(queue.ring.freeCount).toBe(SIZE);
    expect(queue.unknownIds).toBe(0);
  });

  it('counts completions of what is not in flight', () => {
    createQueue();
    complete(3, 1);
    complete(0xffff_ffff, 1);
    expect(queue.drain()).toBe(2);
    expect(queue.unknownIds).toBe(2);
  });

  it('fails what is in flight when it is closed', async () => {
    createQueue();
    const failure = failureOf(queue.submit(addChain(), LIMIT_MS));
    queue.close();
    expect(await failure).toMatchObject({ code: 'ECANCELED' });
  });
});

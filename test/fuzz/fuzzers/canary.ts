/**
 * Fuzzers that must fail, on readers of rings with faults that were planted: one that believes the length of an
 * indirect table, which a case alone shows, and one that reads a length a second time after it was checked
 * (CVE-2020-14375), which only another thread shows. They prove that cases of this kind reach such faults, that they
 * are noticed, and that a small case is left.
 */
import { ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { DescriptorFlag } from '../../../src/initiator/driver-ring.ts';
import { OwnedMemory } from '../../../src/initiator/owned-memory.ts';
import { RIG_GUEST_ADDRESS } from '../../support/ring-rig.ts';
import { RingRig } from '../../support/split-ring-rig.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';
import { descriptors, layOut, type RawDescriptor, REGIONS, resetRing, TABLE_ENTRIES } from '../hostile-ring.ts';
import { RingMutator } from '../ring-mutator.ts';

const SIZE = 32;

interface Case {
  readonly ring: readonly RawDescriptor[];
  readonly heads: readonly number[];
}

class GullibleTarget implements FuzzTarget<Case> {
  readonly counts = {};
  readonly #rig = new RingRig({ size: SIZE, regions: REGIONS });

  attempt({ ring, heads }: Case): void {
    resetRing(this.#rig, 0);
    layOut(this.#rig, ring, []);
    for (const head of heads) this.#walk(head % SIZE);
  }

  close(): void {
    this.#rig.close();
  }

  /** The fault: entries of an indirect table are counted by its length, which nobody checks. */
  #walk(head: number): void {
    const words = this.#rig.driver.descriptors;
    const [length = 0, flags = 0] = [words[4 * head + 2], (words[4 * head + 3] as number) & 0xffff];
    if ((flags & DescriptorFlag.indirect) !== 0) ok(length / 16 <= TABLE_ENTRIES, 'the reader left the table');
  }
}

const cases = fc.record({ ring: descriptors(SIZE), heads: fc.array(fc.nat(SIZE - 1), { minLength: 1, maxLength: 8 }) });

export const canary = defineFuzzer<Case>({
  name: 'canary',
  purpose: 'must fail: a reader that believes the length of an indirect table',
  isCanary: true,
  cases,
  open: () => new GullibleTarget(),
});

/** Reads of one descriptor in a case. */
const READS = 200_000;
const LENGTH_MAX = 512;

class RacingTarget implements FuzzTarget<number> {
  readonly counts = {};
  readonly #memory = new OwnedMemory([{ guestAddress: RIG_GUEST_ADDRESS, sizeBytes: 4096 }]);
  readonly #mutator = new RingMutator();

  attempt(seed: number): void {
    const words = this.#memory.uint32s(RIG_GUEST_ADDRESS, 4);
    words.fill(0);
    words[2] = LENGTH_MAX;
    this.#mutator.start(seed, this.#memory.userAddressOf(RIG_GUEST_ADDRESS), 16);
    try {
      for (let i = 0; i < READS; i++) {
        // The fault: the length that was checked is not the one that is used.
        if ((words[2] as number) > LENGTH_MAX) words[2] = LENGTH_MAX;
        else ok((words[2] as number) <= LENGTH_MAX, 'the length changed after its check');
      }
    } finally {
      this.#mutator.stop();
    }
  }

  async close(): Promise<void> {
    await this.#mutator.close();
    this.#memory.close();
  }
}

export const canaryRace = defineFuzzer<number>({
  name: 'canary-race',
  purpose: 'must fail: a reader that reads a length again after its check',
  isCanary: true,
  cases: fc.integer({ min: 1, max: 2 ** 31 - 1 }),
  open: () => new RacingTarget(),
});

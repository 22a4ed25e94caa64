/** Unit attention conditions of one logical unit (SAM-5 §5.14), kept for each I_T nexus until it was told. */
import { Sense } from './sense.ts';

/** In the order in which they are reported: a reset says more than what it makes obsolete. */
const CONDITIONS = [
  Sense.powerOn,
  Sense.deviceReset,
  Sense.nexusLoss,
  Sense.commandsCleared,
  Sense.reservationsPreempted,
  Sense.registrationsPreempted,
  Sense.reservationsReleased,
  Sense.mediumMayHaveChanged,
  Sense.capacityChanged,
  Sense.modeParametersChanged,
  Sense.reportedLunsChanged,
] as const;
export type AttentionCondition = (typeof CONDITIONS)[number];

/** What a reset leaves to be reported. */
const RESETS = bitOf(Sense.powerOn) | bitOf(Sense.deviceReset) | bitOf(Sense.nexusLoss);

export class UnitAttentions {
  /** Bit i: `CONDITIONS[i]` is pending for that nexus. */
  readonly #pending: Uint32Array;
  /** Some nexus has one. A field, because every command asks. */
  isAnyPending = false;

  constructor(nexusCount: number) {
    this.#pending = new Uint32Array(nexusCount);
  }

  isPending(nexus: number): boolean {
    return this.#pending[nexus] !== 0;
  }

  /** For every nexus but one: that of the command which caused it. */
  raise(condition: AttentionCondition, exceptNexus = -1): void {
    for (let nexus = 0; nexus < this.#pending.length; nexus++) {
      if (nexus !== exceptNexus) this.raiseFor(nexus, condition);
    }
  }

  raiseFor(nexus: number, condition: AttentionCondition): void {
    const bit = bitOf(condition);
    const pending = this.#pending[nexus] as number;
    const resets = (pending | bit) & RESETS;
    // A reset makes everything before it obsolete, and of several resets the gravest is told.
    this.#set(nexus, (bit & RESETS) !== 0 ? resets & -resets : pending | bit);
  }

  clear(nexus: number, condition: AttentionCondition): void {
    this.#set(nexus, (this.#pending[nexus] as number) & ~bitOf(condition));
  }

  /** The next condition to report, which is then no longer pending; `Sense.none` when there is none. */
  take(nexus: number): AttentionCondition | typeof Sense.none {
    const pending = this.#pending[nexus] as number;
    if (pending === 0) return Sense.none;
    const index = 31 - Math.clz32(pending & -pending);
    this.#set(nexus, pending & ~(1 << index));
    return CONDITIONS[index] as AttentionCondition;
  }

  /** By nexus: what is pending. */
  save(): AttentionCondition[][] {
    return [...this.#pending].map((bits) => CONDITIONS.filter((condition) => (bits & bitOf(condition)) !== 0));
  }

  load(record: readonly (readonly number[])[]): void {
    for (let nexus = 0; nexus < this.#pending.length; nexus++) {
      const known = CONDITIONS.filter((condition) => record[nexus]?.includes(condition) === true);
      this.#set(
        nexus,
        known.reduce((bits, condition) => bits | bitOf(condition), 0),
      );
    }
  }

  #set(nexus: number, pending: number): void {
    this.#pending[nexus] = pending;
    this.isAnyPending = this.#pending.some((bits) => bits !== 0);
  }
}

function bitOf(condition: AttentionCondition): number {
  return 1 << CONDITIONS.indexOf(condition);
}

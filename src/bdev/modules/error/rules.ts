/**
 * The faults of an error disk: a table in memory that the main thread writes and every reactor reads. A rule says which
 * requests it is for (type, blocks, how many are in flight), which of those it strikes (each, every n-th, some by
 * chance), how many, and what happens to them. The first rule that strikes decides.
 *
 * Chance is a function of the seed and of how many requests the rule was asked about: the same load, the same faults.
 */
import { assert } from '../../../base/assert.ts';
import { IoType } from '../../bdev-io.ts';

export const Fault = { none: 0, failure: 1, pending: 2, corruptData: 3 } as const;
export type Fault = (typeof Fault)[keyof typeof Fault];

export interface FaultRule {
  readonly types: readonly IoType[];
  readonly fault: Fault;
  /** How many requests are struck. */
  readonly count: number;
  /** Requests in flight on the channel from which on the rule holds. */
  readonly queueDepth: number;
  readonly firstBlock: number;
  /** Past the last one. */
  readonly endBlock: number;
  /** Every n-th. */
  readonly nth: number;
  /** 0 to 1. */
  readonly probability: number;
  readonly seed: number;
  /** For `corruptData`: which byte, and what it is XORed with. */
  readonly corruptOffset: number;
  readonly corruptValue: number;
}

const RULES_MAX = 64;
const RULE_BYTES = 64;
const RULE_INTS = RULE_BYTES / 4;
const RULE_DOUBLES = RULE_BYTES / 8;
/** In front of the rules. Its first word counts how often pending requests were resumed. */
const HEAD_BYTES = 64;
const TWO_32 = 2 ** 32;

/** Words of a rule. The first three doubles lie in front of them. */
const Word = {
  types: 6,
  fault: 7,
  left: 8,
  queueDepth: 9,
  nth: 10,
  seen: 11,
  seed: 12,
  offset: 13,
  value: 14,
} as const;
const Double = { firstBlock: 0, endBlock: 1, probability: 2 } as const;
const NO_CORRUPTION = 0;

export const FAULT_TABLE_BYTES = HEAD_BYTES + RULES_MAX * RULE_BYTES;

export class FaultTable {
  readonly #ints: Int32Array;
  readonly #doubles: Float64Array;
  /** Of the rule that struck last, for `corruptData`. */
  corruptOffset = 0;
  corruptValue = NO_CORRUPTION;

  constructor(memory: SharedArrayBuffer) {
    assert(memory.byteLength === FAULT_TABLE_BYTES, 'a fault table has its size');
    this.#ints = new Int32Array(memory);
    this.#doubles = new Float64Array(memory);
  }

  /** Main thread. One of the same types and blocks is replaced. False when the table is full. */
  add(rule: FaultRule): boolean {
    const mask = rule.types.reduce<number>((bits, type) => bits | (1 << type), 0);
    let free = -1;
    for (let i = 0; i < RULES_MAX; i++) {
      const types = this.#ints[intsOf(i) + Word.types] as number;
      if (types === 0 && free < 0) free = i;
      if (types !== 0 && this.#isSame(i, mask, rule)) {
        free = i;
        break;
      }
    }
    if (free < 0) return false;
    this.#write(free, mask, rule);
    return true;
  }

  /** Main thread. Drops all rules. */
  clear(): void {
    for (let i = 0; i < RULES_MAX; i++) Atomics.store(this.#ints, intsOf(i) + Word.types, 0);
  }

  /** Main thread: what is pending goes on. Reactors see it when they are told of a change. */
  resume(): void {
    Atomics.add(this.#ints, 0, 1);
  }

  get resumes(): number {
    return Atomics.load(this.#ints, 0);
  }

  /** What happens to a request. Any reactor. */
  strike(type: IoType, firstBlock: number, countBlocks: number, inFlight: number): Fault {
    for (let i = 0; i < RULES_MAX; i++) {
      const at = intsOf(i);
      if (((this.#ints[at + Word.types] as number) & (1 << type)) === 0) continue;
      if (inFlight < (this.#ints[at + Word.queueDepth] as number)) continue;
      if (type !== IoType.flush && !this.#touches(i, firstBlock, countBlocks)) continue;
      if (!this.#isChosen(i) || !this.#take(at)) continue;
      this.corruptOffset = this.#ints[at + Word.offset] as number;
      this.corruptValue = this.#ints[at + Word.value] as number;
      return this.#ints[at + Word.fault] as Fault;
    }
    return Fault.none;
  }

  #isSame(i: number, mask: number, rule: FaultRule): boolean {
    const at = doublesOf(i);
    return (
      this.#ints[intsOf(i) + Word.types] === mask &&
      this.#doubles[at + Double.firstBlock] === rule.firstBlock &&
      this.#doubles[at + Double.endBlock] === rule.endBlock
    );
  }

  #write(i: number, mask: number, rule: FaultRule): void {
    const ints = this.#ints;
    const at = intsOf(i);
    Atomics.store(ints, at + Word.types, 0);
    this.#doubles[doublesOf(i) + Double.firstBlock] = rule.firstBlock;
    this.#doubles[doublesOf(i) + Double.endBlock] = rule.endBlock;
    this.#doubles[doublesOf(i) + Double.probability] = rule.probability;
    ints[at + Word.fault] = rule.fault;
    ints[at + Word.left] = Math.min(rule.count, 2 ** 31 - 1);
    ints[at + Word.queueDepth] = rule.queueDepth;
    ints[at + Word.nth] = rule.nth;
    ints[at + Word.seen] = 0;
    ints[at + Word.seed] = rule.seed;
    ints[at + Word.offset] = rule.corruptOffset;
    ints[at + Word.value] = rule.corruptValue;
    // Last: from here on reactors look at the rest.
    if (rule.count > 0) Atomics.store(ints, at + Word.types, mask);
  }

  #touches(i: number, firstBlock: number, countBlocks: number): boolean {
    const at = doublesOf(i);
    const first = this.#doubles[at + Double.firstBlock] as number;
    const end = this.#doubles[at + Double.endBlock] as number;
    return firstBlock < end && firstBlock + countBlocks > first;
  }

  #isChosen(i: number): boolean {
    const at = intsOf(i);
    const seen = Atomics.add(this.#ints, at + Word.seen, 1);
    const nth = this.#ints[at + Word.nth] as number;
    const probability = this.#doubles[doublesOf(i) + Double.probability] as number;
    if ((seen + 1) % nth !== 0) return false;
    return probability === 1 || scramble((this.#ints[at + Word.seed] as number) + seen) / TWO_32 < probability;
  }

  /** Counts one request off; false when the rule has struck often enough. */
  #take(at: number): boolean {
    if (Atomics.sub(this.#ints, at + Word.left, 1) > 0) return true;
    Atomics.store(this.#ints, at + Word.left, 0);
    return false;
  }
}

function intsOf(rule: number): number {
  return HEAD_BYTES / 4 + rule * RULE_INTS;
}

function doublesOf(rule: number): number {
  return HEAD_BYTES / 8 + rule * RULE_DOUBLES;
}

/** Spreads whole numbers over 32 bits so that neighbours have nothing in common. */
function scramble(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x7feb_352d);
  hash = Math.imul(hash ^ (hash >>> 15), 0x846c_a68b);
  return (hash ^ (hash >>> 16)) >>> 0;
}

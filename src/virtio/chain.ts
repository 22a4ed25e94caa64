/**
 * One descriptor chain as a ring hands it out: a private copy of its descriptors, made with one read of each field, so
 * that nothing the guest writes afterwards matters (CVE-2020-14375). Reused for every chain of a reactor.
 */
import { CHAIN_DESCRIPTORS_MAX } from '../base/limits.ts';
import { BUFFER_WORDS, BufferWord, RECORDS, RecordWord } from '../sys/chain-gather.ts';

/** What makes a ring unusable. Whatever is not 0 breaks the queue until its front-end sets it up again. */
export const RingFault = {
  none: 0,
  availIndexJump: 1,
  headOutOfRange: 2,
  headInFlight: 3,
  nextOutOfRange: 4,
  chainTooLong: 5,
  readableAfterWritable: 6,
  indirectWithNext: 7,
  indirectNested: 8,
  indirectLength: 9,
  indirectAddress: 10,
  lengthOverflow: 11,
} as const;
export type RingFault = (typeof RingFault)[keyof typeof RingFault];

/** For the log: what the driver did. */
export const RING_FAULT_TEXT: Readonly<Record<RingFault, string>> = {
  [RingFault.none]: 'no fault',
  [RingFault.availIndexJump]: 'the available index moved by more than the ring holds',
  [RingFault.headOutOfRange]: 'a head index is outside the descriptor table',
  [RingFault.headInFlight]: 'a head was made available again before it was used',
  [RingFault.nextOutOfRange]: 'a next index is outside the descriptor table',
  [RingFault.chainTooLong]: 'a descriptor chain is longer than the ring allows (or loops)',
  [RingFault.readableAfterWritable]: 'a device-readable descriptor follows a device-writable one',
  [RingFault.indirectWithNext]: 'a descriptor has both INDIRECT and NEXT',
  [RingFault.indirectNested]: 'an indirect table contains an indirect descriptor',
  [RingFault.indirectLength]: 'the length of an indirect table is not a multiple of 16, is 0 or is too large',
  [RingFault.indirectAddress]: 'an indirect table is outside the guest memory',
  [RingFault.lengthOverflow]: 'the buffers of a chain are longer than 2^32 bytes',
};

/** `Chain.record` of a chain without one. */
export const NO_RECORD = -1;

const TWO_32 = 2 ** 32;
// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const WORDS = RECORDS;
const { head: HEAD, count: COUNT, readableCount: READABLE_COUNT, buffers: BUFFERS } = RecordWord;
const { readableBytes: READABLE_BYTES, writableBytes: WRITABLE_BYTES } = RecordWord;
const { guestLow: GUEST_LOW, guestHigh: GUEST_HIGH, length: LENGTH } = BufferWord;
const STEP = BUFFER_WORDS;
const HEAD_MASK = 0xffff;
const NONE = NO_RECORD;

export class Chain {
  /** Descriptor index that identifies the chain in the used ring. */
  head = 0;
  /** Buffers in all; the device-readable ones come first. */
  count = 0;
  /** How many of them the device may only read. */
  readableCount = 0;
  readableBytes = 0;
  writableBytes = 0;
  /** Where in `RECORDS` the chain is, until the next round, or `NO_RECORD`. */
  record = NONE;
  /** The buffers are still only in the record. */
  #isFolded = false;
  readonly #addresses: Float64Array;
  readonly #lengths: Uint32Array;

  constructor(descriptorsMax = CHAIN_DESCRIPTORS_MAX) {
    this.#addresses = new Float64Array(descriptorsMax + 1);
    this.#lengths = new Uint32Array(descriptorsMax);
  }

  /** Guest physical address of each buffer, and room for one more: the ring's scratch. */
  get addresses(): Float64Array {
    if (this.#isFolded) this.#unfold();
    return this.#addresses;
  }

  /** Length of each buffer in bytes. */
  get lengths(): Uint32Array {
    if (this.#isFolded) this.#unfold();
    return this.#lengths;
  }

  /** Becomes the chain of a record. */
  setRecord(record: number): void {
    this.head = (WORDS[record + HEAD] as number) & HEAD_MASK;
    this.count = WORDS[record + COUNT] as number;
    this.readableCount = WORDS[record + READABLE_COUNT] as number;
    this.readableBytes = WORDS[record + READABLE_BYTES] as number;
    this.writableBytes = WORDS[record + WRITABLE_BYTES] as number;
    this.record = record;
    this.#isFolded = true;
  }

  /** Becomes one without a record, whose buffers are to be filled in. */
  clearRecord(): void {
    this.record = NONE;
    this.#isFolded = false;
  }

  /** Takes over what another chain holds; there is room for it. */
  copyFrom(other: Chain): void {
    const { count, addresses, lengths } = other;
    for (let i = 0; i < count; i++) {
      this.#addresses[i] = addresses[i] as number;
      this.#lengths[i] = lengths[i] as number;
    }
    this.head = other.head;
    this.count = count;
    this.readableCount = other.readableCount;
    this.readableBytes = other.readableBytes;
    this.writableBytes = other.writableBytes;
    this.clearRecord();
  }

  #unfold(): void {
    this.#isFolded = false;
    for (let i = 0, at = this.record + BUFFERS; i < this.count; i++, at += STEP) {
      this.#addresses[i] =
        ((WORDS[at + GUEST_HIGH] as number) >>> 0) * TWO_32 + ((WORDS[at + GUEST_LOW] as number) >>> 0);
      this.#lengths[i] = WORDS[at + LENGTH] as number;
    }
  }
}

const DESCRIPTOR_BYTES = 16;
/** Where an indirect table that cannot be read in place is copied to; one for all rings of a thread. */
export const INDIRECT_TABLE = new Uint32Array((CHAIN_DESCRIPTORS_MAX * DESCRIPTOR_BYTES) / 4);
export const INDIRECT_TABLE_BYTES = new Uint8Array(INDIRECT_TABLE.buffer);

/** The registers of a controller (NVMe over PCIe 1.0 §3.1), as typed arrays over the mapped BAR. */
import { type MappingInfo, MappingViews } from '../../sys/mapping.ts';

/** Words of the register file. */
const Word = { capLow: 0, capHigh: 1, cc: 5, csts: 7, aqa: 9, asq: 10, acq: 12 } as const;
/** Word of the first doorbell. */
const DOORBELLS = 0x1000 / 4;

export const CSTS_RDY = 1;
export const CSTS_CFS = 2;
const CSTS_SHST = 3 << 2;
const CSTS_SHST_COMPLETE = 2 << 2;
/** What reads of a device give that is not there any more. */
const ALL_ONES = 0xffff_ffff;

const CC_ENABLE = 1;
const CC_SHN_NORMAL = 1 << 14;
/** NVM command set, pages of 4 KiB, round robin, submission entries of 2^6 and completion entries of 2^4 bytes. */
const CC_SETTINGS = (6 << 16) | (4 << 20);

const TO_UNIT_MS = 500;

export interface Capabilities {
  /** Entries of a queue. */
  readonly queueEntriesMax: number;
  /** How long becoming ready may take. */
  readonly readyMs: number;
  /** Distance of doorbells in words. */
  readonly doorbellWords: number;
  /** Whether pages of 4 KiB are possible. */
  readonly hasSmallPages: boolean;
  readonly hasNvmCommands: boolean;
}

export class Registers {
  readonly #words: Uint32Array;
  readonly #views = new MappingViews();

  constructor(memory: MappingInfo) {
    this.#words = new Uint32Array(this.#views.view(memory, 0, memory.lengthBytes));
  }

  get isGone(): boolean {
    return this.status === ALL_ONES;
  }

  get status(): number {
    return this.#words[Word.csts] as number;
  }

  get isEnabled(): boolean {
    return ((this.#words[Word.cc] as number) & CC_ENABLE) !== 0;
  }

  get hasShutDown(): boolean {
    return (this.status & CSTS_SHST) === CSTS_SHST_COMPLETE;
  }

  capabilities(): Capabilities {
    const [low, high] = [this.#words[Word.capLow] as number, this.#words[Word.capHigh] as number];
    return {
      queueEntriesMax: (low & 0xffff) + 1,
      readyMs: Math.max(1, low >>> 24) * TO_UNIT_MS,
      doorbellWords: 1 << (high & 0xf),
      hasSmallPages: ((high >>> 16) & 0xf) === 0,
      hasNvmCommands: (high & (1 << 5)) !== 0,
    };
  }

  setAdminQueues(entries: number, submission: number, completion: number): void {
    const words = this.#words;
    words[Word.aqa] = ((entries - 1) << 16) | (entries - 1);
    setAddress(words, Word.asq, submission);
    setAddress(words, Word.acq, completion);
  }

  enable(): void {
    this.#words[Word.cc] = CC_SETTINGS | CC_ENABLE;
  }

  disable(): void {
    this.#words[Word.cc] = (this.#words[Word.cc] as number) & ~(CC_ENABLE | (3 << 14));
  }

  shutDown(): void {
    this.#words[Word.cc] = ((this.#words[Word.cc] as number) & ~(3 << 14)) | CC_SHN_NORMAL;
  }

  close(): void {
    this.#views.close();
  }
}

function setAddress(words: Uint32Array, at: number, address: number): void {
  words[at] = address % 2 ** 32;
  words[at + 1] = Math.floor(address / 2 ** 32);
}

/** Byte of a queue's submission doorbell; that of its completion doorbell is `doorbellWords * 4` further. */
export function doorbellWord(queue: number, doorbellWords: number): number {
  return DOORBELLS + 2 * queue * doorbellWords;
}

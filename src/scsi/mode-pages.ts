/**
 * Mode pages of a direct-access unit (SPC-4 §7.5, SBC-3 §6.5) as tables: default values and what may be changed. Saving
 * is not supported: a reset brings the defaults back.
 */

export const ModePageCode = { errorRecovery: 0x01, caching: 0x08, control: 0x0a, exceptions: 0x1c, all: 0x3f } as const;
export const ALL_SUBPAGES = 0xff;

/** Byte 2 of the caching page. */
const WCE = 0x04;
/** Byte 2 of the control page. */
const D_SENSE = 0x04;
/** Byte 4 of the control page. */
const SWP = 0x08;

export class ModePage {
  readonly code: number;
  readonly current: Uint8Array;
  readonly changeable: Uint8Array;
  readonly defaults: Uint8Array;

  constructor(code: number, defaults: readonly number[], changeable: Readonly<Record<number, number>>) {
    this.code = code;
    this.defaults = Uint8Array.from([code, defaults.length, ...defaults]);
    this.changeable = new Uint8Array(this.defaults.length);
    this.changeable.set(this.defaults.subarray(0, 2));
    for (const [byte, mask] of Object.entries(changeable)) this.changeable[Number(byte)] = mask;
    this.current = this.defaults.slice();
  }
}

/** Current values, by page. */
export type ModePagesRecord = readonly { readonly code: number; readonly bytes: readonly number[] }[];

export class ModePages {
  /** Ascending by code, as MODE SENSE returns all of them. */
  readonly pages: readonly ModePage[];
  readonly #caching: ModePage;
  readonly #control: ModePage;

  constructor(hasWriteCache: boolean) {
    const wce = hasWriteCache ? WCE : 0;
    this.#caching = new ModePage(
      ModePageCode.caching,
      [wce, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
      { 2: wce },
    );
    // QUEUE ALGORITHM MODIFIER 1: simple commands may be carried out in any order. BUSY TIMEOUT PERIOD: no limit.
    this.#control = new ModePage(ModePageCode.control, [0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0], { 2: D_SENSE, 4: SWP });
    this.pages = [
      new ModePage(ModePageCode.errorRecovery, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0], {}),
      this.#caching,
      this.#control,
      new ModePage(ModePageCode.exceptions, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0], {}),
    ];
  }

  find(code: number): ModePage | undefined {
    return this.pages.find((page) => page.code === code);
  }

  /** Writes may stay in the bdev's cache. */
  get isWriteCacheEnabled(): boolean {
    return ((this.#caching.current[2] as number) & WCE) !== 0;
  }

  get isDescriptorSense(): boolean {
    return ((this.#control.current[2] as number) & D_SENSE) !== 0;
  }

  get isWriteProtected(): boolean {
    return ((this.#control.current[4] as number) & SWP) !== 0;
  }

  save(): ModePagesRecord {
    return this.pages.map(({ code, current }) => ({ code, bytes: [...current] }));
  }

  load(record: ModePagesRecord): void {
    for (const { code, bytes } of record) {
      const page = this.find(code);
      if (page?.current.length === bytes.length) page.current.set(bytes);
    }
  }

  reset(): void {
    for (const page of this.pages) page.current.set(page.defaults);
  }
}

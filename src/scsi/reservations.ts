/**
 * Reservations of one logical unit: RESERVE and RELEASE of SPC-2, and persistent reservations (SPC-4 §5.13). They
 * live in the memory of the target and end with it: no persistence through power loss is claimed.
 */

export const ReservationType = {
  none: 0,
  writeExclusive: 1,
  exclusiveAccess: 3,
  writeExclusiveRegistrants: 5,
  exclusiveAccessRegistrants: 6,
  writeExclusiveAll: 7,
  exclusiveAccessAll: 8,
} as const;
export type ReservationType = (typeof ReservationType)[keyof typeof ReservationType];

/** What a command does to the unit, as far as reservations ask. */
export const AccessKind = {
  /** Allowed whatever is reserved. */
  free: 0,
  /** Allowed under a persistent reservation, not under RESERVE of another nexus. */
  persistentFree: 1,
  read: 2,
  write: 3,
  /** RESERVE and RELEASE: they decide themselves. */
  reserve: 4,
  /** PERSISTENT RESERVE IN and OUT: they decide themselves, and do not mix with RESERVE. */
  persistentReserve: 5,
} as const;
export type AccessKind = (typeof AccessKind)[keyof typeof AccessKind];

export const NO_NEXUS = -1;

/** One registered I_T nexus with its key, 64 bits as two words. */
export interface Registration {
  readonly nexus: number;
  keyHigh: number;
  keyLow: number;
}

export type ReservationRecord = Pick<Reservations, 'reservedBy' | 'generation' | 'registrations' | 'type' | 'holder'>;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const NOBODY = NO_NEXUS;
const NO_TYPE = ReservationType.none;

export class Reservations {
  /** Nexus that holds the SPC-2 reservation. */
  reservedBy = NOBODY;
  /** Changes with every change of registrations. */
  generation = 0;
  /** In the order of registration. */
  registrations: Registration[] = [];
  type: ReservationType = NO_TYPE;
  /** Holder of a reservation that is not for all registrants. */
  holder = NOBODY;

  /** False on the hot path of a unit that nobody reserved. */
  get isInForce(): boolean {
    return this.reservedBy !== NOBODY || this.type !== NO_TYPE;
  }

  save(): ReservationRecord {
    const { reservedBy, generation, registrations, type, holder } = this;
    return { reservedBy, generation, registrations: registrations.map((one) => ({ ...one })), type, holder };
  }

  load(record: ReservationRecord): void {
    this.reservedBy = record.reservedBy;
    this.generation = record.generation;
    this.registrations = record.registrations.map((one) => ({ ...one }));
    this.type = record.type;
    this.holder = record.holder;
  }

  conflicts(nexus: number, access: AccessKind): boolean {
    if (access === AccessKind.free) return false;
    if (this.reservedBy !== NOBODY) {
      if (access === AccessKind.persistentReserve) return true;
      return access !== AccessKind.reserve && nexus !== this.reservedBy;
    }
    if (this.type === NO_TYPE || access === AccessKind.reserve) return false;
    if (access === AccessKind.persistentReserve || access === AccessKind.persistentFree) return false;
    if (this.isHolder(nexus)) return false;
    if (this.isForRegistrants && this.find(nexus) !== undefined) return false;
    return access === AccessKind.write || !isWriteExclusive(this.type);
  }

  find(nexus: number): Registration | undefined {
    return this.registrations.find((registration) => registration.nexus === nexus);
  }

  isHolder(nexus: number): boolean {
    if (this.isForAll) return this.find(nexus) !== undefined;
    return this.type !== NO_TYPE && this.holder === nexus;
  }

  /** All registrants hold it. */
  get isForAll(): boolean {
    return this.type === ReservationType.writeExclusiveAll || this.type === ReservationType.exclusiveAccessAll;
  }

  /** Registrants only, or all registrants: those may access. */
  get isForRegistrants(): boolean {
    return this.type >= ReservationType.writeExclusiveRegistrants;
  }

  reserve(nexus: number, type: ReservationType): void {
    this.type = type;
    this.holder = this.isForAll ? NOBODY : nexus;
  }

  release(): void {
    this.type = NO_TYPE;
    this.holder = NOBODY;
  }

  register(nexus: number, keyHigh: number, keyLow: number): void {
    const registration = this.find(nexus);
    if (registration === undefined) {
      this.registrations.push({ nexus, keyHigh, keyLow });
    } else {
      registration.keyHigh = keyHigh;
      registration.keyLow = keyLow;
    }
  }

  /** True when the reservation ended with it. */
  unregister(nexus: number): boolean {
    const wasHolder = this.isHolder(nexus);
    this.registrations = this.registrations.filter((registration) => registration.nexus !== nexus);
    const ends = wasHolder && (!this.isForAll || this.registrations.length === 0);
    if (ends) this.release();
    return ends;
  }

  bumpGeneration(): void {
    this.generation = (this.generation + 1) >>> 0;
  }
}

/** Type of a PERSISTENT RESERVE OUT CDB, or null when there is no such type. */
export function reservationType(code: number): ReservationType | null {
  const types: readonly number[] = Object.values(ReservationType);
  return code !== NO_TYPE && types.includes(code) ? (code as ReservationType) : null;
}

function isWriteExclusive(type: ReservationType): boolean {
  return (
    type === ReservationType.writeExclusive ||
    type === ReservationType.writeExclusiveRegistrants ||
    type === ReservationType.writeExclusiveAll
  );
}

/** What a logical unit is and knows between commands: identity, geometry, limits, mode pages, reservations. */
import { assert } from '../base/assert.ts';
import { IoType, type IoType as IoTypeValue } from '../bdev/bdev-io.ts';
import type { BdevChannel } from '../bdev/channel.ts';
import { type AttentionCondition, UnitAttentions } from './attention.ts';
import type { BouncePool } from './bounce-pool.ts';
import { ModePages, type ModePagesRecord } from './mode-pages.ts';
import { type AccessKind, type ReservationRecord, Reservations } from './reservations.ts';

/** Bytes moved by one READ, WRITE or VERIFY, so that one command does not hold up a reactor for long. */
export const TRANSFER_BYTES_MAX = 32 * 2 ** 20;
/** Bytes cleared in one go: about a millisecond of a RAM disk. */
export const CLEAR_BYTES_MAX = 32 * 2 ** 20;
/** NUMBER OF LOGICAL BLOCKS of one COMPARE AND WRITE is one byte. */
const COMPARE_BLOCKS_MAX = 255;
/** Blocks of one WRITE SAME: as many as its 10-byte form can say. */
export const WRITE_SAME_BLOCKS_MAX = 65_535;
/** Blocks and descriptors of one UNMAP. */
export const UNMAP_BLOCKS_MAX = 262_144;
export const UNMAP_DESCRIPTORS_MAX = 256;

/** What the initiator sees of a unit; the rest follows from the bdev's channel. */
export interface UnitOptions {
  readonly channel: BdevChannel;
  readonly bounce: BouncePool;
  /** Of the bdev, lower-case with dashes: where the stable designators come from. */
  readonly uuid: string;
  /** PRODUCT IDENTIFICATION, cut to 16 characters: the bdev's product name. */
  readonly productName: string;
  /** T10 VENDOR IDENTIFICATION, cut to 8 characters. */
  readonly vendor?: string;
  /** PRODUCT REVISION LEVEL, cut to 4 characters. */
  readonly revision?: string;
  /** UNIT SERIAL NUMBER. Default: the UUID. */
  readonly serial?: string;
  readonly physicalBlockSizeBytes?: number;
  /** What the bdev's module does itself. */
  readonly ioTypes: readonly IoTypeValue[];
  /** Unmapped blocks read as zeroes. */
  readonly unmapReadsZeroes?: boolean;
  readonly isReadonly?: boolean;
  /** The medium can be ejected by START STOP UNIT. */
  readonly isRemovable?: boolean;
  readonly isRotational?: boolean;
}

const DEFAULT_VENDOR = 'Ringhost';
const DEFAULT_REVISION = '0001';

/** A row of the command table, as REPORT SUPPORTED OPERATION CODES and the documentation see it. */
export interface CommandDescription {
  readonly opcode: number;
  /** -1: the opcode has no service actions. */
  readonly serviceAction: number;
  readonly name: string;
  /** CDB usage data: one byte for each byte of the CDB, the bits that are evaluated. */
  readonly usage: Uint8Array;
  readonly access: AccessKind;
  /** Only for a unit whose bdev unmaps. */
  readonly needsUnmap: boolean;
}

/** The other units of the same target. */
export interface UnitDirectory {
  /** LUNs, ascending. */
  readonly lunNumbers: readonly number[];
  /** The initiator knows of the change: it asked for the list, or one unit told it. */
  lunsReported(nexus: number): void;
}

/** What a unit knows between commands, as it is handed over. */
export interface UnitRecord {
  /** By nexus: conditions to report. */
  readonly attentions: readonly (readonly number[])[];
  readonly modes: ModePagesRecord;
  readonly reservations: ReservationRecord;
  readonly isEjected: boolean;
  readonly prevented: readonly number[];
}

export class UnitState {
  readonly number: number;
  readonly channel: BdevChannel;
  readonly bounce: BouncePool;
  readonly uuid: string;
  readonly productName: string;
  readonly vendor: string;
  readonly revision: string;
  readonly serial: string;
  readonly blockSizeBytes: number;
  /** Logical blocks of a physical block, a power of two. */
  readonly physicalBlocks: number;
  readonly isReadonly: boolean;
  readonly isRemovable: boolean;
  readonly isRotational: boolean;
  readonly canUnmap: boolean;
  readonly canWriteZeroes: boolean;
  readonly unmapReadsZeroes: boolean;
  readonly transferBlocksMax: number;
  readonly compareBlocksMax: number;
  readonly attentions: UnitAttentions;
  readonly modes: ModePages;
  readonly reservations = new Reservations();
  readonly directory: UnitDirectory;
  readonly commands: readonly CommandDescription[];
  readonly nexusCount: number;
  isEjected = false;
  /** By nexus: 1 while it prevents the removal of the medium. */
  readonly prevented: Uint8Array;
  /** By nexus: the name that TransportIDs carry, 8 bytes. */
  readonly nexusNames: readonly Uint8Array[];

  constructor(
    number: number,
    options: UnitOptions,
    directory: UnitDirectory,
    commands: readonly CommandDescription[],
    nexusNames: readonly Uint8Array[],
  ) {
    const { channel } = options;
    const physicalBlocks = (options.physicalBlockSizeBytes ?? channel.blockSizeBytes) / channel.blockSizeBytes;
    assert(channel.blockSizeBytes <= options.bounce.bytesEach, 'a block fits a bounce buffer');
    this.number = number;
    this.channel = channel;
    this.bounce = options.bounce;
    this.uuid = options.uuid;
    this.productName = options.productName;
    this.vendor = options.vendor ?? DEFAULT_VENDOR;
    this.revision = options.revision ?? DEFAULT_REVISION;
    this.serial = options.serial ?? options.uuid;
    this.blockSizeBytes = channel.blockSizeBytes;
    this.physicalBlocks = 2 ** Math.max(0, Math.floor(Math.log2(physicalBlocks)));
    this.isReadonly = options.isReadonly ?? false;
    this.isRemovable = options.isRemovable ?? false;
    this.isRotational = options.isRotational ?? false;
    this.canUnmap = options.ioTypes.includes(IoType.unmap);
    this.canWriteZeroes = options.ioTypes.includes(IoType.writeZeroes);
    this.unmapReadsZeroes = this.canUnmap && (options.unmapReadsZeroes ?? false);
    this.transferBlocksMax = Math.floor(TRANSFER_BYTES_MAX / channel.blockSizeBytes);
    this.compareBlocksMax = Math.min(COMPARE_BLOCKS_MAX, Math.floor(options.bounce.bytesEach / channel.blockSizeBytes));
    this.nexusCount = nexusNames.length;
    this.attentions = new UnitAttentions(this.nexusCount);
    this.prevented = new Uint8Array(this.nexusCount);
    this.modes = new ModePages(channel.hasWriteCache);
    this.directory = directory;
    this.commands = commands;
    this.nexusNames = nexusNames;
  }

  supports(command: CommandDescription): boolean {
    return !command.needsUnmap || this.canUnmap;
  }

  /** In blocks; grows when the bdev does. */
  get blockCount(): number {
    return this.channel.blockCount;
  }

  /** No condition of the unit keeps anybody from its medium. */
  get isOpen(): boolean {
    return !this.attentions.isAnyPending && !this.reservations.isInForce && !this.isEjected;
  }

  get isWriteProtected(): boolean {
    return this.isReadonly || this.modes.isWriteProtected;
  }

  get isRemovalPrevented(): boolean {
    return this.prevented.includes(1);
  }

  /** A write is not stable until a flush: the bdev caches, and the initiator was not told to expect that. */
  get mustFlushWrites(): boolean {
    return this.channel.hasWriteCache && !this.modes.isWriteCacheEnabled;
  }

  /** LOGICAL UNIT RESET: what it brings back (SPC-4 §5.10). */
  reset(): void {
    this.modes.reset();
    this.reservations.reservedBy = -1;
    this.prevented.fill(0);
  }

  /** What ends with an I_T nexus. */
  nexusLost(nexus: number): void {
    if (this.reservations.reservedBy === nexus) this.reservations.reservedBy = -1;
    this.prevented[nexus] = 0;
  }

  raise(condition: AttentionCondition, exceptNexus = -1): void {
    this.attentions.raise(condition, exceptNexus);
  }

  save(): UnitRecord {
    return {
      attentions: this.attentions.save(),
      modes: this.modes.save(),
      reservations: this.reservations.save(),
      isEjected: this.isEjected,
      prevented: [...this.prevented],
    };
  }

  /** In place of all that this one knew. */
  load({ attentions, modes, reservations, isEjected, prevented }: UnitRecord): void {
    this.attentions.load(attentions);
    this.modes.load(modes);
    this.reservations.load(reservations);
    this.isEjected = isEjected;
    this.prevented.set(prevented.slice(0, this.nexusCount));
  }
}

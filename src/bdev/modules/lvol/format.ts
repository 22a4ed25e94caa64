/**
 * A store on its disk (docs/lvol-format.md): where everything is, and how superblocks, checkpoints and blocks of the
 * log are written. Little-endian. Everything has a checksum and the generation that it is of.
 */
import { crc32 } from 'node:zlib';
import { assert } from '../../../base/assert.ts';
import { addr64, type FieldType, struct, u32 } from '../../../base/struct.ts';
import { readUuid, writeUuid } from '../../../base/uuid.ts';
import { CLUSTERS_MAX } from './entries.ts';
import { type LogRecord, RecordKind } from './volumes.ts';

/** Unit of the metadata. A multiple of every block size. */
export const PAGE_BYTES = 4096;
const VERSION = 1;
const SUPERBLOCK_PAGES = 2;
/** What is used of a superblock: a sector, which a disk writes as a whole. */
const SECTOR_BYTES = 512;
const NAME_FIELD_BYTES = 64;
/** In UTF-8. */
export const NAME_BYTES_MAX = NAME_FIELD_BYTES - 1;

export const CLUSTER_BYTES_MIN = 16 * 1024;
export const CLUSTER_BYTES_MAX = 2 ** 30;
const VOLUMES_MIN = 16;
const VOLUMES_MAX = 4096;
const LOG_PAGES_MIN = 32;
const LOG_PAGES_MAX = 1024;
const DATA_ALIGNMENT_MAX = 2 ** 20;

const SUPERBLOCK_MAGIC = 0x534c_4852;
const CHECKPOINT_MAGIC = 0x434c_4852;
const LOG_MAGIC = 0x4c4c_4852;
/** Of each header, in bytes. */
const CRC_AT = 4;

/** A generation is below 2^53: a new one begins with each checkpoint. */
const u53 = addr64;

const uuidField: FieldType<string> = {
  size: 16,
  read(view, offset) {
    return readUuid(Buffer.from(view.buffer, view.byteOffset + offset, 16), 0);
  },
  write(view, offset, value) {
    writeUuid(Buffer.from(view.buffer, view.byteOffset + offset, 16), 0, value);
  },
};

const nameField: FieldType<string> = {
  size: NAME_FIELD_BYTES,
  read(view, offset) {
    const field = Buffer.from(view.buffer, view.byteOffset + offset, NAME_FIELD_BYTES);
    return field.toString('utf8', 0, field.indexOf(0));
  },
  write(view, offset, value) {
    const field = Buffer.from(view.buffer, view.byteOffset + offset, NAME_FIELD_BYTES).fill(0);
    field.write(value, 0, NAME_BYTES_MAX, 'utf8');
  },
};

const Superblock = struct('superblock', 92, {
  ...{ magic: u32, crc: u32, version: u32, blockBytes: u32, generation: u53, uuid: uuidField },
  ...{ clusterBytes: u32, clusterCount: u32, volumesMax: u32, checkpointPages: u32, logPages: u32, dataPage: u32 },
  ...{ half: u32, checkpointBytes: u32, checkpointCrc: u32 },
  ...{ reserved1: u32, reserved2: u32, reserved3: u32, reserved4: u32 },
});

const CheckpointHeader = struct('checkpoint', 88, {
  ...{ magic: u32, volumes: u32, generation: u53, nextId: u32, reserved: u32, name: nameField },
});

const VolumeHeader = struct('volume', 104, {
  ...{ id: u32, parent: u32, clusters: u32, flags: u32, entries: u32, reserved: u32 },
  ...{ uuid: uuidField, name: nameField },
});

const LogHeader = struct('log block', 32, {
  ...{ magic: u32, crc: u32, generation: u53, sequence: u32, records: u32, reserved1: u32, reserved2: u32 },
});

const RecordHeader = struct('record', 16, { kind: u32, a: u32, b: u32, c: u32 });
const RecordText = struct('text of a record', 80, { uuid: uuidField, name: nameField });
/** Records without text that a block of the log has room for. */
const RECORDS_PER_PAGE = (PAGE_BYTES - LogHeader.size) / RecordHeader.size;

export const VolumeFlag = { readonly: 1, thin: 2, snapshot: 4 } as const;

export interface Geometry {
  readonly clusterBytes: number;
  readonly clusterCount: number;
  readonly volumesMax: number;
  /** Of each half: room for a checkpoint, and behind it the log. */
  readonly checkpointPages: number;
  readonly logPages: number;
  /** Where the first cluster is. */
  readonly dataPage: number;
}

export interface SuperblockFields extends Geometry {
  readonly generation: number;
  readonly uuid: string;
  readonly blockBytes: number;
  /** Which of the two halves is in use. */
  readonly half: number;
  readonly checkpointBytes: number;
  readonly checkpointCrc: number;
}

/** Volumes and their clusters, as a checkpoint has them. */
export interface StoredVolume {
  readonly id: number;
  /** 0: none. */
  readonly parent: number;
  readonly clusters: number;
  /** Of `VolumeFlag`. */
  readonly flags: number;
  readonly uuid: string;
  readonly name: string;
  /** Pairs: which cluster of the volume, and its entry (entries.ts). None is inherited. */
  readonly entries: readonly (readonly [logical: number, entry: number])[];
}

export interface Checkpoint {
  readonly generation: number;
  readonly nextId: number;
  readonly name: string;
  readonly volumes: readonly StoredVolume[];
}

/** How a store would be on a disk; no clusters when there is no room for any. */
export function planGeometry(diskBytes: number, clusterBytes: number): Geometry {
  const atMost = Math.floor(diskBytes / clusterBytes);
  const within = (value: number, min: number, max: number): number => Math.min(max, Math.max(min, Math.ceil(value)));
  const volumesMax = within(atMost, VOLUMES_MIN, VOLUMES_MAX);
  const logPages = within(atMost / 4, LOG_PAGES_MIN, LOG_PAGES_MAX);
  // Each cluster once, and as many holes.
  const checkpointBytes = CheckpointHeader.size + volumesMax * VolumeHeader.size + 2 * atMost * 8;
  const checkpointPages = Math.ceil(checkpointBytes / PAGE_BYTES);
  const alignment = Math.min(clusterBytes, DATA_ALIGNMENT_MAX) / PAGE_BYTES;
  const metadataPages = SUPERBLOCK_PAGES + 2 * (checkpointPages + logPages);
  const dataPage = Math.ceil(metadataPages / alignment) * alignment;
  const clusterCount = Math.floor((diskBytes - dataPage * PAGE_BYTES) / clusterBytes);
  return { clusterBytes, clusterCount: Math.max(0, clusterCount), volumesMax, checkpointPages, logPages, dataPage };
}

/** Holes that a store may have, in all volumes together. */
export function holesMax({ clusterCount }: Geometry): number {
  return clusterCount;
}

export function checkpointPage({ checkpointPages, logPages }: Geometry, half: number): number {
  return SUPERBLOCK_PAGES + half * (checkpointPages + logPages);
}

export function logPage(geometry: Geometry, half: number): number {
  return checkpointPage(geometry, half) + geometry.checkpointPages;
}

/** The copy that a generation is written to: never the one that is valid. */
export function superblockPage(generation: number): number {
  return generation % SUPERBLOCK_PAGES;
}

function seal(page: Uint8Array, lengthBytes: number): void {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  view.setUint32(CRC_AT, 0, true);
  view.setUint32(CRC_AT, crc32(page.subarray(0, lengthBytes)), true);
}

function isSealed(page: Uint8Array, lengthBytes: number): boolean {
  const copy = Uint8Array.from(page.subarray(0, lengthBytes));
  seal(copy, lengthBytes);
  return Buffer.compare(copy, page.subarray(0, lengthBytes)) === 0;
}

export function encodeSuperblock(fields: SuperblockFields): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  const reserved = { reserved1: 0, reserved2: 0, reserved3: 0, reserved4: 0 };
  Superblock.encode({ magic: SUPERBLOCK_MAGIC, crc: 0, version: VERSION, ...fields, ...reserved }, page);
  seal(page, SECTOR_BYTES);
  return page;
}

/** Null: it is none, or it is damaged. A number: it is of this version, which is not known here. */
export function decodeSuperblock(page: Uint8Array): SuperblockFields | number | null {
  const fields = Superblock.decode(page);
  if (fields.magic !== SUPERBLOCK_MAGIC || !isSealed(page, SECTOR_BYTES)) return null;
  return fields.version === VERSION ? fields : fields.version;
}

/** Whether the places that a superblock names are apart, and on the disk. */
export function isPlausible(fields: SuperblockFields, diskBytes: number): boolean {
  const { clusterBytes, clusterCount, dataPage, half } = fields;
  const isSize = clusterBytes >= CLUSTER_BYTES_MIN && (clusterBytes & (clusterBytes - 1)) === 0;
  const isCount = clusterCount > 0 && clusterCount <= CLUSTERS_MAX && half <= 1;
  const isRoom = fields.checkpointBytes <= fields.checkpointPages * PAGE_BYTES && fields.logPages > 0;
  const isApart = dataPage >= checkpointPage(fields, 2);
  return isSize && isCount && isRoom && isApart && dataPage * PAGE_BYTES + clusterCount * clusterBytes <= diskBytes;
}

/** In whole pages; the superblock has its length and checksum. */
export function encodeCheckpoint(checkpoint: Checkpoint): { pages: Uint8Array; lengthBytes: number; crc: number } {
  const { volumes, generation, nextId, name } = checkpoint;
  const count = volumes.reduce((sum, { entries }) => sum + entries.length, 0);
  const lengthBytes = CheckpointHeader.size + volumes.length * VolumeHeader.size + count * 8;
  const pages = new Uint8Array(Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES);
  const view = new DataView(pages.buffer);
  const head = { magic: CHECKPOINT_MAGIC, volumes: volumes.length, generation, nextId, reserved: 0, name };
  CheckpointHeader.encode(head, pages);
  let at = CheckpointHeader.size;
  for (const { entries, ...volume } of volumes) {
    VolumeHeader.encode({ ...volume, entries: entries.length, reserved: 0 }, pages, at);
    at += VolumeHeader.size;
    for (const [logical, entry] of entries) {
      view.setUint32(at, logical, true);
      view.setUint32(at + 4, entry, true);
      at += 8;
    }
  }
  return { pages, lengthBytes, crc: crc32(pages.subarray(0, lengthBytes)) };
}

/** Null: it is damaged. */
export function decodeCheckpoint(pages: Uint8Array, superblock: SuperblockFields): Checkpoint | null {
  const bytes = pages.subarray(0, superblock.checkpointBytes);
  if (crc32(bytes) !== superblock.checkpointCrc) return null;
  const { magic, generation, nextId, name, volumes: count } = CheckpointHeader.decode(bytes);
  if (magic !== CHECKPOINT_MAGIC || generation !== superblock.generation) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const volumes: StoredVolume[] = [];
  let at = CheckpointHeader.size;
  for (let i = 0; i < count; i++) {
    const { entries: entryCount, reserved: _, ...volume } = VolumeHeader.decode(bytes, at);
    at += VolumeHeader.size;
    const entries: [number, number][] = [];
    for (let entry = 0; entry < entryCount; entry++, at += 8) {
      entries.push([view.getUint32(at, true), view.getUint32(at + 4, true)]);
    }
    volumes.push({ ...volume, entries });
  }
  return { generation, nextId, name, volumes };
}

/** A block of the log that is filled: at once for the main thread, again and again in a reactor. */
export class LogPage {
  readonly bytes: Uint8Array;
  count = 0;
  #at = LogHeader.size;

  constructor(bytes: Uint8Array = new Uint8Array(PAGE_BYTES)) {
    assert(bytes.length === PAGE_BYTES, 'a block of the log is a page');
    this.bytes = bytes;
  }

  begin(): void {
    this.bytes.fill(0);
    this.count = 0;
    this.#at = LogHeader.size;
  }

  get hasRoom(): boolean {
    return this.count < RECORDS_PER_PAGE;
  }

  /** What becomes of a cluster of a volume. */
  addMap(id: number, logical: number, entry: number): void {
    this.#add({ kind: RecordKind.map, a: id, b: logical, c: entry });
  }

  add(record: LogRecord): void {
    this.#add(record);
    if (record.uuid === undefined && record.name === undefined) return;
    RecordText.encode({ uuid: record.uuid ?? NO_UUID, name: record.name ?? '' }, this.bytes, this.#at);
    this.#at += RecordText.size;
  }

  end(generation: number, sequence: number): void {
    const head = { magic: LOG_MAGIC, crc: 0, generation, sequence, records: this.count, reserved1: 0, reserved2: 0 };
    LogHeader.encode(head, this.bytes);
    seal(this.bytes, PAGE_BYTES);
  }

  #add({ kind, a, b, c }: Pick<LogRecord, 'kind' | 'a' | 'b' | 'c'>): void {
    RecordHeader.encode({ kind, a, b, c }, this.bytes, this.#at);
    this.#at += RecordHeader.size;
    this.count++;
  }
}

const NO_UUID = '00000000-0000-0000-0000-000000000000';
const WITH_TEXT = new Set<number>([
  RecordKind.create,
  RecordKind.snapshot,
  RecordKind.clone,
  RecordKind.rename,
  RecordKind.renameStore,
]);

/** The records of a block; null when it is not the one that has this place in the log of this generation. */
export function decodeLogPage(page: Uint8Array, generation: number, sequence: number): LogRecord[] | null {
  const head = LogHeader.decode(page);
  if (head.magic !== LOG_MAGIC || head.generation !== generation || head.sequence !== sequence) return null;
  if (!isSealed(page, PAGE_BYTES)) return null;
  const records: LogRecord[] = [];
  let at = LogHeader.size;
  for (let i = 0; i < head.records; i++) {
    const record = RecordHeader.decode(page, at);
    at += RecordHeader.size;
    if (WITH_TEXT.has(record.kind)) {
      records.push({ ...record, ...RecordText.decode(page, at) });
      at += RecordText.size;
    } else records.push(record);
  }
  return records;
}

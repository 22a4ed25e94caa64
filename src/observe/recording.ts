/**
 * Recordings of requests: what a guest asked of its disk and when, without the data. A file is
 *
 *   "RHRECORD"  version u16  0 u16  length u32  JSON of that length (`RecordingHead`)
 *   for each request that succeeded, in the order in which they ended, as variable-length integers (LEB128):
 *     8 x queue + type   start: ns since that of the request before, zigzag   duration: ns
 *     first sector: since the end of the request before, zigzag               length: bytes
 *     of a read, in version 2: 0, or 1 + CRC-32 of what it brought
 *   7   requests   dropped   failed   CRC-32 u32 of all bytes before it
 *
 * Integers of fixed size are little-endian. Sequential requests at depth 1 take about 9 bytes each.
 */
import { crc32 } from 'node:zlib';
import { TargetError } from '../base/errors.ts';
import type { Request } from './trace-events.ts';

/** In the order of their numbers; 7 is the end. */
const TYPES = ['read', 'write', 'flush', 'unmap', 'write_zeroes'] as const;
type RecordedType = (typeof TYPES)[number];

export interface RecordingHead {
  readonly controller: string;
  /** Milliseconds since 1970. */
  readonly startedMs: number;
  /** Size of the disk; 0 when it is not known. */
  readonly diskBytes: number;
  /** What reads brought is added up. */
  readonly hasHashes: boolean;
}

export interface RecordedRequest {
  readonly type: RecordedType;
  readonly queue: number;
  /** Since the first. */
  readonly startNs: number;
  readonly durationNs: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** CRC-32 of what a read brought; null: it is not known. */
  readonly hash: number | null;
}

export interface Recording {
  readonly head: RecordingHead;
  /** By start. */
  readonly requests: readonly RecordedRequest[];
  /** That were not recorded for want of room. */
  readonly dropped: number;
  /** That are left out because they failed, or are of no type that can be replayed. */
  readonly failed: number;
}

const MAGIC = 'RHRECORD';
const VERSION = 1;
const VERSION_WITH_HASHES = 2;
const HEAD_BYTES = 16;
const END = 7;
const CRC_BYTES = 4;
const SECTOR_BYTES = 512;

export class RecordingWriter {
  readonly #write: (bytes: Uint8Array) => void;
  readonly #hasHashes: boolean;
  #crc = 0;
  #count = 0;
  #failed = 0;
  #lastStartNs = -1;
  #lastEndSector = 0;

  constructor(head: RecordingHead, write: (bytes: Uint8Array) => void) {
    this.#write = write;
    this.#hasHashes = head.hasHashes;
    const json = Buffer.from(JSON.stringify(head));
    const fixed = Buffer.alloc(HEAD_BYTES);
    fixed.write(MAGIC, 'latin1');
    fixed.writeUInt16LE(head.hasHashes ? VERSION_WITH_HASHES : VERSION, 8);
    fixed.writeUInt32LE(json.length, 12);
    this.#put(Buffer.concat([fixed, json]));
  }

  /** Requests that were recorded. */
  get count(): number {
    return this.#count;
  }

  add(requests: readonly Request[]): void {
    const bytes: number[] = [];
    for (const request of requests) this.#addOne(bytes, request);
    this.#put(Uint8Array.from(bytes));
  }

  end(dropped: number): void {
    const bytes: number[] = [];
    for (const value of [END, this.#count, dropped, this.#failed]) putInteger(bytes, value);
    this.#put(Uint8Array.from(bytes));
    const crc = Buffer.alloc(CRC_BYTES);
    crc.writeUInt32LE(this.#crc);
    this.#write(crc);
  }

  #addOne(bytes: number[], request: Request): void {
    const { type, queue, startNs, durationNs, offsetBytes, lengthBytes, status, hash } = request;
    const number = TYPES.indexOf(type as RecordedType);
    if (number < 0 || status !== 0) {
      this.#failed++;
      return;
    }
    this.#count++;
    if (this.#lastStartNs < 0) this.#lastStartNs = startNs;
    const sector = Math.floor(offsetBytes / SECTOR_BYTES);
    putInteger(bytes, queue * 8 + number);
    putInteger(bytes, zigzag(startNs - this.#lastStartNs));
    putInteger(bytes, durationNs);
    putInteger(bytes, zigzag(sector - this.#lastEndSector));
    putInteger(bytes, lengthBytes);
    if (this.#hasHashes && type === 'read') putInteger(bytes, hash === null ? 0 : hash + 1);
    this.#lastStartNs = startNs;
    this.#lastEndSector = sector + Math.floor(lengthBytes / SECTOR_BYTES);
  }

  #put(bytes: Uint8Array): void {
    this.#crc = crc32(bytes, this.#crc);
    this.#write(bytes);
  }
}

/** @throws TargetError `EINVAL` that says what is wrong with the file */
export function readRecording(bytes: Uint8Array): Recording {
  const head = readHead(bytes);
  const reader = new IntegerReader(bytes.subarray(0, Math.max(0, bytes.length - CRC_BYTES)), head.endsAt);
  const requests: RecordedRequest[] = [];
  let [startNs, endSector] = [0, 0];
  let code = reader.next();
  while (code !== END) {
    startNs += unzigzag(reader.next());
    const durationNs = reader.next();
    const sector = endSector + unzigzag(reader.next());
    const lengthBytes = reader.next();
    const type = TYPES[code % 8];
    if (type === undefined || sector < 0) throw damaged();
    const hash = head.value.hasHashes && type === 'read' ? reader.next() : 0;
    requests.push({
      ...{ type, queue: Math.floor(code / 8), startNs, durationNs },
      ...{ offsetBytes: sector * SECTOR_BYTES, lengthBytes, hash: hash === 0 ? null : hash - 1 },
    });
    endSector = sector + Math.floor(lengthBytes / SECTOR_BYTES);
    code = reader.next();
  }
  const [count, dropped, failed] = [reader.next(), reader.next(), reader.next()];
  const crc = new DataView(bytes.buffer, bytes.byteOffset + bytes.length - CRC_BYTES).getUint32(0, true);
  if (!reader.isAtEnd || count !== requests.length || crc32(bytes.subarray(0, -CRC_BYTES)) !== crc) throw damaged();
  requests.sort((a, b) => a.startNs - b.startNs);
  const firstNs = requests[0]?.startNs ?? 0;
  const fromFirst = requests.map((request) => ({ ...request, startNs: request.startNs - firstNs }));
  return { head: head.value, requests: fromFirst, dropped, failed };
}

function readHead(bytes: Uint8Array): { value: RecordingHead; endsAt: number } {
  if (Buffer.from(bytes.subarray(0, MAGIC.length)).toString('latin1') !== MAGIC) {
    throw new TargetError('EINVAL', 'it is not a recording: ringhost record makes one');
  }
  if (bytes.length < HEAD_BYTES) throw cutOff();
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const version = view.getUint16(8, true);
  if (version !== VERSION && version !== VERSION_WITH_HASHES) {
    throw new TargetError('EINVAL', `it has version ${version} of the format, and this program knows 1 and 2`);
  }
  const endsAt = HEAD_BYTES + view.getUint32(12, true);
  if (bytes.length < endsAt) throw cutOff();
  try {
    const json = JSON.parse(Buffer.from(bytes.subarray(HEAD_BYTES, endsAt)).toString());
    return { value: { ...json, hasHashes: version === VERSION_WITH_HASHES }, endsAt };
  } catch {
    throw damaged();
  }
}

class IntegerReader {
  readonly #bytes: Uint8Array;
  #at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  next(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.#bytes[this.#at++];
      if (byte === undefined) throw cutOff();
      value += (byte & 127) * scale;
      if (!Number.isSafeInteger(value)) throw damaged();
      if (byte < 128) return value;
    }
  }
}

function cutOff(): TargetError {
  return new TargetError('EINVAL', 'it ends in the middle: its recording was killed, or the file was cut off');
}

function damaged(): TargetError {
  return new TargetError('EINVAL', 'it is damaged: what it holds is not what was recorded');
}

function putInteger(bytes: number[], value: number): void {
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
}

/** Small numbers of either sign become small numbers. */
function zigzag(value: number): number {
  return value < 0 ? -value * 2 - 1 : value * 2;
}

function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}

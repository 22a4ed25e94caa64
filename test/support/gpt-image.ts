/** Images of disks with a GUID partition table, well-formed or with whatever a test wants in them. */
import { crc32 } from 'node:zlib';

/** Of the entry's fields, in the order of the disk. */
export interface GptEntry {
  readonly type: string;
  readonly guid: string;
  readonly first: number;
  readonly last: number;
  readonly name?: string;
}

/** Fields of a header that are not what they should be. */
type HeaderFields = Partial<
  Record<'ownBlock' | 'firstUsable' | 'lastUsable' | 'entriesBlock' | 'entryCount' | 'entryBytes' | 'bytes', number>
>;

export interface GptImageParams {
  readonly entries: readonly GptEntry[];
  readonly blocks?: number;
  readonly blockBytes?: number;
  /** Of both copies, or of one of them. */
  readonly fields?: HeaderFields;
  readonly primary?: HeaderFields;
  readonly backup?: HeaderFields;
}

const ENTRY_BYTES = 128;
const ENTRIES = 128;
export const LINUX_TYPE = '0fc63daf-8483-4772-8e79-3d69d8477de4';
export const SPDK_TYPE = '6527994e-2c5a-4eec-9613-8f5944074e8b';

export function gptImage(params: GptImageParams): Buffer {
  const { entries, blocks = 256, blockBytes = 512, fields, primary, backup } = params;
  const image = Buffer.alloc(blocks * blockBytes);
  image[446 + 4] = 0xee;
  image.writeUInt32LE(1, 446 + 8);
  image.writeUInt32LE(blocks - 1, 446 + 12);
  image.writeUInt16LE(0xaa55, 510);
  const arrayBlocks = (ENTRIES * ENTRY_BYTES) / blockBytes;
  const usable = { firstUsable: 2 + arrayBlocks, lastUsable: blocks - 2 - arrayBlocks };
  const last = blocks - 1;
  const first = { ...usable, ownBlock: 1, otherBlock: last, entriesBlock: 2, ...fields, ...primary };
  const second = {
    ...{ ...usable, ownBlock: last, otherBlock: 1, entriesBlock: last - arrayBlocks },
    ...{ ...fields, ...backup },
  };
  writeCopy(image, blockBytes, 1, entries, first);
  writeCopy(image, blockBytes, last, entries, second);
  return image;
}

function writeCopy(
  image: Buffer,
  blockBytes: number,
  at: number,
  entries: readonly GptEntry[],
  fields: HeaderFields & { otherBlock: number; firstUsable: number; lastUsable: number; entriesBlock: number },
): void {
  const { ownBlock = at, entryCount = ENTRIES, entryBytes = ENTRY_BYTES, bytes = 92 } = fields;
  const array = Buffer.alloc(ENTRIES * ENTRY_BYTES);
  for (const [i, { type, guid, first, last, name = '' }] of entries.entries()) {
    const entry = array.subarray(i * ENTRY_BYTES, (i + 1) * ENTRY_BYTES);
    writeGuid(entry, 0, type);
    writeGuid(entry, 16, guid);
    entry.writeBigUInt64LE(BigInt(first), 32);
    entry.writeBigUInt64LE(BigInt(last), 40);
    entry.write(name, 56, 72, 'utf16le');
  }
  // Where a test puts it nowhere, it is where it belongs.
  const arrayAt = fields.entriesBlock * blockBytes;
  if (arrayAt + array.length <= image.length) array.copy(image, arrayAt);
  const header = image.subarray(at * blockBytes, (at + 1) * blockBytes);
  header.write('EFI PART', 'latin1');
  header.writeUInt32LE(0x0001_0000, 8);
  header.writeUInt32LE(bytes, 12);
  header.writeBigUInt64LE(BigInt(ownBlock), 24);
  header.writeBigUInt64LE(BigInt(fields.otherBlock), 32);
  header.writeBigUInt64LE(BigInt(fields.firstUsable), 40);
  header.writeBigUInt64LE(BigInt(fields.lastUsable), 48);
  writeGuid(header, 56, '01020304-0506-0708-090a-0b0c0d0e0f10');
  header.writeBigUInt64LE(BigInt(fields.entriesBlock), 72);
  header.writeUInt32LE(entryCount, 80);
  header.writeUInt32LE(entryBytes, 84);
  header.writeUInt32LE(crc32(array), 88);
  sealHeader(header);
}

/** Makes the checksum of a header right, whatever else is in it. */
export function sealHeader(header: Buffer): void {
  header.writeUInt32LE(0, 16);
  header.writeUInt32LE(crc32(header.subarray(0, header.readUInt32LE(12))), 16);
}

function writeGuid(bytes: Buffer, at: number, text: string): void {
  const plain = Buffer.from(text.replaceAll('-', ''), 'hex');
  plain.copy(bytes, at);
  bytes.writeUInt32LE(plain.readUInt32BE(0), at);
  bytes.writeUInt16LE(plain.readUInt16BE(4), at + 4);
  bytes.writeUInt16LE(plain.readUInt16BE(6), at + 6);
}

/**
 * The GUID partition table of a disk (UEFI Specification 2.10, section 5.3). What is on a disk was perhaps written by a
 * guest, by another program or by chance: nothing of it is used before it was checked, and a table that contradicts
 * itself is refused as a whole.
 */
import { crc32 } from 'node:zlib';
import { TargetError } from '../../../base/errors.ts';

/** Reads blocks of the disk. */
export type ReadBlocks = (firstBlock: number, blockCount: number) => Promise<Buffer>;

export interface Partition {
  /** From 1, as in the names of partitions. */
  readonly number: number;
  readonly firstBlock: number;
  readonly blockCount: number;
  /** Lower-case UUIDs. */
  readonly typeGuid: string;
  readonly guid: string;
  readonly name: string;
}

export interface PartitionTable {
  readonly diskGuid: string;
  readonly partitions: readonly Partition[];
  /** Why the backup at the end of the disk is used; null: it is not. */
  readonly primaryFault: string | null;
}

/** SPDK's type for its own partitions, and the one before it, which it takes to be one block shorter than they are. */
const SPDK_OLD_TYPE = '7c5222bd-8f5d-4087-9c00-bf9843c7b58c';
const UNUSED_TYPE = '00000000-0000-0000-0000-000000000000';

const PRIMARY_BLOCK = 1;
const HEADER_BYTES_MIN = 92;
const HEADER_CRC_AT = 16;
const ENTRY_BYTES_MIN = 128;
/** Tools make 128 entries of 128 bytes. */
const ENTRIES_MAX = 1024;
const ENTRY_BYTES_MAX = 1024;
const MBR_SIGNATURE = 0xaa55;
const PROTECTIVE_TYPE = 0xee;

interface Header {
  readonly ownBlock: number;
  readonly firstUsable: number;
  readonly lastUsable: number;
  readonly diskGuid: string;
  readonly entriesBlock: number;
  readonly entryCount: number;
  readonly entryBytes: number;
  readonly entriesCrc: number;
}

/** What is wrong with one of the two copies of a table. */
class Fault extends Error {}

/** Throws `EINVAL` when there is no table, or none that can be used, and whatever `read` throws. */
export async function readPartitionTable(
  read: ReadBlocks,
  blockSizeBytes: number,
  blockCount: number,
): Promise<PartitionTable> {
  if (blockCount < 6) throw invalid('the disk is too small for a partition table');
  checkProtectiveMbr(await read(0, 1));
  const disk = { read, blockSizeBytes, blockCount };
  const primary = await readCopy(disk, PRIMARY_BLOCK);
  if (!(primary instanceof Fault)) return { ...primary, primaryFault: null };
  const backup = await readCopy(disk, blockCount - 1);
  if (backup instanceof Fault) {
    throw invalid(`its table: ${primary.message}; the backup at its end: ${backup.message}`);
  }
  return { ...backup, primaryFault: primary.message };
}

/** Without it the disk is one of a program that knows nothing of what follows, which is then of another time. */
function checkProtectiveMbr(block: Buffer): void {
  const isMbr = block.readUInt16LE(510) === MBR_SIGNATURE;
  if (isMbr && [446, 462, 478, 494].some((at) => block[at + 4] === PROTECTIVE_TYPE)) return;
  const found = isMbr ? 'an MBR partition table only' : 'no partition table';
  throw invalid(`there is ${found}: make a GPT on it first, as with "sgdisk -n 0:0:0"`);
}

interface Disk {
  readonly read: ReadBlocks;
  readonly blockSizeBytes: number;
  readonly blockCount: number;
}

async function readCopy(disk: Disk, block: number): Promise<Omit<PartitionTable, 'primaryFault'> | Fault> {
  try {
    const header = checkHeader(await disk.read(block, 1), block, disk);
    const arrayBytes = header.entryCount * header.entryBytes;
    const blocks = Math.ceil(arrayBytes / disk.blockSizeBytes);
    checkPlaces(header, blocks, disk.blockCount);
    const array = (await disk.read(header.entriesBlock, blocks)).subarray(0, arrayBytes);
    if (crc32(array) !== header.entriesCrc) throw new Fault('the checksum of its partitions is wrong');
    return { diskGuid: header.diskGuid, partitions: checkPartitions(array, header) };
  } catch (error) {
    if (error instanceof Fault) return error;
    throw error;
  }
}

function checkHeader(block: Buffer, ownBlock: number, { blockSizeBytes }: Disk): Header {
  if (block.toString('latin1', 0, 8) !== 'EFI PART') throw new Fault('there is none');
  const bytes = block.readUInt32LE(12);
  if (bytes < HEADER_BYTES_MIN || bytes > blockSizeBytes) throw new Fault(`its header is of ${bytes} bytes`);
  const header = Buffer.from(block.subarray(0, bytes));
  const crc = header.readUInt32LE(HEADER_CRC_AT);
  header.writeUInt32LE(0, HEADER_CRC_AT);
  if (crc32(header) !== crc) throw new Fault('the checksum of its header is wrong');
  const revision = header.readUInt32LE(8);
  if (revision >>> 16 !== 1) throw new Fault(`its revision is ${revision >>> 16}, not 1`);
  const found = lbaAt(header, 24);
  if (found !== ownBlock) throw new Fault(`it is for block ${found}, but is in block ${ownBlock}`);
  return {
    ownBlock,
    firstUsable: lbaAt(header, 40),
    lastUsable: lbaAt(header, 48),
    diskGuid: guidAt(header, 56),
    entriesBlock: lbaAt(header, 72),
    entryCount: header.readUInt32LE(80),
    entryBytes: header.readUInt32LE(84),
    entriesCrc: header.readUInt32LE(88),
  };
}

/** The array of entries is on the disk, and not where partitions may be, nor where the headers are. */
function checkPlaces(header: Header, arrayBlocks: number, blockCount: number): void {
  const { firstUsable, lastUsable, entryCount, entryBytes, entriesBlock, ownBlock } = header;
  const isEntrySize = entryBytes >= ENTRY_BYTES_MIN && (entryBytes & (entryBytes - 1)) === 0;
  if (!isEntrySize || entryBytes > ENTRY_BYTES_MAX) throw new Fault(`its entries are of ${entryBytes} bytes`);
  if (entryCount === 0 || entryCount > ENTRIES_MAX) throw new Fault(`it has ${entryCount} entries`);
  const isUsable = firstUsable > PRIMARY_BLOCK && firstUsable <= lastUsable && lastUsable < blockCount;
  if (!isUsable) {
    throw new Fault(`partitions may be in blocks ${firstUsable} to ${lastUsable}, of ${blockCount}`);
  }
  const end = entriesBlock + arrayBlocks;
  const isBefore = entriesBlock > PRIMARY_BLOCK && end <= firstUsable;
  const isBehind = entriesBlock > lastUsable && end <= blockCount;
  if (!isBefore && !isBehind) throw new Fault(`its entries are in blocks ${entriesBlock} to ${end - 1}`);
  if (ownBlock >= entriesBlock && ownBlock < end) throw new Fault('its entries are where its header is');
}

function checkPartitions(array: Buffer, { entryCount, entryBytes, firstUsable, lastUsable }: Header): Partition[] {
  const partitions: Partition[] = [];
  for (let i = 0; i < entryCount; i++) {
    const entry = array.subarray(i * entryBytes, (i + 1) * entryBytes);
    const typeGuid = guidAt(entry, 0);
    if (typeGuid === UNUSED_TYPE) continue;
    const [firstBlock, lastBlock] = [lbaAt(entry, 32), lbaAt(entry, 40)];
    if (firstBlock < firstUsable || lastBlock > lastUsable || firstBlock > lastBlock) {
      throw new Fault(`partition ${i + 1} is in blocks ${firstBlock} to ${lastBlock}`);
    }
    partitions.push({
      number: i + 1,
      firstBlock,
      blockCount: lastBlock - firstBlock + 1,
      typeGuid,
      guid: guidAt(entry, 16),
      name: entry.toString('utf16le', 56, ENTRY_BYTES_MIN).replace(/\0.*$/s, ''),
    });
  }
  checkApart(partitions);
  return partitions.map((one) =>
    one.typeGuid === SPDK_OLD_TYPE && one.blockCount > 1 ? { ...one, blockCount: one.blockCount - 1 } : one,
  );
}

function checkApart(partitions: readonly Partition[]): void {
  const inOrder = partitions.toSorted((one, other) => one.firstBlock - other.firstBlock);
  const guids = new Map<string, number>();
  for (const [i, { number, firstBlock, guid }] of inOrder.entries()) {
    const before = inOrder[i - 1];
    if (before !== undefined && before.firstBlock + before.blockCount > firstBlock) {
      throw new Fault(`partitions ${before.number} and ${number} overlap`);
    }
    const twin = guids.get(guid);
    if (twin !== undefined) throw new Fault(`partitions ${twin} and ${number} have the same GUID`);
    guids.set(guid, number);
  }
}

/** Beyond 2^53 it is beyond every disk, too. */
function lbaAt(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at));
}

/** Appendix A: the first three fields are little-endian. */
function guidAt(bytes: Buffer, at: number): string {
  const fields = [
    bytes.readUInt32LE(at).toString(16).padStart(8, '0'),
    bytes
      .readUInt16LE(at + 4)
      .toString(16)
      .padStart(4, '0'),
    bytes
      .readUInt16LE(at + 6)
      .toString(16)
      .padStart(4, '0'),
    bytes.toString('hex', at + 8, at + 10),
    bytes.toString('hex', at + 10, at + 16),
  ];
  return fields.join('-');
}

function invalid(what: string): TargetError {
  return new TargetError('EINVAL', what);
}

/** A FAT16 file system without partitions, with files in its root directory: what firmware boots from. */
import { assert } from '../../../src/base/assert.ts';

const SECTOR = 512;
const SECTORS_PER_CLUSTER = 8;
const CLUSTER = SECTOR * SECTORS_PER_CLUSTER;
const ROOT_ENTRIES = 512;
const ENTRY_BYTES = 32;
const FATS = 2;
const MEDIA = 0xf8;
const END_OF_CHAIN = 0xffff;
/** The number of clusters is what makes it FAT16. */
const CLUSTERS_MIN = 4085;
const CLUSTERS_MAX = 65_524;

/** `files` by their short names, such as `KERNEL.EFI`. */
export function fat16Image(sizeBytes: number, files: Readonly<Record<string, Uint8Array>>): Buffer {
  const sectors = sizeBytes / SECTOR;
  const fatSectors = Math.ceil(((sectors / SECTORS_PER_CLUSTER + 2) * 2) / SECTOR);
  const rootAt = (1 + FATS * fatSectors) * SECTOR;
  const dataAt = rootAt + ROOT_ENTRIES * ENTRY_BYTES;
  const clusters = Math.floor((sizeBytes - dataAt) / CLUSTER);
  assert(clusters >= CLUSTERS_MIN && clusters <= CLUSTERS_MAX, 'the size is one of FAT16');
  const image = Buffer.alloc(sizeBytes);
  writeBootSector(image, sectors, fatSectors);
  const fat = new Uint16Array(2 + clusters);
  fat.set([0xff00 | MEDIA, END_OF_CHAIN]);
  let next = 2;
  for (const [index, [name, data]] of Object.entries(files).entries()) {
    const count = Math.ceil(data.length / CLUSTER);
    assert(next + count <= fat.length && count > 0, 'the files fit');
    writeEntry(image, rootAt + index * ENTRY_BYTES, name, next, data.length);
    image.set(data, dataAt + (next - 2) * CLUSTER);
    for (let i = 0; i < count; i++) fat[next + i] = i + 1 < count ? next + i + 1 : END_OF_CHAIN;
    next += count;
  }
  for (let i = 0; i < FATS; i++) image.set(new Uint8Array(fat.buffer), (1 + i * fatSectors) * SECTOR);
  return image;
}

function writeBootSector(image: Buffer, sectors: number, fatSectors: number): void {
  image.set([0xeb, 0x3c, 0x90]);
  image.write('RINGHOST', 3, 'latin1');
  image.writeUInt16LE(SECTOR, 11);
  image[13] = SECTORS_PER_CLUSTER;
  image.writeUInt16LE(1, 14);
  image[16] = FATS;
  image.writeUInt16LE(ROOT_ENTRIES, 17);
  image[21] = MEDIA;
  image.writeUInt16LE(fatSectors, 22);
  // Sectors of a track, and heads: nobody looks at them.
  image.writeUInt16LE(32, 24);
  image.writeUInt16LE(64, 26);
  image.writeUInt32LE(sectors, 32);
  image.set([0x80, 0, 0x29], 36);
  image.write('NO NAME    FAT16   ', 43, 'latin1');
  image.writeUInt16LE(0xaa55, 510);
}

function writeEntry(image: Buffer, at: number, name: string, cluster: number, sizeBytes: number): void {
  const [base = '', extension = ''] = name.split('.');
  assert(base.length <= 8 && extension.length <= 3, 'a file has a short name');
  image.write(base.padEnd(8) + extension.padEnd(3), at, 'latin1');
  image.writeUInt16LE(cluster, at + 26);
  image.writeUInt32LE(sizeBytes, at + 28);
}

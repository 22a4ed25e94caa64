/**
 * Takes the uncompressed kernel out of a bzImage (Documentation/arch/x86/boot.rst). Given the ELF file, QEMU starts it
 * by the PVH entry point: no firmware, no decompressor, which saves half of a guest's start under TCG.
 */
import { gunzipSync, zstdDecompressSync } from 'node:zlib';

const SETUP_SECTORS_OFFSET = 0x1f1;
const SETUP_SECTORS_DEFAULT = 4;
const HEADER_MAGIC_OFFSET = 0x202;
const HEADER_MAGIC = 0x53726448; // "HdrS"
const PAYLOAD_OFFSET_OFFSET = 0x248;
const SECTOR_BYTES = 512;
/** The kernel's build appends the uncompressed size to the payload, for every format but gzip, which has it already. */
const SIZE_SUFFIX_BYTES = 4;

const MAGIC_GZIP = '1f8b';
const MAGIC_XZ = 'fd377a585a00';
const MAGIC_ZSTD = '28b52ffd';
const MAGIC_LZ4_LEGACY = '02214c18';
const MAGIC_ELF = '7f454c46';

/**
 * @param unxz decompresses xz, which Node has not
 * @throws Error when the file is no bzImage, or packed in a way we cannot unpack
 */
export function extractVmlinux(image: Buffer, unxz: (data: Buffer) => Buffer): Buffer {
  if (image.length < 0x260 || image.readUInt32LE(HEADER_MAGIC_OFFSET) !== HEADER_MAGIC) {
    throw new Error('the kernel image is no bzImage');
  }
  const setupSectors = image[SETUP_SECTORS_OFFSET] || SETUP_SECTORS_DEFAULT;
  const start = (setupSectors + 1) * SECTOR_BYTES + image.readUInt32LE(PAYLOAD_OFFSET_OFFSET);
  const payload = image.subarray(start, start + image.readUInt32LE(PAYLOAD_OFFSET_OFFSET + 4));
  const kernel = decompress(payload, unxz);
  if (!startsWith(kernel, MAGIC_ELF)) throw new Error('the payload of the kernel image is no ELF file');
  return kernel;
}

function decompress(payload: Buffer, unxz: (data: Buffer) => Buffer): Buffer {
  const withoutSize = payload.subarray(0, payload.length - SIZE_SUFFIX_BYTES);
  if (startsWith(payload, MAGIC_GZIP)) return gunzipSync(payload);
  if (startsWith(payload, MAGIC_XZ)) return unxz(withoutSize);
  if (startsWith(payload, MAGIC_ZSTD)) return zstdDecompressSync(withoutSize);
  if (startsWith(payload, MAGIC_LZ4_LEGACY)) {
    return decompressLz4Legacy(withoutSize, payload.readUInt32LE(payload.length - SIZE_SUFFIX_BYTES));
  }
  throw new Error(`the kernel is packed in an unknown format (magic ${payload.toString('hex', 0, 6)})`);
}

function startsWith(data: Buffer, magic: string): boolean {
  return data.toString('hex', 0, magic.length / 2) === magic;
}

/** The "legacy frame" of lz4: blocks, each after its length. */
export function decompressLz4Legacy(data: Buffer, outputBytes: number): Buffer {
  const output = Buffer.alloc(outputBytes);
  let written = 0;
  let at = MAGIC_LZ4_LEGACY.length / 2;
  while (at < data.length) {
    const blockBytes = data.readUInt32LE(at);
    at += 4;
    written = decompressLz4Block(data.subarray(at, at + blockBytes), output, written);
    at += blockBytes;
  }
  if (written !== outputBytes) throw new Error(`lz4: ${written} bytes came out instead of ${outputBytes}`);
  return output;
}

/** A block is a row of sequences: token, literals, distance back, match. The last one has literals only. */
function decompressLz4Block(block: Buffer, output: Buffer, start: number): number {
  let at = 0;
  let written = start;
  const readLength = (nibble: number): number => {
    let length = nibble;
    if (nibble === 15) {
      let byte: number;
      do {
        byte = block[at++] ?? 0;
        length += byte;
      } while (byte === 255);
    }
    return length;
  };
  while (at < block.length) {
    const token = block[at++] ?? 0;
    const literals = readLength(token >> 4);
    output.set(block.subarray(at, at + literals), written);
    at += literals;
    written += literals;
    if (at >= block.length) break;
    const distance = block.readUInt16LE(at);
    at += 2;
    const matchEnd = written + readLength(token & 15) + 4;
    if (distance === 0 || distance > written) throw new Error('lz4: a match starts before the output');
    // A match may overlap what it writes: copy at most `distance` bytes at a time.
    while (written < matchEnd) {
      const length = Math.min(distance, matchEnd - written);
      output.copyWithin(written, written - distance, written - distance + length);
      written += length;
    }
  }
  return written;
}

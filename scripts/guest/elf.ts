/**
 * Reads what a dynamic linker would: the interpreter and the libraries that a 64-bit little-endian ELF file asks for.
 */

const ELF_MAGIC = 0x464c457f;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DYNAMIC_ENTRY_BYTES = 16;

export interface ElfNeeds {
  /** Full path of the dynamic linker, or null for a static program or a library. */
  readonly interpreter: string | null;
  /** File names such as `libc.so.6`. */
  readonly libraries: readonly string[];
}

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly size: number;
}

/** Null when the file is no ELF file (a script, say). */
export function readElfNeeds(file: Buffer): ElfNeeds | null {
  if (file.length < 64 || file.readUInt32LE(0) !== ELF_MAGIC) return null;
  const segments = readSegments(file);
  const interp = segments.find(({ type }) => type === PT_INTERP);
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
  const interpreter = interp === undefined ? null : readString(file, interp.offset);
  if (dynamic === undefined) return { interpreter, libraries: [] };

  const entries: { tag: number; value: number }[] = [];
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.size; at += DYNAMIC_ENTRY_BYTES) {
    entries.push({ tag: readNumber(file, at), value: readNumber(file, at + 8) });
  }
  const strings = entries.find(({ tag }) => tag === DT_STRTAB)?.value ?? 0;
  const load = segments.find(
    ({ type, address, size }) => type === PT_LOAD && strings >= address && strings < address + size,
  );
  if (load === undefined) return { interpreter, libraries: [] };
  const stringsOffset = strings - load.address + load.offset;
  const needed = entries.filter(({ tag }) => tag === DT_NEEDED);
  return { interpreter, libraries: needed.map(({ value }) => readString(file, stringsOffset + value)) };
}

function readSegments(file: Buffer): Segment[] {
  const tableOffset = readNumber(file, 32);
  const entryBytes = file.readUInt16LE(54);
  const count = file.readUInt16LE(56);
  return Array.from({ length: count }, (_, index) => {
    const at = tableOffset + index * entryBytes;
    return {
      type: file.readUInt32LE(at),
      offset: readNumber(file, at + 8),
      address: readNumber(file, at + 16),
      size: readNumber(file, at + 32),
    };
  });
}

function readNumber(file: Buffer, offset: number): number {
  return Number(file.readBigUInt64LE(offset));
}

function readString(file: Buffer, offset: number): string {
  return file.toString('latin1', offset, file.indexOf(0, offset));
}

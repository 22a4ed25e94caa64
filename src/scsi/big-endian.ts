/** Big-endian fields of CDBs and parameter data. 64-bit values are Numbers: exact below 2^53, rounded above. */

const TWO_32 = 2 ** 32;

export function readU16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

export function readU24(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number);
}

export function readU32(bytes: Uint8Array, at: number): number {
  const high = ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
  const low = ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number);
  return high * 65_536 + low;
}

/** A block address. From 2^53 up it is rounded: no such block exists, so it fails the range check as it must. */
export function readU64(bytes: Uint8Array, at: number): number {
  return readU32(bytes, at) * TWO_32 + readU32(bytes, at + 4);
}

export function writeU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

export function writeU64(bytes: Uint8Array, at: number, value: number): void {
  writeU32(bytes, at, Math.floor(value / TWO_32));
  writeU32(bytes, at + 4, value % TWO_32);
}

/** ASCII, cut to `length` or padded with spaces, as identification fields want it. */
export function writeAscii(bytes: Uint8Array, at: number, length: number, text: string): void {
  for (let i = 0; i < length; i++) {
    const code = i < text.length ? text.charCodeAt(i) : 0x20;
    bytes[at + i] = code >= 0x20 && code <= 0x7e ? code : 0x20;
  }
}

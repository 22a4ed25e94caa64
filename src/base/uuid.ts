/** UUIDs as texts and as 16 bytes, in the order in which they are written (RFC 9562 §4). */

/** 32 hexadecimal digits as a UUID. */
export function withDashes(digits: string): string {
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

export function readUuid(bytes: Buffer, at: number): string {
  return withDashes(bytes.toString('hex', at, at + 16));
}

export function writeUuid(bytes: Buffer, at: number, uuid: string): void {
  bytes.write(uuid.replaceAll('-', ''), at, 'hex');
}

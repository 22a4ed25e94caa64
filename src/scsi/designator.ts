/** Names that a unit keeps for ever, derived from the UUID of its bdev. */

/** The 16 bytes of a UUID, in the order in which it is written. */
export function uuidBytes(uuid: string): Uint8Array {
  const digits = uuid.replaceAll('-', '').padStart(32, '0').slice(0, 32);
  return Uint8Array.from({ length: 16 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16) || 0);
}

/**
 * NAA 3, locally assigned (SPC-4 §7.8.6.6.4): 60 bits of the UUID, its halves folded so that UUIDs which differ only in
 * their time or only in their node do not collide.
 */
export function naaDesignator(uuid: string): Uint8Array {
  const bytes = uuidBytes(uuid);
  const name = Uint8Array.from({ length: 8 }, (_, i) => (bytes[i] as number) ^ (bytes[i + 8] as number));
  name[0] = 0x30 | ((name[0] as number) & 0x0f);
  return name;
}

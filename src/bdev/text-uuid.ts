/** UUIDs for disks that have none: the same for the same name of their place, so that a restart changes nothing. */
import { createHash } from 'node:crypto';
import { readUuid } from '../base/uuid.ts';

/** Of UUIDs made from texts (RFC 9562, version 5). */
const NAMESPACE = Buffer.from('6f3c1e7ad0b24c5c9b0e5d1f8a6b7c42', 'hex');

export function uuidOfText(text: string): string {
  const hash = createHash('sha1').update(NAMESPACE).update(text).digest();
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6);
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8);
  return readUuid(hash, 0);
}

/** What requests are checked for before they change anything: sizes, descriptors, and what was negotiated. */
import { TargetError } from '../base/errors.ts';
import type { Message } from './connection.ts';
import type { RegionDescription } from './memory-table.ts';
import {
  ConfigHead,
  hasBit,
  MemoryRegion,
  MemoryTableHead,
  ProtocolFeature,
  type RequestName,
  type RequestSpec,
} from './messages.ts';

/** Throws a TargetError. */
export function checkMessage(
  name: RequestName,
  spec: RequestSpec,
  message: Message,
  hasProtocol: (feature: ProtocolFeature) => boolean,
): void {
  const sizeMin = spec.payload?.size ?? 0;
  const sizeMax = spec.payloadMax ?? sizeMin;
  const { length } = message.payload;
  if (length < sizeMin || length > sizeMax) {
    throw new TargetError('VHOST_MSG_SIZE', `${length} bytes of payload, expected ${sizeMin} to ${sizeMax}`);
  }
  const [fdsMin, fdsMax] = spec.fds;
  if (message.fdCount < fdsMin || message.fdCount > fdsMax) {
    throw new TargetError('VHOST_MSG_FDS', `${message.fdCount} descriptors, expected ${fdsMin} to ${fdsMax}`);
  }
  if (spec.needs !== undefined && !hasProtocol(spec.needs)) {
    throw new TargetError(
      'VHOST_MSG_FEATURE',
      `${name} needs protocol feature ${spec.needs}, which was not negotiated`,
    );
  }
}

/** Of those that a front-end acks. Throws a TargetError. */
export function checkProtocolFeatures(acked: bigint, offered: bigint): void {
  const extra = acked & ~offered;
  if (extra !== 0n) {
    throw new TargetError('VHOST_FEATURES', `protocol features 0x${extra.toString(16)} were acked but never offered`);
  }
  const has = (name: ProtocolFeature): boolean => hasBit(acked, ProtocolFeature[name]);
  if (has('INBAND_NOTIFICATIONS') && !(has('BACKEND_REQ') && has('REPLY_ACK'))) {
    throw new TargetError('VHOST_FEATURES', 'INBAND_NOTIFICATIONS needs BACKEND_REQ and REPLY_ACK');
  }
  if (has('GET_VRING_BASE_INFLIGHT') && !has('INFLIGHT_SHMFD')) {
    throw new TargetError('VHOST_FEATURES', 'GET_VRING_BASE_INFLIGHT needs INFLIGHT_SHMFD');
  }
}

/** The regions of a SET_MEM_TABLE. Throws a TargetError when they are not all there, each with its descriptor. */
export function readMemoryTable(regionCount: number, { payload, fdCount }: Message): RegionDescription[] {
  const head = MemoryTableHead.size;
  if (payload.length < head + regionCount * MemoryRegion.size) {
    throw new TargetError('VHOST_MSG_SIZE', `${payload.length} bytes do not hold ${regionCount} memory regions`);
  }
  if (regionCount === 0) throw new TargetError('VHOST_MEM_TABLE', 'the memory table is empty');
  if (fdCount !== regionCount) {
    throw new TargetError('VHOST_MSG_FDS', `${fdCount} descriptors for ${regionCount} memory regions`);
  }
  return Array.from({ length: regionCount }, (_, i) => MemoryRegion.decode(payload, head + i * MemoryRegion.size));
}

/** What a SET_CONFIG writes. Throws a TargetError when it is not all there. */
export function readConfigBytes(size: number, payload: Uint8Array): Uint8Array {
  const bytes = payload.subarray(ConfigHead.size, ConfigHead.size + size);
  if (bytes.length === size) return bytes;
  throw new TargetError('VHOST_MSG_SIZE', `${bytes.length} bytes of configuration, not ${size}`);
}

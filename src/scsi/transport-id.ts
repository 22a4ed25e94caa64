/**
 * TransportIDs (SPC-4 §7.6.4). virtio-scsi has no format of its own: an initiator port is named as a SAS one, with a
 * locally assigned name.
 */

export const TRANSPORT_ID_BYTES = 24;
const SAS = 0x06;
const NAME_OFFSET = 4;
export const NEXUS_NAME_BYTES = 8;

/** NAA 3 name of the initiator port of a nexus, when the transport gives none. */
export function defaultNexusName(nexus: number): Uint8Array {
  return Uint8Array.from([0x30, 0, 0, 0, 0, 0, (nexus >>> 8) & 0xff, nexus & 0xff]);
}

export function writeTransportId(data: Uint8Array, at: number, name: Uint8Array): void {
  data.fill(0, at, at + TRANSPORT_ID_BYTES);
  data[at] = SAS;
  data.set(name, at + NAME_OFFSET);
}

/** Index of the nexus that a TransportID names, or -1. */
export function findTransportId(data: Uint8Array, at: number, names: readonly Uint8Array[]): number {
  if (data[at] !== SAS) return -1;
  return names.findIndex((name) => name.every((byte, i) => data[at + NAME_OFFSET + i] === byte));
}

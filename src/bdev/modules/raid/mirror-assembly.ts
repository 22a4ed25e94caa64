/**
 * What a mirror is made of: its legs, in their slots, and which of them have the data. With superblocks it is read from
 * the legs, of which the one with the highest sequence number knows best; without, the first leg is right.
 */
import { TargetError } from '../../../base/errors.ts';
import type { BlockAccess } from '../../block-access.ts';
import type { BdevEntry } from '../../registry.ts';
import { uuidOfText } from '../../text-uuid.ts';
import { commonBlockSize } from './block-size.ts';
import { LEGS_MAX, REGIONS_MAX, regionBytesOf } from './mirror-state.ts';
import {
  AREA_BYTES,
  DATA_OFFSET_BYTES,
  decodeOwnHeader,
  decodeSuperblock,
  LegState,
  MAP_BYTES,
  MAP_OFFSET_BYTES,
  type OwnHeader,
  type Superblock,
} from './superblock.ts';

export interface MirrorRequest {
  readonly name: string;
  readonly uuid: string | undefined;
  /** Those that there are, in the order in which they are named. */
  readonly bases: readonly BdevEntry[];
  /** Names of those that there are not. */
  readonly absent: readonly string[];
  readonly hasSuperblock: boolean;
  /** Of a new mirror: more than there are bases, for those that will be added. */
  readonly slots: number | undefined;
  /** Also without legs that were in sync. */
  readonly allowsDegraded: boolean;
}

type SlotState = 'in_sync' | 'rebuilding' | 'missing' | 'failed';

export interface Slot {
  /** Null: there is no leg. */
  base: BdevEntry | null;
  /** Of the leg that is or was there; null: there was none. */
  uuid: string | null;
  state: SlotState;
  /** Why it failed. */
  reason: string | null;
  /** While reactors let go of the leg that was there. */
  leaving: Promise<void> | null;
}

export interface Assembly {
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  readonly slots: Slot[];
  readonly regionBytes: number;
  readonly sequence: number;
  readonly cleanSequence: number;
  /** Regions that may differ; null: any. */
  readonly map: Uint8Array | null;
  /** For the log. */
  readonly remarks: readonly string[];
}

/** What was found on a leg. */
interface Found {
  readonly base: BdevEntry;
  readonly superblock: Superblock;
  readonly own: OwnHeader | null;
  readonly map: Uint8Array;
}

/** Throws `EINVAL`, `ENODEV` when what there is is no mirror. */
export async function assemble(request: MirrorRequest, blocks: BlockAccess): Promise<Assembly> {
  const { bases, absent, hasSuperblock } = request;
  const [first] = bases;
  if (first === undefined) throw new TargetError('ENODEV', `none of the bdevs is there: ${absent.join(', ')}`);
  commonBlockSize(bases);
  const found = await Promise.all(bases.map((base) => readLeg(base, blocks)));
  const known = found.filter((one): one is Found => one !== null);
  const [one] = known;
  if (one !== undefined && hasSuperblock) return assembleKnown(request, found, known);
  if (one !== undefined) {
    const advice = 'ask for it with superblock, or erase the bdev';
    throw new TargetError('EINVAL', `bdev "${one.base.name}" is of RAID disk "${one.superblock.name}": ${advice}`);
  }
  if (absent.length > 0) {
    const advice = 'for a mirror that begins without a leg, name those there are and give num_base_bdevs';
    throw new TargetError('ENODEV', `there is no bdev "${absent[0]}": ${advice}`);
  }
  return assembleNew(request);
}

/** The part of a leg before its data, decoded. Null: it has no superblock. */
export async function readLeg(base: BdevEntry, blocks: BlockAccess): Promise<Found | null> {
  if (base.sizeBytes <= DATA_OFFSET_BYTES) return null;
  const area = await blocks.read(base, 0, AREA_BYTES / base.bdev.blockSizeBytes);
  const superblock = decodeSuperblock(area, base.name);
  if (superblock === null) return null;
  const map = area.subarray(MAP_OFFSET_BYTES, MAP_OFFSET_BYTES + MAP_BYTES);
  const own = decodeOwnHeader(area);
  return { base, superblock, own: own?.uuid === superblock.uuid ? own : null, map };
}

/** Blocks that a mirror can use of a leg. */
export function usableBlocks({ sizeBytes, bdev }: BdevEntry, hasSuperblock: boolean): number {
  return Math.floor((sizeBytes - (hasSuperblock ? DATA_OFFSET_BYTES : 0)) / bdev.blockSizeBytes);
}

function assembleNew({ name, uuid, bases, slots = bases.length, hasSuperblock }: MirrorRequest): Assembly {
  if (slots > LEGS_MAX) throw new TargetError('EINVAL', `a mirror has at most ${LEGS_MAX} legs, not ${slots}`);
  if (slots < bases.length) {
    throw new TargetError('EINVAL', `num_base_bdevs is ${slots}, and there are ${bases.length} bases`);
  }
  const blockCount = Math.min(...bases.map((base) => usableBlocks(base, hasSuperblock)));
  const blockSizeBytes = (bases[0] as BdevEntry).bdev.blockSizeBytes;
  if (blockCount < 1) throw new TargetError('EINVAL', 'a base is too small: the superblock takes 1 MiB of each');
  return {
    uuid: uuid?.toLowerCase() ?? uuidOfText([name, 'raid1', ...bases.map(({ bdev }) => bdev.uuid)].join(' over ')),
    ...{ blockSizeBytes, blockCount, regionBytes: regionBytesOf(blockCount * blockSizeBytes) },
    slots: Array.from({ length: slots }, (_, i): Slot => {
      const base = bases[i] ?? null;
      const state = base === null ? 'missing' : i === 0 ? 'in_sync' : 'rebuilding';
      return { base, uuid: base?.bdev.uuid ?? null, state, reason: null, leaving: null };
    }),
    ...{ sequence: 0, cleanSequence: Number.MAX_SAFE_INTEGER, map: null, remarks: [] },
  };
}

function assembleKnown(request: MirrorRequest, found: readonly (Found | null)[], known: readonly Found[]): Assembly {
  const { bases, uuid } = request;
  const newest = known.reduce((best, one) => (one.superblock.sequence > best.superblock.sequence ? one : best));
  const { superblock } = newest;
  const title = `RAID disk "${superblock.name}" (${superblock.uuid})`;
  for (const [i, one] of found.entries()) {
    const leg = (bases[i] as BdevEntry).name;
    if (one === null) {
      const advice = `leave it out, and add it with bdev_raid_add_base_bdev`;
      throw new TargetError(
        'EINVAL',
        `bdev "${leg}" has no superblock, as "${newest.base.name}" of ${title} has: ${advice}`,
      );
    }
    if (one.superblock.uuid === superblock.uuid) continue;
    const other = `"${one.superblock.name}" (${one.superblock.uuid})`;
    throw new TargetError('EINVAL', `bdev "${leg}" is of RAID disk ${other}, "${newest.base.name}" of ${title}`);
  }
  if (uuid !== undefined && uuid.toLowerCase() !== superblock.uuid) {
    throw new TargetError('EINVAL', `these bases are of ${title}, not of ${uuid}: leave the UUID out, or erase them`);
  }
  if (superblock.legs.length > LEGS_MAX) throw new TargetError('EINVAL', `${title} has more than ${LEGS_MAX} legs`);
  const remarks: string[] = [];
  const slots = fillSlots(superblock, known, remarks);
  checkComplete(slots, superblock, request, title);
  const inSync = slots.filter(({ state }) => state === 'in_sync');
  const own = newest.own;
  const maps = known.filter(({ base }) => inSync.some((slot) => slot.base === base));
  const isMapKnown = own !== null && maps.every((one) => one.own?.regionBytes === own.regionBytes);
  return {
    ...{ uuid: superblock.uuid, blockSizeBytes: superblock.blockSizeBytes, blockCount: superblock.blockCount, slots },
    regionBytes: isMapKnown ? own.regionBytes : regionBytesOf(superblock.blockCount * superblock.blockSizeBytes),
    sequence: superblock.sequence,
    cleanSequence: isMapKnown ? own.cleanSequence : Number.MAX_SAFE_INTEGER,
    map: isMapKnown ? unionOf(maps.map(({ map }) => map)) : null,
    remarks,
  };
}

function fillSlots(superblock: Superblock, known: readonly Found[], remarks: string[]): Slot[] {
  const slots = superblock.legs.map(({ uuid, state }): Slot => {
    return { base: null, uuid, state: state === LegState.failed ? 'failed' : 'missing', reason: null, leaving: null };
  });
  for (const one of known) {
    const { name } = one.base;
    const number = superblock.legs.findIndex(({ uuid }) => uuid === one.base.bdev.uuid);
    const slot = slots[number];
    const record = superblock.legs[number];
    if (slot === undefined || record === undefined) {
      const uuid = `its UUID ${one.base.bdev.uuid} is not among those of the legs`;
      remarks.push(`bdev ${name} is no leg any more, and is left out: ${uuid}`);
      continue;
    }
    if (record.state === LegState.configured) slot.state = 'in_sync';
    else if (record.isRebuilding) slot.state = 'rebuilding';
    else {
      remarks.push(`bdev ${name} was taken out before, and is left out: bdev_raid_add_base_bdev takes it in again`);
      continue;
    }
    slot.base = one.base;
    slot.uuid = one.base.bdev.uuid;
  }
  return slots;
}

function checkComplete(slots: readonly Slot[], superblock: Superblock, request: MirrorRequest, title: string): void {
  if (!slots.some(({ state }) => state === 'in_sync')) {
    const advice = 'it has to be made of at least one that was';
    throw new TargetError('EINVAL', `none of these bases was in sync when ${title} was last in use: ${advice}`);
  }
  const lost = slots.findIndex(({ base }, i) => base === null && superblock.legs[i]?.state === LegState.configured);
  if (lost < 0 || request.allowsDegraded) return;
  const which = request.absent.length > 0 ? ` (${request.absent.join(', ')}?)` : '';
  const text =
    `leg ${lost} of ${title} is not there${which}, and was in sync when the others were last written: it may have ` +
    'newer data. Bring it back or, if it is lost for good, say so with allow_degraded';
  throw new TargetError('ENODEV', text);
}

function unionOf(maps: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(MAP_BYTES);
  for (const map of maps) for (let i = 0; i < all.length; i++) all[i] = (all[i] as number) | (map[i] as number);
  return all;
}

export function isMarked(map: Uint8Array, region: number): boolean {
  return region < REGIONS_MAX && ((map[region >>> 3] as number) & (1 << (region & 7))) !== 0;
}

/** Every fuzzer, by name. */
import type { Fuzzer } from './fuzzer.ts';
import { blk } from './fuzzers/blk.ts';
import { canary, canaryRace } from './fuzzers/canary.ts';
import { cdb } from './fuzzers/cdb.ts';
import { config } from './fuzzers/config.ts';
import { packedRing } from './fuzzers/packed-ring.ts';
import { rpc } from './fuzzers/rpc.ts';
import { scsi } from './fuzzers/scsi.ts';
import { splitRing } from './fuzzers/split-ring.ts';
import { vhostUserBytes, vhostUserMessages } from './fuzzers/vhost-user.ts';

export const FUZZERS: readonly Fuzzer[] = [
  vhostUserMessages,
  vhostUserBytes,
  splitRing,
  packedRing,
  blk,
  scsi,
  cdb,
  rpc,
  config,
  canary,
  canaryRace,
];

/** All kinds of scenarios, in the order of the report. */
import { CORES_SCENARIOS } from './cores.ts';
import { FOOTPRINT_SCENARIOS } from './footprint.ts';
import { IDLE_SCENARIOS } from './idle.ts';
import { LOAD_SCENARIOS } from './load.ts';
import { PACKED_SCENARIOS } from './packed.ts';
import type { Scenario } from './scenario.ts';
import { STORAGE_SCENARIOS } from './storage.ts';
import { TRACKING_SCENARIOS } from './tracking.ts';

export const SCENARIOS: readonly Scenario[] = [
  ...LOAD_SCENARIOS,
  ...STORAGE_SCENARIOS,
  ...FOOTPRINT_SCENARIOS,
  ...IDLE_SCENARIOS,
  ...CORES_SCENARIOS,
  ...PACKED_SCENARIOS,
  ...TRACKING_SCENARIOS,
];

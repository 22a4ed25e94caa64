/** Limits of the system, each with its source. Relations between them are asserted at load. */
import { assert } from './assert.ts';

/**
 * Descriptors of one chain. Windows' viostor sends up to 515 whatever seg_max says; a ring has at most 1024 entries.
 */
export const CHAIN_DESCRIPTORS_MAX = 1024;

/** seg_max offered to guests, as SPDK and QEMU offer: what fits in a 128-entry ring with header and status. */
export const SEGMENTS_OFFERED = 126;

/** Memory regions of one session with CONFIGURE_MEM_SLOTS: what QEMU's own limit of KVM slots allows. */
export const MEMORY_SLOTS_MAX = 509;

/** Views of guest memory are cut at this size: typed-array indexes above 2^31 are several times slower. */
export const WINDOW_BYTES = 2 ** 30;

/**
 * Chains taken from one queue in one round, so that a busy queue does not starve its neighbours, and so that its driver
 * works on the last round's while we work on this one's: with 128, driver and device took turns; with 32, a round's
 * fixed cost showed (`npm run bench`, depth 128 against the C limit: 0.68 of it for 512 B with 64, 0.59 with 32).
 */
export const CHAINS_PER_ROUND_MAX = 64;

/**
 * A disk that goes: how long its commands in flight may go on before they are aborted, and after how long the call that
 * takes it away is told that the bdev still holds some. Guests give a command 30 s; an operator waits for less.
 */
export const REMOVAL_DRAIN_MS_MAX = 5_000;
export const REMOVAL_MS_MAX = 10_000;

assert(REMOVAL_DRAIN_MS_MAX < REMOVAL_MS_MAX, 'a call is answered after what it can abort was aborted');
assert(SEGMENTS_OFFERED + 2 <= CHAIN_DESCRIPTORS_MAX, 'what is offered is accepted');

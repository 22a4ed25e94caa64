/**
 * The initiator against a back-end that others wrote: what it and the cases get wrong cannot hide behind the same mistake
 * in Ringhost. Needs Debian's package qemu-system-common.
 */
import { describeBlkCases, type KnownDeviations } from './blk-cases.ts';
import { QemuStorageDaemons } from './fixtures/targets.ts';

/** Of qemu-storage-daemon 7.2. */
const DEVIATIONS: KnownDeviations = {};

describeBlkCases(async () => new QemuStorageDaemons(), DEVIATIONS);

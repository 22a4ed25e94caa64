/**
 * The initiator against a back-end that others wrote: what it and the cases get wrong cannot hide behind the same
 * mistake in Ringhost. Needs Debian's package qemu-system-common.
 */
import { describeBlkCases, type KnownDeviations } from './blk-cases.ts';
import { QemuStorageDaemons } from './fixtures/targets.ts';

/** Of qemu-storage-daemon 7.2. */
const DEVIATIONS: KnownDeviations = {
  sometimes: {
    'takes the next front-end after one that vanished with requests in flight':
      'fails an assertion of its own (vhost_user_server_ref, wait_idle)',
    'takes a new memory table under load, with the same regions mapped anew and others added':
      'unmaps memory that requests in flight still use, and fails them with IOERR',
  },
  always: {
    'uses an indirect table that crosses a region border': 'reads garbage from beyond the border',
    'accepts zero-length descriptors in a chain': 'breaks the device on a zero-length buffer',
    'knows no barrier flag in the type of a request': 'masks the legacy barrier flag out of the type',
    'does not count bytes that it did not write as written': 'counts all buffers, also when it fails',
    'tells its serial in 20 bytes padded by NUL': 'writes one NUL and leaves the rest of the 20 bytes as they were',
    'takes many ranges in one WRITE_ZEROES, however they are cut': 'offers one segment a request',
    'takes many ranges in one DISCARD': 'offers one segment a request',
    'takes a chain whose last descriptor is an indirect table':
      'looks for an indirect table in the first descriptor only',
    'looks at a ring when it is enabled, without a kick': 'waits for a kick',
    'leaves a kicked ring alone while it is disabled': 'serves disabled rings',
    'serves a ring without a call descriptor': 'breaks the device when it cannot call',
    'polls a ring without a kick descriptor': 'never looks at such a ring',
    'runs over the end of the 16-bit indices, from base 0xFFF0, with EVENT_IDX':
      'does not set avail_event when a ring starts',
    'shows a sane configuration': 'offers SIZE_MAX with size_max 0',
    'answers GET_CONFIG with as many bytes as asked, from the offset asked': 'ignores the offset',
    'answers GET_CONFIG past its own fields with zeroes': 'refuses more than 60 bytes',
    'lets the driver change nothing else of the configuration': 'acks as done what it did not do',
    'tells the driver of a new size, and serves it': 'announces no changes (later versions do)',
    'refuses rings of a size that none has': 'takes any size',
    'refuses ring addresses that are misaligned or outside the memory': 'does not check the descriptor table',
    'refuses features that it did not offer': 'takes any features',
    'can be set up again after RESET_DEVICE': 'does not offer RESET_DEVICE',
    'begins anew when the device status is set to 0, and keeps the status that it was told': 'does not offer STATUS',
    'is kicked and calls by messages alone with INBAND_NOTIFICATIONS': 'does not offer INBAND_NOTIFICATIONS',
    'completes requests in the order in which they came when IN_ORDER was acked': 'does not offer IN_ORDER',
  },
};

describeBlkCases('split', async () => new QemuStorageDaemons(), DEVIATIONS);

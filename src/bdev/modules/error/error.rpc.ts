/** The RPC methods of error disks. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers, Params } from '../../../rpc/methods.ts';
import { GUEST_IO_TYPES, IoType } from '../../bdev-io.ts';
import type { BdevRegistry } from '../../registry.ts';
import { bdevOf } from '../../stacked.ts';
import { ErrorBdev } from './error.ts';
import { Fault } from './rules.ts';

type ErrorHandlers = Pick<
  Handlers,
  'bdev_error_create' | 'bdev_error_delete' | 'bdev_error_inject_error' | 'bdev_error_resume_pending'
>;

/** As SPDK has it. */
const NAME_PREFIX = 'EE_';

/** A request that lacks memory is one that failed: nothing here would try it again. */
const FAULT_BY_NAME = {
  failure: Fault.failure,
  nomem: Fault.failure,
  pending: Fault.pending,
  corrupt_data: Fault.corruptData,
} as const;

const TYPES_BY_NAME = {
  read: [IoType.read],
  write: [IoType.write],
  unmap: [IoType.unmap],
  flush: [IoType.flush],
  write_zeroes: [IoType.writeZeroes],
  all: GUEST_IO_TYPES,
} as const;

export function errorRpc(registry: BdevRegistry): ErrorHandlers {
  const find = (name: string): ErrorBdev => bdevOf(registry.get(name), ErrorBdev, 'an error disk');
  return {
    bdev_error_create({ base_name: baseName, uuid }) {
      const base = registry.get(baseName);
      const name = `${NAME_PREFIX}${base.name}`;
      registry.create(name, uuid, () => new ErrorBdev({ name, base, uuid }), { bases: [base] });
      return true;
    },

    async bdev_error_delete({ name }) {
      find(name);
      await registry.delete(registry.get(name));
      return true;
    },

    bdev_error_inject_error(params) {
      const bdev = find(params.name);
      if (params.io_type === 'clear') bdev.faults.clear();
      else inject(bdev, params.io_type, params);
      return true;
    },

    async bdev_error_resume_pending({ name }) {
      find(name).faults.resume();
      await registry.changed(registry.get(name));
      return true;
    },
  };
}

function inject(bdev: ErrorBdev, ioType: keyof typeof TYPES_BY_NAME, params: Params<'bdev_error_inject_error'>): void {
  if (params.error_type === 'corrupt_data' && params.corrupt_value === 0) {
    throw new TargetError('EINVAL', 'a byte XORed with 0 stays as it is: give corrupt_value from 1 to 255');
  }
  const firstBlock = params.lba_start ?? 0;
  bdev.inject({
    types: TYPES_BY_NAME[ioType],
    fault: FAULT_BY_NAME[params.error_type],
    count: params.num,
    queueDepth: params.queue_depth,
    firstBlock,
    endBlock: params.lba_count === undefined ? Number.POSITIVE_INFINITY : firstBlock + params.lba_count,
    nth: params.nth,
    probability: params.probability,
    seed: params.seed,
    corruptOffset: params.corrupt_offset,
    corruptValue: params.corrupt_value,
  });
}

/** The RPC methods of jobs, and the jobs that are done to any bdev: erasing and copying. */
import { TargetError } from '../base/errors.ts';
import type { Handlers, Result } from '../rpc/methods.ts';
import { IoType } from './bdev-io.ts';
import type { BlockAccess, Transfer } from './block-access.ts';
import type { Job, JobSpec, Jobs } from './jobs.ts';
import type { BdevEntry, BdevRegistry, BdevUser } from './registry.ts';

type JobHandlers = Pick<
  Handlers,
  'bdev_get_jobs' | 'bdev_job_cancel' | 'bdev_job_set_options' | 'bdev_erase' | 'bdev_copy'
>;

const NS_PER_MS = 1e6;
const MIB = 2 ** 20;
/** The claim alone: who carries the job out hears of everything. */
const CLAIMANT: BdevUser = { bdevChanged: async () => {}, bdevRemoved: async () => {} };

export function jobsRpc(jobs: Jobs, registry: BdevRegistry, blocks: BlockAccess): JobHandlers {
  /** Claims what is changed until the job has ended. */
  const startTransfer = (spec: Omit<JobSpec, 'bdev' | 'totalBytes'>, transfer: Omit<Transfer, 'ranges'>): number => {
    const { target, source } = transfer;
    const size = (source ?? target).bdev.blockCount;
    const claimant: BdevUser = { ...CLAIMANT };
    target.claim(`a job: ${spec.type}`, claimant);
    const totalBytes = size * target.bdev.blockSizeBytes;
    const job = jobs.start({ ...spec, bdev: target.name, totalBytes }, async (control) => {
      try {
        await blocks.transfer({ ...transfer, ranges: [[0, size]] }, control);
      } finally {
        target.unclaim(claimant);
      }
    });
    return job.id;
  };

  return {
    bdev_get_jobs: ({ id }) => (id === undefined ? jobs.list() : [jobs.get(id)]).map(describe),

    async bdev_job_cancel({ id }) {
      const job = jobs.get(id);
      job.control.cancel();
      await job.ended;
      return true;
    },

    bdev_job_set_options({ id, max_bandwidth_mb_sec: mibPerSec }) {
      jobs.get(id).control.bytesPerSec = mibPerSec * MIB;
      return true;
    },

    bdev_erase({ name, method, max_bandwidth_mb_sec: mibPerSec }) {
      const target = registry.get(name);
      const type = method === 'unmap' ? IoType.unmap : IoType.writeZeroes;
      target.checkClaim('the job');
      checkCan(target, type);
      return startTransfer({ type: 'erase', mibPerSec }, { type, target });
    },

    bdev_copy({ source: from, destination, max_bandwidth_mb_sec: mibPerSec }) {
      const [source, target] = [registry.get(from), registry.get(destination)];
      target.checkClaim('the job');
      checkCan(target, IoType.write);
      checkFit(source, target);
      if (source.bdev.ioTypes.includes(IoType.write)) source.checkClaim('the job');
      return startTransfer({ type: 'copy', source: source.name, mibPerSec }, { type: IoType.write, target, source });
    },
  };
}

function describe(job: Job): Result<'bdev_get_jobs'>[number] {
  const { id, state, error, elapsedNs, control } = job;
  const { type, bdev, source, totalBytes } = job.spec;
  const doneBytes = Math.min(control.doneBytes, totalBytes);
  return {
    ...{ id, type, bdev, ...(source === undefined ? {} : { source }), state, ...(error === null ? {} : { error }) },
    ...{ total_bytes: totalBytes, done_bytes: doneBytes },
    percent: totalBytes === 0 ? 100 : Math.floor((doneBytes / totalBytes) * 100),
    elapsed_ms: Math.round(elapsedNs / NS_PER_MS),
    max_bandwidth_mb_sec: Math.round(control.bytesPerSec / MIB),
  };
}

function checkCan({ name, bdev }: BdevEntry, type: IoType): void {
  if (bdev.ioTypes.includes(type)) return;
  throw new TargetError('ENOTSUP', `bdev "${name}" cannot do that: see its supported_io_types in bdev_get_bdevs`);
}

function checkFit(source: BdevEntry, target: BdevEntry): void {
  if (source === target) throw new TargetError('EINVAL', 'a disk is not copied to itself: name another destination');
  const sizes = `"${source.name}" has ${source.bdev.blockCount} blocks of ${source.bdev.blockSizeBytes} bytes`;
  if (source.bdev.blockSizeBytes !== target.bdev.blockSizeBytes) {
    const own = `"${target.name}" has blocks of ${target.bdev.blockSizeBytes}`;
    throw new TargetError('EINVAL', `both disks need blocks of one size: ${sizes}, ${own}`);
  }
  if (source.bdev.blockCount <= target.bdev.blockCount) return;
  throw new TargetError('EINVAL', `${sizes}, and "${target.name}" only ${target.bdev.blockCount}: take a larger one`);
}

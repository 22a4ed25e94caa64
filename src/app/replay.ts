/** Replays a recording against a vhost-user-blk socket: with as much memory as its requests need, and a report. */
import { existsSync } from 'node:fs';
import { TargetError } from '../base/errors.ts';
import { BlkInitiator } from '../initiator/blk-initiator.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { type ReplayReport, type ReplayRequest, replay, replaySlotBytes } from '../initiator/replay.ts';

export type { ReplayReport, ReplayRequest };

export interface ReplayTarget {
  /** Of a vhost-user-blk target. */
  readonly socketPath: string;
  readonly isAtFullSpeed: boolean;
  /** Requests in flight at most. */
  readonly depth: number;
  readonly signal: AbortSignal;
}

const MEMORY_BYTES_MAX = 2 ** 30;
const OTHER_BYTES = 8 * 2 ** 20;
const QUEUE_SIZE_MIN = 128;

/** @throws TargetError when nobody listens there, the disk is too small, or the target goes away */
export async function replayOn(requests: readonly ReplayRequest[], target: ReplayTarget): Promise<ReplayReport> {
  const { socketPath, depth, isAtFullSpeed, signal } = target;
  if (!existsSync(socketPath))
    throw new TargetError('ENOENT', `${socketPath} does not exist: give a controller's socket`);
  const bytes = OTHER_BYTES + (depth + 1) * replaySlotBytes(requests);
  if (bytes > MEMORY_BYTES_MAX) {
    throw new TargetError('ENOMEM', `--depth ${depth}: with requests as long as these that takes too much memory`);
  }
  const queues = requests.reduce((most, { queue }) => Math.max(most, queue + 1), 1);
  const memory = OwnedMemory.single(bytes);
  const queueSize = Math.max(QUEUE_SIZE_MIN, 2 ** Math.ceil(Math.log2(depth)));
  try {
    const disk = await connect(socketPath, queues, { memory, queueSize, poll: isAtFullSpeed });
    try {
      return await replay(disk, requests, { depth, isAtFullSpeed, signal });
    } finally {
      disk.close();
    }
  } finally {
    memory.close();
  }
}

/** With as many queues as the recording has, or as the target offers. */
async function connect(
  path: string,
  queues: number,
  options: { readonly memory: OwnedMemory; readonly queueSize: number; readonly poll: boolean },
): Promise<BlkInitiator> {
  const disk = await BlkInitiator.connect(path, { ...options, queues: 1 }).catch((error: Error) => {
    if (!(error instanceof TargetError) || error.code !== 'VHOST_CLOSED') throw error;
    const hint = 'give the socket of a vhost-user-blk controller to which no guest is connected';
    throw new TargetError(error.code, `${path}: ${error.message}: ${hint}`, { cause: error });
  });
  const offered = Math.max(1, disk.config.queueCount);
  if (queues === 1 || offered === 1) return disk;
  disk.close();
  return await BlkInitiator.connect(path, { ...options, queues: Math.min(queues, offered) });
}

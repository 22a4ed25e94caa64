/** `ringhost record`: what a guest asks of its disk and when, without the data, in a file for `ringhost replay`. */
import { RecordingWriter } from '../observe/recording.ts';
import { streamRequests } from '../observe/request-stream.ts';
import type { RpcClient } from '../rpc/client.ts';
import { callOf, connectTo, type DaemonAccess } from './daemon-access.ts';
import { OutputFile } from './output-file.ts';
import { parseSeconds } from './quantities.ts';
import { reporting } from './reporting.ts';

/** As typed. */
export interface RecordOptions extends DaemonAccess {
  readonly seconds?: string;
  readonly output: string;
  readonly hash?: boolean;
}

/** Of each reactor; 16 MiB. */
const ENTRIES = 262_144;

/** Resolves with the exit code. */
export function runRecordCommand(controller: string, options: RecordOptions): Promise<number> {
  return reporting('record', async () => {
    await record(controller, options);
    return 0;
  });
}

async function record(controller: string, options: RecordOptions): Promise<void> {
  const seconds = options.seconds === undefined ? undefined : parseSeconds('--seconds', options.seconds);
  const hasHashes = options.hash === true;
  const leaving = new AbortController();
  const leave = (): void => leaving.abort();
  using client = await connectTo(options);
  const head = { controller, startedMs: Date.now(), diskBytes: await diskBytesOf(client, controller), hasHashes };
  const file = new OutputFile(options.output);
  let writer: RecordingWriter | undefined;
  process.on('SIGINT', leave);
  process.on('SIGTERM', leave);
  try {
    const { dropped } = await streamRequests(callOf(client), {
      filter: { controllers: [controller], entries: ENTRIES, hash_reads: hasHashes },
      ...{ seconds, signal: leaving.signal },
      onStarted: () => {
        file.begin();
        writer = new RecordingWriter(head, (bytes) => file.write(bytes));
      },
      onRequests: (requests) => writer?.add(requests),
    });
    writer?.end(dropped);
    process.stderr.write(`${writer?.count ?? 0} requests in ${options.output}, ${dropped} dropped for want of room\n`);
  } finally {
    process.off('SIGINT', leave);
    process.off('SIGTERM', leave);
    file.close();
  }
}

/** Of the first disk of the controller. */
async function diskBytesOf(client: RpcClient, name: string): Promise<number> {
  const [controller] = await client.call('vhost_get_controllers', { name });
  if (controller === undefined) return 0;
  const { backend_specific: backend } = controller;
  const bdevName = 'block' in backend ? backend.block.bdev : backend.scsi[0]?.luns[0]?.bdev_name;
  if (bdevName === null || bdevName === undefined) return 0;
  const [bdev] = await client.call('bdev_get_bdevs', { name: bdevName });
  return bdev === undefined ? 0 : bdev.num_blocks * bdev.block_size;
}

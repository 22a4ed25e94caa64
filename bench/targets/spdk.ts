/**
 * SPDK's vhost target, when BENCH_SPDK names its `vhost` program: one reactor, ordinary pages, the same calls over its
 * RPC socket as Ringhost gets.
 */
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { canConnect, createDisks } from './ringhost.ts';
import { DISK_MIB, launch, makeDirectory, type TargetKind } from './target.ts';

const PROGRAM = process.env.BENCH_SPDK ?? '';
/** Memory of its own: two RAM disks, and its pools. */
const MEMORY_MIB = 2 * DISK_MIB + 1024;

export const SPDK: TargetKind = {
  name: 'spdk vhost',
  unavailable() {
    if (PROGRAM === '') return 'BENCH_SPDK does not name its vhost program';
    try {
      accessSync(PROGRAM, constants.X_OK);
      return null;
    } catch {
      return `BENCH_SPDK=${PROGRAM} is not a program`;
    }
  },
  serves: () => true,
  async start(core) {
    const directory = makeDirectory();
    const socket = join(directory, 'rpc');
    const args = ['-m', `[${core}]`, '--no-huge', '-s', String(MEMORY_MIB), '-S', directory, '-r', socket];
    return await launch({
      name: this.name,
      description: `vhost -m [${core}] --no-huge -s ${MEMORY_MIB} (malloc and null, ${DISK_MIB} MiB)`,
      core,
      directory,
      command: PROGRAM,
      args,
      isUp: () => canConnect(socket),
      configure: () => createDisks(socket),
    });
  },
};

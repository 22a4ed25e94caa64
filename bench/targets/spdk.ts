/**
 * SPDK's vhost target, when BENCH_SPDK names its `vhost` program: one reactor, the same calls over its RPC socket as
 * Ringhost gets, and huge pages where the machine has enough of them.
 */
import { accessSync, constants, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { canConnect, createDisks } from './ringhost.ts';
import { DISK_MIB, launch, makeDirectory, type TargetKind } from './target.ts';

const PROGRAM = process.env.BENCH_SPDK ?? '';
/** Memory of its own: two RAM disks, and its pools. */
const MEMORY_MIB = 2 * DISK_MIB + 512;

function hasHugePages(): boolean {
  const [, free] = /^HugePages_Free: +(\d+)$/m.exec(readFileSync('/proc/meminfo', 'utf8')) ?? [];
  const [, sizeKib] = /^Hugepagesize: +(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8')) ?? [];
  return Number(free) * Number(sizeKib) >= MEMORY_MIB * 1024;
}

export const SPDK: TargetKind = {
  name: 'spdk vhost',
  role: 'peer',
  unavailable() {
    if (PROGRAM === '') return 'BENCH_SPDK does not name its vhost program';
    try {
      accessSync(PROGRAM, constants.X_OK);
      return null;
    } catch {
      return `BENCH_SPDK=${PROGRAM} is not a program`;
    }
  },
  serves: ({ protocol, disk }) => disk === 'ram' || disk === 'null' || (disk === 'file' && protocol === 'blk'),
  async start(place) {
    const directory = makeDirectory();
    const socket = join(directory, 'rpc');
    const pages = hasHugePages() ? ['--huge-unlink'] : ['--no-huge'];
    const own = ['-m', `[${place.target}]`, '--disable-cpumask-locks', '--no-pci', ...pages, '-s', String(MEMORY_MIB)];
    return await launch({
      name: this.name,
      description: `vhost ${own.join(' ')} (malloc and null, ${DISK_MIB} MiB; uring)`,
      place,
      directory,
      command: PROGRAM,
      args: [...own, '-S', directory, '-r', socket],
      isUp: () => canConnect(socket),
      configure: () => createDisks(socket, place.file),
    });
  },
};

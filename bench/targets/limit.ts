/** The limit: a C loop that does nothing but the ring and the copy (bench/limit-main.ts, native/bench/limit.c). */
import { join } from 'node:path';
import { CopyWay } from '../native.ts';
import { areThere, DISK_MIB, launch, makeDirectory, ROOT, socketName, type TargetKind } from './target.ts';

/** A limit that copies in one way. Only one of them is in the tables; the others are for `--only` and for curiosity. */
function limit(name: string, way: keyof typeof CopyWay): TargetKind {
  return {
    name,
    unavailable: () => null,
    serves: ({ protocol }) => protocol === 'blk',
    async start(core) {
      const directory = makeDirectory();
      const path = (disk: 'ram' | 'null'): string => join(directory, socketName({ protocol: 'blk', disk }));
      const sockets = [path('ram'), path('null')];
      const disk = ['--disk-mib', String(DISK_MIB), '--ram', path('ram'), '--null', path('null')];
      return await launch({
        name,
        description: `a C loop that does nothing but the ring and the copy (${way})`,
        core,
        directory,
        command: process.execPath,
        args: [join(ROOT, 'bench/limit-main.ts'), '--core', String(core), '--way', String(CopyWay[way]), ...disk],
        isUp: async () => areThere(sockets),
      });
    },
  };
}

export const LIMIT = limit('C limit', 'prefetch');

/** The limit: a C loop that does nothing but the ring and the copy (bench/limit-main.ts, native/bench/limit.c). */
import { join } from 'node:path';
import { CopyWay } from '../native.ts';
import { areThere, DISK_MIB, launch, makeDirectory, ROOT, socketName, type TargetKind } from './target.ts';

function limit(name: string, way: keyof typeof CopyWay | null): TargetKind {
  return {
    name,
    role: 'limit',
    isExtra: way !== null,
    unavailable: () => null,
    serves: ({ protocol, disk }) => protocol === 'blk' && (disk === 'ram' || disk === 'null'),
    async start(place) {
      const directory = makeDirectory();
      const path = (disk: 'ram' | 'null'): string => join(directory, socketName({ protocol: 'blk', disk }));
      const sockets = [path('ram'), path('null')];
      const disk = ['--disk-mib', String(DISK_MIB), '--ram', path('ram'), '--null', path('null')];
      return await launch({
        name,
        description: `a C loop that does nothing but the ring and the copy (${way ?? 'by the quickest way'})`,
        place,
        directory,
        command: process.execPath,
        args: [
          join(ROOT, 'bench/limit-main.ts'),
          '--core',
          String(place.target),
          ...(way === null ? [] : ['--way', String(CopyWay[way])]),
          ...disk,
        ],
        isUp: async () => areThere(sockets),
      });
    },
  };
}

export const LIMIT = limit('C limit', null);
/** The same by each way to copy, to see that the best was chosen. */
export const LIMIT_VARIANTS = (['memcpy', 'prefetch', 'repMovsb', 'stream'] as const).map((way) =>
  limit(`C limit by ${way}`, way),
);

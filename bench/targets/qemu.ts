/** Debian's qemu-storage-daemon: null-co, a file in memory and one on disk, served by one iothread that polls. */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findOnPath } from '../../scripts/setup/child.mjs';
import {
  areThere,
  DISK_BYTES,
  DISK_MIB,
  launch,
  makeDirectory,
  QUEUES_MAX,
  socketName,
  type TargetKind,
} from './target.ts';

const PROGRAM = 'qemu-storage-daemon';
/** How long the iothread polls before it sleeps: long, so that it never does under load. */
const POLL_MAX_NS = 1_000_000;
/** What it is itself, and what other targets reach through it, is one disk. */
const DISKS = [
  { disk: 'ram', node: 'disk0' },
  { disk: 'null', node: 'disk1' },
  { disk: 'file', node: 'disk2' },
  { disk: 'virtio', node: 'disk0' },
] as const;

export const QEMU_STORAGE_DAEMON: TargetKind = {
  name: PROGRAM,
  role: 'peer',
  unavailable: () =>
    findOnPath(PROGRAM) === null ? 'it is not installed: apt-get install qemu-system-x86 (or -arm)' : null,
  serves: ({ protocol, disk }) => protocol === 'blk' && disk !== 'rbd' && disk !== 'nvme',
  async start(place) {
    const directory = makeDirectory();
    const file = join(directory, 'disk');
    writeFileSync(file, '');
    truncateSync(file, DISK_BYTES);
    const { nbdSocket } = place;
    const nbd = nbdSocket === undefined ? [] : [{ disk: 'nbd', node: 'disk3' } as const];
    const disks = [...DISKS, ...nbd];
    const paths = disks.map(({ disk }) => join(directory, socketName({ protocol: 'blk', disk })));
    const exports = disks.flatMap(({ node }, i) => [
      '--export',
      `type=vhost-user-blk,id=e${i},node-name=${node},addr.type=unix,addr.path=${paths[i]},writable=on,` +
        `num-queues=${QUEUES_MAX},iothread=io`,
    ]);
    return await launch({
      name: PROGRAM,
      description:
        `${PROGRAM}, iothread poll-max-ns=${POLL_MAX_NS} ` +
        `(ram: a file in tmpfs, ${DISK_MIB} MiB; null: null-co read-zeroes=off; file: aio=io_uring,cache.direct=on)`,
      place,
      directory,
      command: 'taskset',
      args: [
        ...['-c', String(place.target), PROGRAM, '--object', `iothread,id=io,poll-max-ns=${POLL_MAX_NS}`],
        ...['--blockdev', `driver=file,node-name=disk0,filename=${file}`],
        ...['--blockdev', `driver=null-co,node-name=disk1,size=${DISK_BYTES},read-zeroes=off`],
        ...[
          '--blockdev',
          `driver=file,node-name=disk2,filename=${place.file},aio=io_uring,cache.direct=on,locking=off`,
        ],
        ...(nbdSocket === undefined
          ? []
          : ['--blockdev', `driver=nbd,node-name=disk3,server.type=unix,server.path=${nbdSocket}`]),
        ...exports,
      ],
      isUp: async () => areThere(paths),
    });
  },
};

/** What the cluster's connections cost a host and an OSD. */
import { Placement } from '../placement.ts';
import { DISKS_PER_HOST, HOSTS, OBJECTS, SHAPE } from '../room.ts';
import { type Answer, count } from './answer.ts';

/** Measured by bench/scaling-ceph.ts, where an OSD's connection was one of three: see docs/scaling.md. */
const COSTS = {
  /** Without sockets to OSDs. */
  daemonDescriptors: 45,
  daemonThreads: 28,
  imageDescriptors: 2,
  /** Of a connection to the cluster: without sockets to OSDs. */
  connectionDescriptors: 11,
  connectionThreads: 16,
  /** Own memory in MiB: without guests, and without what sockets to more than three OSDs take. */
  daemonMib: 115,
  imageMib: 1,
  connectionMib: 1.5,
} as const;

interface Use {
  readonly name: string;
  readonly isShared: boolean;
  /** Objects of each image that were touched. */
  readonly touched: number;
}

const USES: readonly Use[] = [
  { name: 'one connection, 40 objects of each disk touched', isShared: true, touched: 40 },
  { name: 'one connection, all touched', isShared: true, touched: OBJECTS },
  { name: 'a connection each, 40 objects touched', isShared: false, touched: 40 },
  { name: 'a connection each, all touched', isShared: false, touched: OBJECTS },
];

export function askConnections(): Answer {
  const placement = new Placement(SHAPE);
  const osds = SHAPE.nodes * SHAPE.osdsPerNode;
  const primaries = placement.osdsOf.map(([primary]) => primary as number);
  const rows = USES.map(({ name, isShared, touched }) => {
    const ofOsd = new Float64Array(osds);
    let connections = 0;
    for (let host = 0; host < HOSTS; host++) {
      let reached = new Set<number>();
      for (let disk = 0; disk < DISKS_PER_HOST; disk++) {
        const image = host * DISKS_PER_HOST + disk;
        for (let object = 0; object < touched && reached.size < osds; object++) {
          reached.add(primaries[placement.groupOf(image, object)] as number);
        }
        if (isShared && disk < DISKS_PER_HOST - 1) continue;
        for (const osd of reached) ofOsd[osd] = (ofOsd[osd] as number) + 1;
        connections += reached.size;
        reached = new Set();
      }
    }
    const clients = isShared ? 1 : DISKS_PER_HOST;
    const perHost = connections / HOSTS;
    const descriptors =
      COSTS.daemonDescriptors + DISKS_PER_HOST * COSTS.imageDescriptors + (clients - 1) * COSTS.connectionDescriptors;
    const mib = COSTS.daemonMib + DISKS_PER_HOST * COSTS.imageMib + (clients - 1) * COSTS.connectionMib;
    const threads = COSTS.daemonThreads + (clients - 1) * COSTS.connectionThreads;
    return [
      ...[name, count(perHost), count(descriptors + perHost), count(threads)],
      ...[`${mib.toFixed(0)} MiB`, count(Math.max(...ofOsd)), count(HOSTS * clients)],
    ];
  });
  return {
    title: `Connections of ${count(HOSTS)} hosts with ${DISKS_PER_HOST} disks each to ${osds} OSDs`,
    head: [
      ...['', 'connections of a host', 'descriptors', 'threads', 'own memory, at least'],
      ...['connections of the busiest OSD', 'sessions of monitors'],
    ],
    rows,
  };
}

const GROUPS = [1024, 2048, 4096, 8192, 16_384];

export function askGroups(): Answer {
  const osds = SHAPE.nodes * SHAPE.osdsPerNode;
  const rows = GROUPS.map((groups) => {
    const { osdsOf } = new Placement({ ...SHAPE, groups });
    const most = (list: readonly number[]): string => {
      const counts = new Float64Array(osds);
      for (const osd of list) counts[osd] = (counts[osd] as number) + 1;
      return `${((100 * Math.max(...counts) * osds) / list.length - 100).toFixed(0)} %`;
    };
    const copies = osdsOf.flat();
    return [count(groups), count(copies.length / osds), most(osdsOf.map(([one]) => one as number)), most(copies)];
  });
  return {
    title: 'What the busiest OSD has more than the mean, by the number of placement groups',
    head: ['groups', 'copies on an OSD', 'more primaries (reads)', 'more copies (writes, space)'],
    rows,
  };
}

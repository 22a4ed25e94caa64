/**
 * What RBD disks cost their host and the cluster, for docs/scaling.md: `node bench/scaling-ceph.ts [COUNT…]` (1 10 20),
 * on a cluster of its own with three OSDs. Then a daemon is killed that had written to all of them, and starts again.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { BlkInitiator } from '../src/initiator/blk-initiator.ts';
import { CephCluster } from '../test/support/ceph-cluster.ts';
import { CostlyDaemon, show, showHead } from './costly-daemon.ts';
import { cpuTimeNs, MEMORY_DIRECTORY } from './targets/target.ts';

const OSDS = 3;
const IMAGE_MIB = 16;
const COUNTS = [1, 10, 20];
/** Between two maps: as in the tests, and as monitors have it by default. */
const PROPOSE_S = [0.02, 1];
const NO_AUTH = { auth_client_required: 'none', auth_cluster_required: 'none', auth_service_required: 'none' };
const ESTABLISHED = '01';

function configOf(cluster: CephCluster, count: number, isShared: boolean): object {
  const shared = { cluster_name: 'ceph' };
  const own = { config: { mon_host: cluster.monitor, ...NO_AUTH } };
  const numbers = Array.from({ length: count }, (_, i) => i);
  const disks = numbers.map((i) => ({
    method: 'bdev_rbd_create',
    params: {
      ...{ name: `Ceph${i}`, pool_name: 'rbd', rbd_name: `image${i}`, block_size: 512 },
      ...(isShared ? shared : own),
    },
  }));
  const register = { method: 'bdev_rbd_register_cluster', params: { name: 'ceph', config_file: cluster.configFile } };
  const controllers = numbers.map((i) => ({
    method: 'vhost_create_blk_controller',
    params: { ctrlr: `vhost.${i}`, dev_name: `Ceph${i}` },
  }));
  return {
    subsystems: [
      { subsystem: 'bdev', config: [...(isShared ? [register] : []), ...disks] },
      { subsystem: 'vhost_blk', config: controllers },
    ],
  };
}

/** TCP connections of a process. */
function connectionsOf(pid: number): number {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      } catch {
        return undefined; // closed meanwhile
      }
    }),
  );
  const rows = readFileSync(`/proc/${pid}/net/tcp`, 'utf8').trim().split('\n').slice(1);
  const columns = rows.map((row) => row.trim().split(/\s+/));
  return columns.filter(([, , , state, , , , , , inode]) => state === ESTABLISHED && inodes.has(inode)).length;
}

async function writeAll(daemon: CostlyDaemon, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const guest = await BlkInitiator.connect(join(daemon.directory, `vhost.${i}`), { timeoutMs: 60_000 });
    // Objects are 4 MiB: each on OSDs of its own.
    for (let at = 0; at < IMAGE_MIB; at += 4) await guest.write(at * 2048, Buffer.alloc(4096, i));
    guest.close();
  }
}

async function epochOf(cluster: CephCluster): Promise<number> {
  return Number(/^epoch (\d+)$/m.exec(await cluster.ceph('osd dump'))?.[1]);
}

async function watchersOf(cluster: CephCluster, image: string): Promise<number> {
  return (await cluster.rbd('status', image)).split('\n').filter((line) => line.includes('watcher=')).length;
}

/** Requests that its OSDs have served. */
async function requestsOf(cluster: CephCluster): Promise<number> {
  const dumps = cluster.osdPids.map((_, id) => cluster.tell(`osd.${id}`, 'perf', 'dump'));
  return (await Promise.all(dumps)).reduce((sum, dump) => sum + JSON.parse(dump).osd.op, 0);
}

async function measure(cluster: CephCluster, count: number, isShared: boolean): Promise<void> {
  const [requests, monitorNs] = [await requestsOf(cluster), cpuTimeNs(cluster.monitorPid)];
  const daemon = new CostlyDaemon(configOf(cluster, count, isShared));
  try {
    const startMs = await daemon.ready();
    const monitorMs = (cpuTimeNs(cluster.monitorPid) - monitorNs) / 1e6;
    const opened = (await requestsOf(cluster)) - requests;
    await writeAll(daemon, count);
    const cost = await daemon.cost();
    const more = [
      `started in ${(startMs / 1000).toFixed(1)} s`,
      `${opened} requests to OSDs until then, ${monitorMs.toFixed(0)} ms of the monitor`,
      `${connectionsOf(daemon.pid)} TCP connections`,
      `${await watchersOf(cluster, 'image0')} watcher an image`,
    ];
    show(`${count} images, ${isShared ? 'one connection' : 'a connection each'}`, cost, more.join(', '));
  } finally {
    await daemon.stop();
  }
}

/** A daemon is killed that had written to all of its disks; another one starts where it was. */
async function measureKill(cluster: CephCluster, count: number, proposeS: number): Promise<void> {
  const before = await epochOf(cluster);
  const first = new CostlyDaemon(configOf(cluster, count, true));
  await first.ready();
  await writeAll(first, count);
  const served = await epochOf(cluster);
  await first.kill();
  const second = new CostlyDaemon(configOf(cluster, count, true), first);
  const startMs = await second.ready();
  const sinceMs = performance.now();
  await writeAll(second, count);
  const writeMs = performance.now() - sinceMs;
  const after = await epochOf(cluster);
  console.log(
    `${count} images, a monitor that waits ${proposeS} s between epochs: ${served - before} epochs of the OSD map to ` +
      `serve them, ${after - served} after a kill; started again in ${(startMs / 1000).toFixed(1)} s, ` +
      `first writes to all of them ${(writeMs / 1000).toFixed(1)} s`,
  );
  await second.stop();
}

const asked = process.argv.slice(2).map(Number);
const counts = asked.length > 0 ? asked : COUNTS;
const most = Math.max(...counts);
for (const proposeIntervalS of PROPOSE_S) {
  const options = { osds: OSDS, store: 'memory', parent: MEMORY_DIRECTORY, proposeIntervalS } as const;
  const cluster = await CephCluster.start(options);
  try {
    for (let i = 0; i < most; i++) await cluster.createImage(`image${i}`, IMAGE_MIB);
    if (proposeIntervalS === PROPOSE_S[0]) {
      showHead();
      for (const count of counts) await measure(cluster, count, true);
      await measure(cluster, most, false);
    }
    await measureKill(cluster, most, proposeIntervalS);
  } finally {
    await cluster.close();
  }
}

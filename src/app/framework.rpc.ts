/** The RPC methods about the daemon itself. */
import { formatCpumask } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';
import { TICK_RATE } from '../bdev/bdev.rpc.ts';
import type { Handlers, Result } from '../rpc/methods.ts';
import { clockNs } from '../sys/thread.ts';
import { vhostConfig } from '../vhost/vhost.rpc.ts';
import type { Daemon } from './daemon.ts';
import { VERSION } from './version.ts';

type FrameworkMethod =
  | 'framework_get_reactors'
  | 'framework_start_init'
  | 'framework_wait_init'
  | 'framework_get_subsystems'
  | 'framework_get_config'
  | 'log_set_level'
  | 'log_get_level'
  | 'log_set_print_level'
  | 'log_get_print_level'
  | 'spdk_get_version'
  | 'spdk_kill_instance';

const SUBSYSTEMS = [
  { subsystem: 'bdev', depends_on: [] },
  { subsystem: 'vhost_blk', depends_on: ['bdev'] },
  { subsystem: 'vhost_scsi', depends_on: ['bdev'] },
];

/** The calls that make all bdevs again. */
function bdevConfig(daemon: Daemon): Result<'framework_get_config'> {
  const bdevs = daemon.bdevs.list().flatMap(({ bdev }) => {
    const config = bdev.toConfig();
    return 'method' in config ? [{ ...config }] : config.map((call) => ({ ...call }));
  });
  // Disks name the clusters that they are on.
  return [...daemon.rbd.clusters.toConfig(), ...bdevs];
}

export function frameworkRpc(daemon: Daemon): Pick<Handlers, FrameworkMethod> {
  return {
    framework_get_reactors() {
      const now = clockNs();
      return {
        tick_rate: TICK_RATE,
        pid: process.pid,
        reactors: daemon.reactors.map((reactor) => {
          const times = reactor.times(now);
          return {
            lcore: reactor.core,
            numa_id: reactor.node,
            tid: times.threadId,
            busy: Math.round(times.busyNs),
            idle: Math.round(times.idleNs),
            in_interrupt: times.isSleeping,
            lw_threads: daemon.vhost.list().flatMap(({ name, cores, createdNs, places }, index) => {
              const queues = places.queuesOf(reactor);
              if (queues.length === 0 && (places.home !== reactor || places.running().length > 0)) return [];
              const cpumask = formatCpumask(cores).slice(2);
              return [{ name, id: index + 1, cpumask, elapsed: Math.round(now - createdNs), queues }];
            }),
          };
        }),
      };
    },

    framework_start_init: () => true,
    framework_wait_init: () => true,
    framework_get_subsystems: () => SUBSYSTEMS,

    framework_get_config({ name }) {
      if (name === 'bdev') return bdevConfig(daemon);
      if (name === 'vhost_blk') return vhostConfig(daemon.vhost, 'blk');
      if (name === 'vhost_scsi') return vhostConfig(daemon.vhost, 'scsi');
      throw new TargetError(
        'EINVAL',
        `there is no subsystem "${name}": framework_get_subsystems lists those there are`,
      );
    },

    log_set_level({ level }) {
      daemon.log.level = level;
      return true;
    },
    log_get_level: () => daemon.log.level,
    log_set_print_level({ level }) {
      daemon.log.printLevel = level;
      return true;
    },
    log_get_print_level: () => daemon.log.printLevel,

    spdk_get_version() {
      const [major = 0, minor = 0, patch = 0] = VERSION.split('-')[0]?.split('.').map(Number) ?? [];
      const suffix = VERSION.includes('-') ? `-${VERSION.split('-').slice(1).join('-')}` : '';
      return { version: `Ringhost v${VERSION}`, fields: { major, minor, patch, suffix } };
    },

    spdk_kill_instance({ sig_name: signal }) {
      // After the answer was sent.
      setImmediate(() => process.kill(process.pid, signal));
      return true;
    },
  };
}

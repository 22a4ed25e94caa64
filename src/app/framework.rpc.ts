/** The RPC methods about the daemon itself. */
import { formatCpumask } from '../base/cpuset.ts';
import { TICK_RATE } from '../bdev/bdev.rpc.ts';
import type { Handlers } from '../rpc/methods.ts';
import { clockNs } from '../sys/thread.ts';
import { NO_CONNECTION } from './config-file.ts';
import type { Daemon } from './daemon.ts';
import { LOG_ROOMS, type LogRoom, roomNamed } from './logger.ts';
import { VERSION } from './version.ts';

type FrameworkMethod =
  | 'framework_get_reactors'
  | 'framework_start_init'
  | 'framework_wait_init'
  | 'framework_upgrade'
  | 'log_set_level'
  | 'log_get_level'
  | 'log_set_print_level'
  | 'log_set_flag'
  | 'log_clear_flag'
  | 'log_get_flags'
  | 'log_get_print_level'
  | 'spdk_get_version'
  | 'spdk_kill_instance';

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
    // What a configuration itself calls would wait for its own end.
    framework_wait_init: (_, { connection }) => connection === NO_CONNECTION || daemon.ready.then(() => true),
    async framework_upgrade({ exec, args, max_pause_ms: pauseMsMax, max_start_ms: startMsMax }) {
      const { pid, pauseMs, sessions } = await daemon.upgrade({ exec, args, pauseMsMax, startMsMax });
      return { pid, pause_ms: pauseMs, sessions };
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
    log_set_flag({ flag }) {
      for (const room of roomsOf(flag)) daemon.log.setLevelOf(room, 'DEBUG');
      return true;
    },
    log_clear_flag({ flag }) {
      for (const room of roomsOf(flag)) daemon.log.setLevelOf(room, undefined);
      return true;
    },
    log_get_flags: () => {
      return Object.fromEntries(LOG_ROOMS.map((room) => [room, daemon.log.levelOf(room) === 'DEBUG']));
    },

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

/** @throws TargetError `EINVAL` */
function roomsOf(flag: string): readonly LogRoom[] {
  return flag.toLowerCase() === 'all' ? LOG_ROOMS : [roomNamed(flag.toLowerCase())];
}

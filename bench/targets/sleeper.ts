/**
 * A sleeping C thread on the target's core that another core wakes: what no target that sleeps answers sooner than. No
 * ring, no request.
 */
import { checkErrno } from '../../src/base/errors.ts';
import { benchNative, SleepWay } from '../native.ts';
import { summarize } from '../statistics.ts';
import { ringless, type TargetKind } from './target.ts';

const WAKE_UPS = 300;
/** As long as the targets have. */
const NAP_NS = 3e6;

function sleeper(name: string, way: keyof typeof SleepWay, isExtra: boolean): TargetKind {
  return {
    name,
    role: 'limit',
    isExtra,
    unavailable: () => null,
    serves: () => false,
    async start({ target }) {
      return ringless(name, 'a C thread that sleeps, and is written to', async () => {
        const latencies = new Float64Array(WAKE_UPS);
        checkErrno(benchNative.wakeUps(target, SleepWay[way], NAP_NS, latencies), 'cannot wake a thread');
        return {
          p50: summarize([...latencies]).median,
          p90: latencies.toSorted()[Math.floor(WAKE_UPS * 0.9)] ?? Number.NaN,
        };
      });
    },
  };
}

/** An event loop needs an epoll descriptor within another. */
export const SLEEPER = sleeper('C sleeper', 'nested', false);
export const SLEEPER_VARIANTS = (['read', 'epoll'] as const).map((way) => sleeper(`C sleeper by ${way}`, way, true));

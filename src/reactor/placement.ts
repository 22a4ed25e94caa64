/** Which reactor a controller runs on: of those its cpumask allows, the one with the fewest controllers. */

import { formatCpumask } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';

/** What placement needs to know of a reactor. */
export interface PlacementCandidate {
  readonly core: number;
  readonly controllerCount: number;
}

/** Throws `EINVAL` when the mask names a core that no reactor runs on. Ties go to the lowest core. */
export function placeController<R extends PlacementCandidate>(reactors: readonly R[], cores: readonly number[]): R {
  const missing = cores.filter((core) => !reactors.some((reactor) => reactor.core === core));
  if (missing.length > 0) {
    const own = formatCpumask(reactors.map((reactor) => reactor.core));
    throw new TargetError(
      'EINVAL',
      `cpumask ${formatCpumask(cores)} names core ${missing.join(', ')}, but the daemon runs on ${own} (see -m)`,
    );
  }
  let best: R | undefined;
  for (const reactor of reactors) {
    if (!cores.includes(reactor.core)) continue;
    if (best === undefined || reactor.controllerCount < best.controllerCount) best = reactor;
  }
  if (best === undefined) throw new TargetError('EINVAL', 'the cpumask names no core');
  return best;
}

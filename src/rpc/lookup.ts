/** Finds methods by any of their names. */
import type { CliSpec, MethodAlias, MethodSpec } from './define.ts';
import { METHODS, type MethodName } from './methods.ts';

export interface FoundMethod {
  readonly name: MethodName;
  readonly spec: MethodSpec;
  /** The alias that was named, or null for the method's own name. */
  readonly alias: MethodAlias | null;
}

function indexByName(): ReadonlyMap<string, FoundMethod> {
  const index = new Map<string, FoundMethod>();
  for (const [key, spec] of Object.entries(METHODS) as [MethodName, MethodSpec][]) {
    index.set(key, { name: key, spec, alias: null });
    for (const alias of spec.aliases) index.set(alias.name, { name: key, spec, alias });
  }
  return index;
}

const BY_NAME = indexByName();

/** All names in alphabetical order, with or without the older ones. */
export function methodNames(includeAliases: boolean): readonly string[] {
  return [...BY_NAME.values()]
    .filter((found) => includeAliases || found.alias === null)
    .map((found) => found.alias?.name ?? found.name)
    .toSorted();
}

export function findMethod(name: string): FoundMethod | undefined {
  return BY_NAME.get(name);
}

/** The command line that goes with the name that was used. */
export function cliOf(found: FoundMethod): CliSpec {
  return found.alias?.cli ?? found.spec.cli;
}

/** Edit distance in insertions, deletions, replacements and swaps of neighbours (optimal string alignment). */
function distance(from: string, to: string): number {
  let twoAgo: number[] = [];
  let previous = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let row = 1; row <= from.length; row++) {
    const current = [row];
    for (let column = 1; column <= to.length; column++) {
      const same = from[row - 1] === to[column - 1];
      let best = Math.min(
        (previous[column] as number) + 1,
        (current[column - 1] as number) + 1,
        (previous[column - 1] as number) + (same ? 0 : 1),
      );
      const swapped = row > 1 && column > 1 && from[row - 1] === to[column - 2] && from[row - 2] === to[column - 1];
      if (swapped) best = Math.min(best, (twoAgo[column - 2] as number) + 1);
      current.push(best);
    }
    twoAgo = previous;
    previous = current;
  }
  return previous[to.length] as number;
}

/** Longest name for which a likeness is looked for: the cost grows with the product of the lengths. */
const NAME_MAX_CHARS = 100;

function words(name: string): string {
  return name.toLowerCase().split(/[_.-]/).toSorted().join(' ');
}

/** The candidate most like `name`, or null when none is near enough to be meant. */
export function nearest(name: string, candidates: readonly string[]): string | null {
  if (name.length > NAME_MAX_CHARS) return null;
  let best: string | null = null;
  let bestScore = Math.max(2, Math.floor(name.length / 4)) + 1;
  for (const candidate of candidates) {
    // Words in another order (`get_bdev_iostat`) are as likely a slip as wrong letters.
    const score = Math.min(distance(name.toLowerCase(), candidate), distance(words(name), words(candidate)) + 1);
    if (score < bestScore) {
      best = candidate;
      bestScore = score;
    }
  }
  return best;
}

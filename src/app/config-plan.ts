/**
 * What has to be done so that what there is becomes what a configuration says, and how each step is taken back. Only
 * subsystems that the configuration names are compared; of a call that makes something, only the parameters it gives.
 */
import { isDeepStrictEqual } from 'node:util';
import { TargetError } from '../base/errors.ts';
import { findMethod } from '../rpc/lookup.ts';
import {
  type FullCall,
  fullCall,
  identityOf,
  isSetting,
  isVolatile,
  nameOf,
  removalOf,
  standsOn,
} from './config-calls.ts';
import { type CallConfig, type ConfigCall, type ConfigFile, failureText, isOfSpdkOnly } from './config-file.ts';

interface Change {
  /** `replace`: taken away and made again, and with it what stands on it. */
  readonly action: 'add' | 'set' | 'replace' | 'remove';
  readonly method: string;
  readonly name: string;
  /** What the configuration gives; of what is removed, what it was made with. */
  readonly params: Params;
  /** Values of now that differ from `params`. Empty where it only stands on something that is replaced. */
  readonly was: Params;
}

export interface Step {
  /** Null: what was done before has done this too. */
  readonly call: ConfigCall | null;
  /** Null: nothing takes it back by itself. */
  readonly undo: ConfigCall | null;
}

interface Plan {
  readonly changes: readonly Change[];
  readonly steps: readonly Step[];
  /** What is there and not in the configuration, and stays. */
  readonly extra: readonly ConfigCall[];
  /** Methods of SPDK's own parts. */
  readonly passedOver: readonly string[];
}

interface PlanOptions {
  /** Take away what the configuration does not have. */
  readonly prune: boolean;
}

type Params = Readonly<Record<string, unknown>>;

/** A call, and how the daemon understands it. */
interface Item {
  readonly call: ConfigCall;
  readonly full: FullCall;
}

/** What the configuration says of a thing, and what there is of it. */
interface Pair {
  readonly wanted: Item;
  readonly now: Item | null;
  /** The parameters that the configuration gives, as the daemon understands them. */
  readonly given: Params;
  /** Values of now that are otherwise. */
  readonly was: Params;
}

/** @throws TargetError `EINVAL` when the configuration is wrong; nothing has been done then */
export function planConfig(current: ConfigFile, config: ConfigFile, { prune }: PlanOptions): Plan {
  const named = new Set(config.subsystems.flatMap(({ subsystem, config: calls }) => (calls === null ? [] : subsystem)));
  const { items, passedOver } = readWanted(config);
  const now = current.subsystems
    .filter(({ subsystem }) => named.has(subsystem))
    .flatMap(({ config: calls }) => (calls ?? []).map((call): Item => ({ call, full: fullCall(call) })));
  const nowById = new Map(now.map((item) => [identityOf(item.full), item]));
  const pairs = items.map((wanted) => pairOf(wanted, nowById.get(identityOf(wanted.full)) ?? null));
  const matched = new Set(pairs.map((pair) => pair.now));
  const unwanted = now.filter((item) => !matched.has(item));
  const removed = prune ? unwanted : [];
  const replaced = findReplaced(pairs, now);
  const changes = [
    ...pairs.flatMap((pair) => changeOf(pair, replaced) ?? []),
    ...removed.map(({ full }): Change => ({ action: 'remove', ...about(full), params: full.params, was: {} })),
  ];
  return {
    changes,
    steps: stepsOf(pairs, now, replaced, new Set(removed)),
    extra: prune ? [] : unwanted.map(({ call }) => call),
    passedOver,
  };
}

const about = (call: ConfigCall | FullCall) => ({ method: call.method, name: nameOf(call) });

function readWanted(config: ConfigFile) {
  const items: Item[] = [];
  const passedOver: string[] = [];
  const seen = new Set<string>();
  for (const { subsystem, config: entries } of config.subsystems) {
    for (const call of (entries ?? []).flatMap(splitDelayed)) {
      const found = findMethod(call.method);
      if (found === undefined ? isOfSpdkOnly(subsystem) : found.spec.hasNoEffect === true) {
        passedOver.push(call.method);
        continue;
      }
      const full = fullCall(call);
      const name = nameOf(full);
      if (name === '') throw new TargetError('EINVAL', `${full.method}: give it a name, by which it is compared`);
      const id = identityOf(full);
      if (seen.has(id)) throw new TargetError('EINVAL', `${full.method} ${name} is in the configuration twice`);
      seen.add(id);
      items.push({ call, full });
    }
  }
  return { items, passedOver };
}

/** What is saved of a scsi controller has its targets before the socket: a call without `delay` stands for two. */
function splitDelayed(call: ConfigCall): ConfigCall[] {
  const { method, params = {} } = call;
  if (method !== 'vhost_create_scsi_controller' || params['delay'] === true) return [call];
  const start = { method: 'vhost_start_scsi_controller', params: { ctrlr: params['ctrlr'] } };
  return [{ method, params: { ...params, delay: true } }, start];
}

function pairOf(wanted: Item, now: Item | null): Pair {
  const { params = {} } = wanted.call;
  // An older name may spell its parameters otherwise: then all count.
  const isPlain = Object.keys(params).every((name) => name in wanted.full.params);
  const given = Object.entries(wanted.full.params).filter(([name]) => !isPlain || name in params);
  const other = now === null ? [] : given.filter(([name, value]) => !isDeepStrictEqual(value, now.full.params[name]));
  const was = other.map(([name]) => [name, now?.full.params[name]]);
  return { wanted, now, given: Object.fromEntries(given), was: Object.fromEntries(was) };
}

const differs = ({ was }: Pair): boolean => Object.keys(was).length > 0;

/** What is made anew: what is said to be otherwise, and everything that stands on it. */
function findReplaced(pairs: readonly Pair[], now: readonly Item[]): ReadonlySet<Item> {
  const replaced = new Set<Item>();
  for (const pair of pairs) if (pair.now !== null && differs(pair) && !isSetting(pair.now.full)) replaced.add(pair.now);
  // A controller whose bdev was deleted under it does not get the new one by itself.
  const made = pairs.filter((pair) => pair.now === null).map(({ wanted }) => wanted.full);
  for (const item of now) if (made.some((one) => standsOn(item.full, one))) replaced.add(item);
  for (let before = -1; before !== replaced.size; ) {
    before = replaced.size;
    for (const item of now) if ([...replaced].some((one) => standsOn(item.full, one.full))) replaced.add(item);
  }
  return replaced;
}

function changeOf(pair: Pair, replaced: ReadonlySet<Item>): Change | null {
  const { wanted, now, given: params, was } = pair;
  if (now === null) return { action: 'add', ...about(wanted.full), params, was };
  if (replaced.has(now)) return { action: 'replace', ...about(wanted.full), params, was };
  return differs(pair) ? { action: 'set', ...about(wanted.full), params, was } : null;
}

/**
 * First what goes, last first; then what is made, in the order of the configuration. A RAM disk that only goes does so
 * when all else has been done: its content could not be brought back.
 */
function stepsOf(
  pairs: readonly Pair[],
  now: readonly Item[],
  replaced: ReadonlySet<Item>,
  removed: ReadonlySet<Item>,
): Step[] {
  const going = now.filter((item) => replaced.has(item) || removed.has(item)).toReversed();
  const isLate = (item: Item): boolean => isVolatile(item.call) && !replaced.has(item);
  const remove = ({ call, full }: Item): Step => ({ call: removalOf(full), undo: call });
  const make = ({ call, full }: Item): Step => ({ call, undo: removalOf(full) });
  const made = pairs.flatMap((pair): Step[] => {
    const { wanted, now: old } = pair;
    if (old === null || replaced.has(old)) return [make(wanted)];
    if (!differs(pair)) return [];
    return [{ call: { ...wanted.call, params: { ...old.call.params, ...wanted.call.params } }, undo: old.call }];
  });
  // What the configuration does not have, and that went with what it has otherwise.
  const matched = new Set(pairs.map((pair) => pair.now));
  const kept = now.filter((item) => replaced.has(item) && !removed.has(item) && !matched.has(item));
  return [
    ...going.filter((item) => !isLate(item)).map(remove),
    ...made,
    ...kept.map(make),
    ...going.filter(isLate).map(remove),
  ];
}

/**
 * Takes every step, or none: what was done is undone when one fails.
 *
 * @throws TargetError `EINVAL` that says what failed, and what could not be undone
 */
export async function carryOut(steps: readonly Step[], make: CallConfig): Promise<void> {
  const done: Step[] = [];
  for (const step of steps) {
    const failure = step.call === null ? null : await make(step.call);
    if (failure === null || step.call === null) {
      done.push(step);
      continue;
    }
    const stuck = await undo(done, make);
    const fate =
      stuck.length === 0 ? 'everything that was done was undone' : `this could not be undone: ${stuck.join('; ')}`;
    const { method, name } = about(step.call);
    throw new TargetError('EINVAL', `${method} ${name}: ${failureText(failure)}; ${fate}`);
  }
}

async function undo(done: readonly Step[], make: CallConfig): Promise<readonly string[]> {
  const stuck: string[] = [];
  for (const { undo: call } of done.toReversed()) {
    const failure = call === null ? null : await make(call);
    if (call !== null && failure !== null) stuck.push(`${call.method} ${nameOf(call)}: ${failureText(failure)}`);
  }
  return stuck;
}

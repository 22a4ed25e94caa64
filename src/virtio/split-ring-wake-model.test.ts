/**
 * The race between a driver that publishes and a device that goes to sleep, in every interleaving of a small model.
 *
 * Each side is a list of memory accesses, the stores of each go through a store buffer as on x86 (a load may overtake
 * the stores before it), and every order of steps and of buffered stores arriving in memory is tried. A wake-up is lost
 * when the device sleeps, nothing will wake it, and there is something to take. What `SplitRing.armKick` and a driver's
 * `publish` do is safe; leaving out any one part of it is not, which shows that the model can tell.
 *
 * Calls, from the device to the driver, are the same protocol with the sides changed: `publish` is its driver.
 */
import { describe, expect, it } from 'vitest';

/** Available entries that the driver publishes, one or two at a time, before it ends. */
const ENTRIES = 3;
/** Indexes are modulo this, so that they wrap in the model too. */
const TURN = 4;

interface Protocol {
  /** Kicks are asked for by an index (EVENT_IDX) instead of a flag. */
  readonly hasEventIdx: boolean;
  readonly driverFence: boolean;
  readonly deviceFence: boolean;
  readonly looksAgain: boolean;
}

const SAFE = { driverFence: true, deviceFence: true, looksAgain: true };

/** Memory: the available index, and what the device asks for: the event index, or 1 for no kicks. */
const AVAIL = 0;
const WISH = 1;

type Store = readonly [place: number, value: number];

interface State {
  readonly memory: readonly number[];
  readonly driverStores: readonly Store[];
  readonly deviceStores: readonly Store[];
  readonly driverAt: 'publish' | 'fence' | 'look' | 'end';
  readonly published: number;
  /** Published before the last publication. */
  readonly before: number;
  readonly deviceAt: 'poll' | 'arm' | 'fence' | 'again' | 'sleep';
  readonly taken: number;
  /** The kick descriptor is readable. */
  readonly isKicked: boolean;
}

const step = (state: State, change: Partial<State>): State => ({ ...state, ...change });

function load(state: State, stores: readonly Store[], place: number): number {
  return stores.findLast(([other]) => other === place)?.[1] ?? (state.memory[place] as number);
}

function driverSteps(state: State, protocol: Protocol): State[] {
  const { published, before, driverStores } = state;
  switch (state.driverAt) {
    case 'publish':
      if (published === ENTRIES) return [step(state, { driverAt: 'end' })];
      return [1, 2]
        .filter((count) => published + count <= ENTRIES)
        .map((count) =>
          step(state, {
            driverStores: [...driverStores, [AVAIL, (published + count) % TURN]],
            before: published,
            published: published + count,
            driverAt: 'fence',
          }),
        );
    case 'fence':
      // A fence waits until everything stored has arrived.
      return protocol.driverFence && driverStores.length > 0 ? [] : [step(state, { driverAt: 'look' })];
    case 'look': {
      const wish = load(state, driverStores, WISH);
      const distance = (published - wish - 1 + 2 * TURN) % TURN;
      const isWanted = protocol.hasEventIdx ? distance < published - before : wish === 0;
      return [step(state, { isKicked: state.isKicked || isWanted, driverAt: 'publish' })];
    }
    default:
      return [];
  }
}

function deviceSteps(state: State, protocol: Protocol): State[] {
  const { taken, deviceStores } = state;
  // With EVENT_IDX the index that is there, and passed by, asks for nothing.
  const disarmed: readonly Store[] = protocol.hasEventIdx ? deviceStores : [...deviceStores, [WISH, 1]];
  switch (state.deviceAt) {
    case 'poll': {
      const available = load(state, deviceStores, AVAIL);
      if (available === taken % TURN) return [step(state, { deviceAt: 'arm' })];
      return [step(state, { taken: taken + ((available - taken + 2 * TURN) % TURN) })];
    }
    case 'arm':
      return [
        step(state, {
          deviceStores: [...deviceStores, [WISH, protocol.hasEventIdx ? taken % TURN : 0]],
          deviceAt: 'fence',
        }),
      ];
    case 'fence':
      return protocol.deviceFence && deviceStores.length > 0 ? [] : [step(state, { deviceAt: 'again' })];
    case 'again': {
      const isMore = protocol.looksAgain && load(state, deviceStores, AVAIL) !== taken % TURN;
      return [isMore ? step(state, { deviceStores: disarmed, deviceAt: 'poll' }) : step(state, { deviceAt: 'sleep' })];
    }
    case 'sleep':
      return state.isKicked ? [step(state, { isKicked: false, deviceStores: disarmed, deviceAt: 'poll' })] : [];
  }
}

/** The oldest store of each buffer arrives in memory. */
function arrivals(state: State): State[] {
  const arrive = ([place, value]: Store): number[] => state.memory.map((old, at) => (at === place ? value : old));
  const [driver, ...driverStores] = state.driverStores;
  const [device, ...deviceStores] = state.deviceStores;
  return [
    ...(driver === undefined ? [] : [step(state, { memory: arrive(driver), driverStores })]),
    ...(device === undefined ? [] : [step(state, { memory: arrive(device), deviceStores })]),
  ];
}

/** Tries everything that can happen. */
function explore(protocol: Protocol): { states: number; lostWakeUps: number; completed: number } {
  const start: State = {
    memory: [0, protocol.hasEventIdx ? TURN - 1 : 1],
    driverStores: [],
    deviceStores: [],
    driverAt: 'publish',
    published: 0,
    before: 0,
    deviceAt: 'poll',
    taken: 0,
    isKicked: false,
  };
  const seen = new Set([JSON.stringify(start)]);
  const open = [start];
  let lostWakeUps = 0;
  let completed = 0;
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    const next = [...driverSteps(state, protocol), ...deviceSteps(state, protocol), ...arrivals(state)];
    if (next.length === 0) {
      if (state.taken === ENTRIES) completed++;
      else lostWakeUps++;
    }
    for (const other of next) {
      const key = JSON.stringify(other);
      if (seen.has(key)) continue;
      seen.add(key);
      open.push(other);
    }
  }
  return { states: seen.size, lostWakeUps, completed };
}

describe.each([
  ['EVENT_IDX', true],
  ['flags', false],
] as const)('with %s', (_, hasEventIdx) => {
  it('no interleaving of arming, fence and second look loses a wake-up', () => {
    const { states, lostWakeUps, completed } = explore({ hasEventIdx, ...SAFE });
    expect(lostWakeUps).toBe(0);
    expect(completed).toBeGreaterThan(0);
    expect(states).toBeGreaterThan(100);
  });

  it.each(['driverFence', 'deviceFence', 'looksAgain'] as const)('one without %s does', (part) => {
    expect(explore({ hasEventIdx, ...SAFE, [part]: false }).lostWakeUps).toBeGreaterThan(0);
  });
});

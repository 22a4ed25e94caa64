/**
 * Rings whose process can be killed between any two stores to the memory that they share: what they have stored until
 * then is there, in this order, and nothing else.
 */
import { vi } from 'vitest';

class Killed extends Error {}

const real = { Uint16Array, Uint32Array, Atomics };
/** The typed array behind each that is watched. */
const targets = new WeakMap<object, Uint16Array | Uint32Array>();
/** Stores that are left to be made; not counted while nobody is to be killed. */
let storesLeft = Number.POSITIVE_INFINITY;

function beforeStore(): void {
  if (storesLeft-- <= 0) throw new Killed('the process was killed');
}

/** An array whose stores are counted, and may never be made. */
function watched<Words extends Uint16Array | Uint32Array>(words: Words): Words {
  const proxy = new Proxy(words, {
    get: (target, name) => {
      if (name === 'fill') return (value: number) => fill(proxy, value);
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
    set: (target, name, value: number) => {
      beforeStore();
      return Reflect.set(target, name, value, target);
    },
  });
  targets.set(proxy, words);
  return proxy;
}

/** Store by store. */
function fill(words: Uint16Array | Uint32Array, value: number): void {
  for (let i = 0; i < words.length; i++) words[i] = value;
}

function watching<Constructor extends typeof Uint16Array | typeof Uint32Array>(type: Constructor): Constructor {
  return new Proxy(type, {
    construct: (target, args: [ArrayBuffer]) => {
      const words = Reflect.construct(target, args) as Uint16Array | Uint32Array;
      return args[0] instanceof ArrayBuffer ? watched(words) : words;
    },
  });
}

const plain = <T extends object>(array: T): T => (targets.get(array) as T | undefined) ?? array;
/** Those that take typed arrays only. */
const atomics = Object.setPrototypeOf(
  {
    load: (array: Uint16Array, index: number) => real.Atomics.load(plain(array), index),
    store: (array: Uint16Array, index: number, value: number) => {
      if (targets.has(array)) beforeStore();
      return real.Atomics.store(plain(array), index, value);
    },
  },
  real.Atomics,
) as typeof Atomics;

/** Makes a ring that can be killed. Until the end of the test file nothing else of it may use Atomics on its arrays. */
export function killable<Ring>(create: () => Ring): Ring {
  vi.stubGlobal('Atomics', atomics);
  vi.stubGlobal('Uint16Array', watching(real.Uint16Array));
  vi.stubGlobal('Uint32Array', watching(real.Uint32Array));
  try {
    return create();
  } finally {
    vi.stubGlobal('Uint16Array', real.Uint16Array);
    vi.stubGlobal('Uint32Array', real.Uint32Array);
  }
}

/** Does some work, and is killed after so many stores. True when it was: the work may be done in part. */
export function isKilledAfter(stores: number, work: () => void): boolean {
  storesLeft = stores;
  try {
    work();
    return false;
  } catch (error) {
    if (error instanceof Killed) return true;
    throw error;
  } finally {
    storesLeft = Number.POSITIVE_INFINITY;
  }
}

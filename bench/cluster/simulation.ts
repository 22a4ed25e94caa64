/** Discrete events: a clock that jumps from one to the next, in the order of their times, and of their making. */

/** What something happens to. `what` is its own numbering of what may happen. */
export interface Actor {
  wake(what: number): void;
}

const ROOM = 1024;

export class Simulation {
  nowUs = 0;
  /** That have happened. */
  events = 0;
  // A binary heap in arrays side by side: of 10 million events none is an object of its own.
  #times = new Float64Array(ROOM);
  #orders = new Float64Array(ROOM);
  #whats = new Int32Array(ROOM);
  readonly #actors: Actor[] = [];
  #count = 0;
  #order = 0;

  at(delayUs: number, actor: Actor, what: number): void {
    if (!(delayUs >= 0)) throw new RangeError(`nothing happens ${delayUs} us from now`);
    if (this.#count === this.#times.length) this.#grow();
    const timeUs = this.nowUs + delayUs;
    const order = this.#order++;
    let at = this.#count++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((this.#times[parent] as number) <= timeUs) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#put(at, timeUs, order, what, actor);
  }

  /** Until nothing is left to happen, or that time. */
  run(untilUs = Number.POSITIVE_INFINITY): void {
    while (this.#count > 0 && (this.#times[0] as number) <= untilUs) {
      const [actor, what] = [this.#actors[0] as Actor, this.#whats[0] as number];
      this.nowUs = this.#times[0] as number;
      this.events++;
      this.#removeFirst();
      actor.wake(what);
    }
    if (untilUs !== Number.POSITIVE_INFINITY) this.nowUs = untilUs;
  }

  #removeFirst(): void {
    const last = --this.#count;
    const timeUs = this.#times[last] as number;
    const order = this.#orders[last] as number;
    const [what, actor] = [this.#whats[last] as number, this.#actors[last] as Actor];
    let at = 0;
    while (true) {
      let child = 2 * at + 1;
      if (child >= last) break;
      if (child + 1 < last && this.#isBefore(child + 1, child)) child++;
      const childUs = this.#times[child] as number;
      if (childUs > timeUs || (childUs === timeUs && (this.#orders[child] as number) > order)) break;
      this.#move(child, at);
      at = child;
    }
    this.#put(at, timeUs, order, what, actor);
    this.#actors.length = last;
  }

  #isBefore(a: number, b: number): boolean {
    const [aUs, bUs] = [this.#times[a] as number, this.#times[b] as number];
    return aUs < bUs || (aUs === bUs && (this.#orders[a] as number) < (this.#orders[b] as number));
  }

  #move(from: number, to: number): void {
    this.#put(
      to,
      this.#times[from] as number,
      this.#orders[from] as number,
      this.#whats[from] as number,
      this.#actors[from] as Actor,
    );
  }

  #put(at: number, timeUs: number, order: number, what: number, actor: Actor): void {
    this.#times[at] = timeUs;
    this.#orders[at] = order;
    this.#whats[at] = what;
    this.#actors[at] = actor;
  }

  #grow(): void {
    const [times, orders, whats] = [this.#times, this.#orders, this.#whats];
    this.#times = new Float64Array(2 * times.length);
    this.#orders = new Float64Array(2 * times.length);
    this.#whats = new Int32Array(2 * times.length);
    this.#times.set(times);
    this.#orders.set(orders);
    this.#whats.set(whats);
  }
}

/**
 * A daemon with two disks: front-ends misbehave on one, a well-behaved driver works on the other all the time. After
 * every attack the second must still be served with right data, the daemon must be alive and hold no descriptor or
 * mapping of the attacker, and the attacked controller must serve the next front-end.
 */
import { deepEqual, ok } from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import { TargetError } from '../../src/base/errors.ts';
import { BlkInitiator, type BlkInitiatorOptions } from '../../src/initiator/blk-initiator.ts';
import { type FrontendOptions, VhostUserFrontend } from '../../src/initiator/vhost-user-frontend.ts';
import { maskOf, ProtocolFeature } from '../../src/vhost-user/messages.ts';
import { KIB, MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

const WAIT_LIMIT_MS = 10_000;
const POLL_MS = 5;
const BYSTANDER_BLOCKS = 64;

/** Gives the tests of a file a bench, checks it after each, and shows what the daemon printed in one that failed. */
export function onHostileBench(use: (bench: HostileBench) => void): void {
  let bench: HostileBench;
  beforeAll(async () => {
    bench = await HostileBench.start();
    use(bench);
  });
  beforeEach(({ onTestFailed }) => {
    const start = bench.daemon.log.length;
    onTestFailed(() => console.log(`the daemon printed:\n${bench.daemon.log.slice(start)}`));
  });
  afterEach(() => bench.checkAftermath());
  afterAll(() => bench.close());
}

export class HostileBench {
  readonly daemon: RinghostDaemon;
  readonly victim: BlkTarget;
  readonly #bystanderTarget: BlkTarget;
  readonly #bystander: BlkInitiator;
  readonly #open: { close(): void }[] = [];
  readonly #idleFds: number;
  readonly #idleMappings: number;
  #round = 0;

  private constructor(daemon: RinghostDaemon, victim: BlkTarget, target: BlkTarget, bystander: BlkInitiator) {
    this.daemon = daemon;
    this.victim = victim;
    this.#bystanderTarget = target;
    this.#bystander = bystander;
    this.#idleFds = this.#fds();
    this.#idleMappings = this.#mappings();
  }

  static async start(): Promise<HostileBench> {
    const daemon = await RinghostDaemon.start();
    const victim = await daemon.create({ sizeBytes: 32 * MIB });
    const target = await daemon.create({ sizeBytes: 32 * MIB });
    // One session on the victim first: what the daemon opens once and keeps is open then.
    const first = await BlkInitiator.connect(victim.path);
    first.close();
    const bystander = await BlkInitiator.connect(target.path, { queues: 2 });
    const bench = new HostileBench(daemon, victim, target, bystander);
    await bench.checkAftermath();
    return bench;
  }

  /** A driver of the victim, closed after the attack. */
  async connect(options: BlkInitiatorOptions = {}): Promise<BlkInitiator> {
    return this.track(await BlkInitiator.connect(this.victim.path, { timeoutMs: 2000, ...options }));
  }

  /** A bare connection to the victim. */
  async connectFrontend(options: FrontendOptions = {}): Promise<VhostUserFrontend> {
    return this.track(await VhostUserFrontend.connect(this.victim.path, { timeoutMs: 5000, ...options }));
  }

  /** A connection that has acked the protocol features, REPLY_ACK among them: refusals are seen. */
  async negotiated(without: ProtocolFeature[] = []): Promise<VhostUserFrontend> {
    const frontend = await this.connectFrontend();
    const unwanted = maskOf(...without.map((name) => ProtocolFeature[name]));
    await frontend.setProtocolFeatures((await frontend.getProtocolFeatures()) & ~unwanted);
    await frontend.setOwner();
    return frontend;
  }

  track<T extends { close(): void }>(one: T): T {
    this.#open.push(one);
    return one;
  }

  /** Lines of the daemon's log that say that something of its own went wrong. */
  internalErrors(): string[] {
    return this.daemon.log.split('\n').filter((line) => /"level":[56]0|AssertionError/.test(line));
  }

  /** What must hold after every attack. */
  async checkAftermath(): Promise<void> {
    for (const one of this.#open.splice(0).toReversed()) one.close();
    deepEqual(this.internalErrors(), []);
    this.daemon.checkAlive();
    await this.#checkBystander();
    await waitUntil("the attacker's descriptors are closed", () => this.#fds() <= this.#idleFds);
    await waitUntil("the attacker's memory is unmapped", () => this.#mappings() <= this.#idleMappings);
    const next = await BlkInitiator.connect(this.victim.path, { timeoutMs: WAIT_LIMIT_MS });
    try {
      const data = pattern(64 * KIB, ++this.#round);
      await next.write(8, data);
      sameBytes(await next.read(8, data.length), data, 'the next front-end of the attacked controller');
    } finally {
      next.close();
    }
    const controllers = await this.daemon.rpc.call('vhost_get_controllers');
    deepEqual(controllers.length, 2);
  }

  async close(): Promise<void> {
    for (const one of this.#open.splice(0).toReversed()) one.close();
    this.#bystander.close();
    await this.victim.close();
    await this.#bystanderTarget.close();
    await this.daemon.close();
  }

  async #checkBystander(): Promise<void> {
    const seed = 1000 + this.#round;
    const sector = (seed % BYSTANDER_BLOCKS) * 128;
    const data = pattern(64 * KIB, seed);
    await this.#bystander.write(sector, data, { queue: seed % 2 });
    sameBytes(await this.#bystander.read(sector, data.length, { queue: (seed + 1) % 2 }), data, 'the other controller');
  }

  #fds(): number {
    return readdirSync(`/proc/${this.daemon.pid}/fd`).length;
  }

  /** Lines of guest memory in the daemon's address space. */
  #mappings(): number {
    const maps = readFileSync(`/proc/${this.daemon.pid}/maps`, 'utf8');
    return maps.split('\n').filter((line) => line.includes('memfd:ringhost-initiator')).length;
  }
}

export async function waitUntil(what: string, isTrue: () => boolean): Promise<void> {
  const deadlineMs = Date.now() + WAIT_LIMIT_MS;
  while (!isTrue()) {
    ok(Date.now() < deadlineMs, `${what} within ${WAIT_LIMIT_MS} ms`);
    await sleep(POLL_MS);
  }
}

/** How a back-end turned a message down. */
export type Refusal = 'nack' | 'closed';

/** Resolves when the request is refused by its ack, or by the end of the connection. Throws when it is accepted. */
export async function refusal(what: string, request: Promise<unknown>): Promise<Refusal> {
  try {
    await request;
  } catch (error) {
    if (!(error instanceof TargetError)) throw error;
    if (error.code === 'VHOST_NACK' || error.code === 'VHOST_REPLY') return 'nack';
    if (error.code === 'VHOST_CLOSED') return 'closed';
    throw error;
  }
  throw new Error(`${what} was accepted`);
}

/** Any answer is right, but an answer there must be. */
export async function anyOutcome(request: Promise<unknown>): Promise<void> {
  try {
    await request;
  } catch (error) {
    if (!(error instanceof TargetError) || error.code === 'ETIMEDOUT') throw error;
  }
}

/** Waits for the end of the connection; true when the back-end ended it. */
export async function isClosedByPeer(frontend: VhostUserFrontend): Promise<boolean> {
  await waitUntil('the back-end closes the connection', () => frontend.isClosed);
  return (await frontend.closed).isByPeer;
}

/** A small seeded generator (mulberry32): numbers in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

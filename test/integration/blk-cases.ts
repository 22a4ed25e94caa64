/**
 * What every vhost-user-blk back-end must do, as cases that run against any: Ringhost, and qemu-storage-daemon to show
 * that the initiator and the cases are right themselves.
 *
 * A peer that does not follow the specification in some case has it in its list of known deviations, with the reason;
 * the case then must fail, so that the list stays true.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlkInitiator, type BlkInitiatorOptions } from '../../src/initiator/blk-initiator.ts';
import { VhostUserFrontend } from '../../src/initiator/vhost-user-frontend.ts';
import { bufferCases } from './blk-buffer-cases.ts';
import { configCases } from './blk-config-cases.ts';
import { requestCases } from './blk-request-cases.ts';
import { ringCases } from './blk-ring-cases.ts';
import { sessionCases } from './blk-session-cases.ts';
import type { BlkTarget, DiskSpec, TargetProvider } from './fixtures/targets.ts';

export interface BlkCase {
  /** A sentence about the back-end. */
  readonly name: string;
  /** Only for rings of this layout. */
  readonly layout?: 'split' | 'packed';
  /** The disk, where the default one will not do. */
  readonly disk?: Partial<DiskSpec>;
  /** How `disk` in the context is connected, where the default will not do. */
  readonly options?: BlkInitiatorOptions;
  readonly run: (context: CaseContext) => Promise<void>;
}

/** Names of cases, and why the peer fails them. */
export interface KnownDeviations {
  readonly always: Readonly<Record<string, string>>;
  /** Races that the peer loses now and then. */
  readonly sometimes: Readonly<Record<string, string>>;
}

const NONE: KnownDeviations = { always: {}, sometimes: {} };
const TIMEOUT_MS = 10_000;
/** A peer known to deviate may just never answer. */
const DEVIATION_TIMEOUT_MS = 1500;

/** What a case works with. Everything connected here is closed after the case. */
export class CaseContext {
  readonly target: BlkTarget;
  /** What `connect` asks for. */
  readonly isPacked: boolean;
  readonly #options: BlkInitiatorOptions;
  readonly #open: { close(): void }[] = [];

  constructor(target: BlkTarget, options: BlkInitiatorOptions) {
    this.target = target;
    this.isPacked = options.isPacked ?? false;
    this.#options = options;
  }

  /** For each answer of the target. */
  get timeoutMs(): number {
    return this.#options.timeoutMs ?? TIMEOUT_MS;
  }

  /** A driver with every ring running. `options` go over those of the case. */
  async connect(options: BlkInitiatorOptions = {}): Promise<BlkInitiator> {
    const disk = await BlkInitiator.connect(this.target.path, { ...this.#options, ...options });
    this.#open.push(disk);
    return disk;
  }

  /** A bare connection. */
  async connectFrontend(): Promise<VhostUserFrontend> {
    const frontend = await VhostUserFrontend.connect(this.target.path, { timeoutMs: this.timeoutMs });
    this.#open.push(frontend);
    return frontend;
  }

  close(): void {
    for (const one of this.#open.splice(0).toReversed()) one.close();
  }
}

const BLK_CASES: readonly BlkCase[] = [...requestCases, ...bufferCases, ...ringCases, ...configCases, ...sessionCases];

async function runCase(
  provider: TargetProvider,
  one: BlkCase,
  options: { timeoutMs: number; isPacked: boolean },
): Promise<void> {
  const target = await provider.create(one.disk);
  const context = new CaseContext(target, { ...options, ...one.options });
  try {
    await one.run(context);
    provider.checkAlive();
  } catch (error) {
    const log = target.log();
    if (log !== '' && error instanceof Error) error.message += `\n--- ${provider.name} printed:\n${log}`;
    throw error;
  } finally {
    context.close();
    await target.close();
  }
}

/** Defines one test for each case, on rings of one layout. */
export function describeBlkCases(
  layout: 'split' | 'packed',
  start: () => Promise<TargetProvider>,
  deviations: KnownDeviations = NONE,
): void {
  const { always, sometimes } = deviations;
  const known = { ...always, ...sometimes };
  const isPacked = layout === 'packed';
  const named = (isWanted: (name: string) => boolean): [string, BlkCase][] =>
    BLK_CASES.filter((one) => isWanted(one.name) && (one.layout ?? layout) === layout).map((one) => [one.name, one]);
  describe(`virtio-blk conformance on ${layout} rings`, () => {
    let provider: TargetProvider;
    beforeAll(async () => {
      provider = await start();
    });
    afterAll(() => provider.close());

    it('has different names for its cases, and deviations only of cases that exist', () => {
      const names = BLK_CASES.map(({ name }) => name);
      expect(new Set(names).size).toBe(names.length);
      expect(names).toEqual(expect.arrayContaining(Object.keys(known)));
    });

    it.each(named((name) => !(name in known)))('%s', async (_name, one) => {
      await expect(runCase(provider, one, { timeoutMs: TIMEOUT_MS, isPacked })).resolves.toBeUndefined();
    });

    it.each(named((name) => name in always))('%s (known deviation: it must fail)', async (_name, one) => {
      await expect(runCase(provider, one, { timeoutMs: DEVIATION_TIMEOUT_MS, isPacked })).rejects.toBeInstanceOf(Error);
    });

    it.each(named((name) => name in sometimes))('%s (known deviation: it may fail)', async (_name, one) => {
      const outcome = await runCase(provider, one, { timeoutMs: DEVIATION_TIMEOUT_MS, isPacked }).catch(
        (error: unknown) => error,
      );
      expect(outcome === undefined || outcome instanceof Error).toBe(true);
    });
  });
}

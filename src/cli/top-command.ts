/** `ringhost top`: what a running daemon does, once a second. Without a terminal, or with --once, as lines. */
import { setTimeout as sleep } from 'node:timers/promises';
import { render, renderToString, useApp, useInput, useWindowSize } from 'ink';
import { createElement as h, type ReactNode, useEffect, useState } from 'react';
import { TargetError } from '../base/errors.ts';
import { type Rates, ratesBetween } from '../observe/rates.ts';
import { takeSample } from '../observe/take-sample.ts';
import type { RpcClient } from '../rpc/client.ts';
import { callOf, connectTo, type DaemonAccess } from './daemon-access.ts';
import { reporting } from './reporting.ts';
import { NOTHING_CHOSEN, PrintedView, press, TopView } from './top-view.ts';

export interface TopOptions {
  readonly daemon: DaemonAccess;
  /** Seconds between two looks, as typed. */
  readonly delay: string;
  /** One look, then the end. */
  readonly isOnce: boolean;
  /** The one look as JSON. */
  readonly isJson: boolean;
}

const SECONDS_MIN = 0.1;
const SECONDS_MAX = 3600;
const COLUMNS = 240;

/** Resolves with the exit code when the user leaves, or the daemon does. */
export function runTopCommand(options: TopOptions): Promise<number> {
  return reporting('top', async () => {
    await runTop(options);
    return 0;
  });
}

async function runTop(options: TopOptions): Promise<void> {
  const seconds = Number(options.delay);
  if (!(seconds >= SECONDS_MIN && seconds <= SECONDS_MAX)) {
    throw new TargetError('EINVAL', `--delay ${options.delay}: give ${SECONDS_MIN} to ${SECONDS_MAX} seconds`);
  }
  using client = await connectTo(options.daemon);
  const next = await rateReader(client, seconds * 1000);
  if (options.isOnce || options.isJson || !process.stdout.isTTY) {
    const rates = await next();
    const text = options.isJson
      ? JSON.stringify(rates, null, 2)
      : renderToString(h(PrintedView, { rates, columns: COLUMNS }), { columns: COLUMNS });
    process.stdout.write(`${text}\n`);
    return;
  }
  const app = render(h(Top, { first: await next(), next }), { alternateScreen: true });
  await app.waitUntilExit();
}

/** Each call waits an interval, and gives what happened in it. */
async function rateReader(client: RpcClient, intervalMs: number): Promise<() => Promise<Rates>> {
  const take = () => takeSample(callOf(client));
  let before = await take();
  return async () => {
    await sleep(intervalMs);
    const now = await take();
    const rates = ratesBetween(before, now);
    before = now;
    return rates;
  };
}

function Top({ first, next }: { first: Rates; next: () => Promise<Rates> }): ReactNode {
  const { exit } = useApp();
  const { rows, columns } = useWindowSize();
  const [rates, setRates] = useState(first);
  const [choice, setChoice] = useState(NOTHING_CHOSEN);
  useEffect(() => {
    if (choice.isPaused) return;
    const leaving = new AbortController();
    (async () => {
      while (!leaving.signal.aborted) {
        const newest = await next();
        if (!leaving.signal.aborted) setRates(newest);
      }
    })().catch((error: Error) => exit(error));
    return () => leaving.abort();
  }, [next, choice.isPaused, exit]);
  useInput((input, key) => {
    if (input === 'q' && !choice.isTyping) exit();
    else setChoice(press(choice, input, key, rates));
  });
  return h(TopView, { rates, choice, lines: rows, columns });
}

/** A reactor's worker as the main thread sees it: its calls, its log, its counters, its death. */
import { describe, expect, it } from 'vitest';
import { sourceUrl, threadNames } from '../../test/support/processes.ts';
import { until } from '../../test/support/waiting.ts';
import { type Logger, SILENT } from '../base/log.ts';
import { ReactorThread } from './reactor-thread.ts';

/** An entry that serves the calls every reactor has, and some of the test's. */
function entryOf(body: string): URL {
  const code = `
    import { parentPort, workerData } from 'node:worker_threads';
    const { serveMailbox } = await import(${JSON.stringify(sourceUrl('reactor/mailbox.ts'))});
    const counters = new Float64Array(workerData.counters);
    const calls = { 'reactor.start': () => undefined, 'reactor.stop': () => undefined };
    ${body}
    serveMailbox(parentPort, calls);`;
  return new URL(`data:text/javascript,${encodeURIComponent(code)}`);
}

function recorder(): { log: Logger; lines: unknown[][]; deaths: string[]; onDeath: (error: Error) => void } {
  const lines: unknown[][] = [];
  const deaths: string[] = [];
  const log: Logger = {
    ...SILENT,
    warn: (...line) => lines.push(['warn', ...line]),
    info: (...line) => lines.push(['info', ...line]),
  };
  return { log, lines, deaths, onDeath: (error) => deaths.push(error.message) };
}

describe('a reactor thread', () => {
  it('is started with its core, answers calls, logs with its core and stops in peace', async () => {
    const { log, lines, deaths, onDeath } = recorder();
    const entry = entryOf(`
      calls.what = () => ({ core: workerData.core, index: workerData.index, mode: workerData.mode });
      parentPort.postMessage({ log: 'warn', message: 'a line', fields: { queue: 3 } });
      parentPort.postMessage({ log: 'info', message: 'another' });
    `);
    const thread = await ReactorThread.start(entry, 5, 1, 'interrupt', log, onDeath);
    expect(await thread.call('what', null)).toEqual({ core: 5, index: 1, mode: 'interrupt' });
    expect(lines).toEqual([
      ['warn', 'a line', { core: 5, queue: 3 }],
      ['info', 'another', { core: 5 }],
    ]);
    await thread.stop();
    expect(deaths).toEqual([]);
    await expect(thread.call('what', null)).rejects.toThrow();
  });

  it('shows its counters, and the sleep that goes on now', async () => {
    const { log, onDeath } = recorder();
    const entry = entryOf('counters.set([10, 20, 1000, 0, 77]); calls.sleep = () => { counters[3] = 1; };');
    const thread = await ReactorThread.start(entry, 0, 0, 'adaptive', log, onDeath);
    expect(thread.times(1500)).toEqual({ busyNs: 10, idleNs: 20, isSleeping: false, threadId: 77 });
    await thread.call('sleep', null);
    expect(thread.times(1500)).toEqual({ busyNs: 10, idleNs: 520, isSleeping: true, threadId: 77 });
    await thread.stop();
  });

  it('that ends by itself fails its calls and is told of, once or more', async () => {
    const { log, deaths, onDeath } = recorder();
    const entry = entryOf('calls.end = () => process.exit(9); calls.wait = () => new Promise(() => {});');
    const thread = await ReactorThread.start(entry, 3, 0, 'adaptive', log, onDeath);
    const waiting = thread.call('wait', null).catch((error: Error) => error.message);
    thread.call('end', null).catch(() => {});
    expect(await waiting).toContain('the reactor on core 3 ended with code 9');
    await until(() => deaths.length > 0, 'death');
    expect(deaths[0]).toContain('code 9');
  });

  it('that fails with an error tells which', async () => {
    const { log, deaths, onDeath } = recorder();
    const entry = entryOf('calls.crash = () => { setImmediate(() => { throw new Error("in the loop"); }); };');
    const thread = await ReactorThread.start(entry, 3, 0, 'adaptive', log, onDeath);
    await thread.call('crash', null).catch(() => {});
    await until(() => deaths.length > 0, 'death');
    expect(deaths[0]).toBe('in the loop');
    await expect(thread.call('crash', null)).rejects.toThrow();
  });

  it('that cannot start fails to start, and leaves no thread behind', async () => {
    const { log, onDeath } = recorder();
    const start = (body: string) => ReactorThread.start(entryOf(body), 3, 0, 'adaptive', log, onDeath);
    const before = threadNames();
    await expect(start('throw new Error("at load");')).rejects.toThrow('at load');
    const refuse = `calls['reactor.start'] = () => { throw new Error('no such core'); };`;
    await expect(start(refuse)).rejects.toThrow('no such core');
    await until(() => threadNames().length <= before.length, 'end of its threads');
  });
});

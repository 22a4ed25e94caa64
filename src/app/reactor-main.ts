/** Entry of a reactor thread: pins it to its core and serves the calls of the main thread. */
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import type { LogFields, Logger, LogLevel } from '../base/log.ts';
import { raiseInliningBudgets } from '../reactor/compiler.ts';
import { serveMailbox } from '../reactor/mailbox.ts';
import { Reactor, ReactorCounter } from '../reactor/reactor.ts';
import type { ReactorLogLine, ReactorNotice, ReactorStart } from '../reactor/reactor-thread.ts';
import { checkSignalling } from '../sys/events.ts';
import { nameThread, pinToCore, threadId } from '../sys/thread.ts';
import { createVringService } from '../vhost/vring-service.ts';

raiseInliningBudgets();

assert(parentPort !== null, 'a reactor runs in a worker thread');
const port = parentPort;
const start = workerData as ReactorStart;

function line(level: LogLevel) {
  return (message: string, fields?: LogFields): void => {
    port.postMessage({ log: level, message, ...(fields === undefined ? {} : { fields }) } satisfies ReactorLogLine);
  };
}
const log: Logger = { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') };

nameThread(`reactor_${start.core}`);
const counters = new Float64Array(start.counters);
counters[ReactorCounter.threadId] = threadId();
const reactor = new Reactor(start.mode, counters);

serveMailbox(port, {
  'reactor.start': () => {
    pinToCore(start.core);
    checkSignalling();
  },
  'reactor.ping': () => null,
  'reactor.stop': () => reactor.close(),
  ...createVringService(reactor, start.index, log, {
    onBdevGone: (bdevGone) => port.postMessage({ bdevGone } satisfies ReactorNotice),
    onTold: (toldBy, what) => port.postMessage({ toldBy, what } satisfies ReactorNotice),
    onQueueBroken: (queueBroken) => port.postMessage({ queueBroken } satisfies ReactorNotice),
  }),
});

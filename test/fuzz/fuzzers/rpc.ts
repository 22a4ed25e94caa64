/**
 * What RPC clients send: calls with wrong parameters, JSON that is none, in pieces of any size. Each value is answered
 * as JSON-RPC says, no answer depends on how the bytes were cut, and none is a fault of the daemon.
 */
import { deepEqual, ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { type Logger, SILENT } from '../../../src/base/log.ts';
import { bdevRpc } from '../../../src/bdev/bdev.rpc.ts';
import { mallocRpc } from '../../../src/bdev/modules/malloc/malloc.rpc.ts';
import { MemoryBudget } from '../../../src/bdev/modules/malloc/malloc.ts';
import { nullRpc } from '../../../src/bdev/modules/null/null.rpc.ts';
import { BdevRegistry } from '../../../src/bdev/registry.ts';
import { type AnswerValue, Dispatcher } from '../../../src/rpc/dispatch.ts';
import { encodeJson, JsonStreamParser } from '../../../src/rpc/framing.ts';
import { METHODS, type MethodName } from '../../../src/rpc/methods.ts';
import { fakeDaemon } from '../../integration/fixtures/rpc-fake-daemon.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';

const REQUEST_BYTES_MAX = 20_000;
const MEMORY_BYTES = 16 << 20;

interface Case {
  /** The stream as text, before it is changed. */
  readonly texts: readonly string[];
  /** Bytes that are replaced: where, modulo the length, and by what. */
  readonly changes: readonly (readonly [at: number, value: number])[];
  readonly cuts: readonly number[];
}

const ODD_NUMBERS = ['-0', '1e400', '9007199254740993', `${'9'.repeat(100)}`, '0.1', '-1', '4294967296', '1e-400'];
const anything = fc.oneof(
  { weight: 4, arbitrary: fc.json({ maxDepth: 3 }) },
  { weight: 4, arbitrary: fc.constantFrom(...ODD_NUMBERS, '""', 'null', 'true', '[]', '{}', '"Malloc0"', '512', '8') },
  { weight: 1, arbitrary: fc.integer({ min: 60, max: 70 }).map((depth) => '['.repeat(depth) + ']'.repeat(depth)) },
);

/** A call of a method that there is: the parameters of its example, some of them replaced, left out or added to. */
const calls: fc.Arbitrary<string> = fc
  .record({
    method: fc.constantFrom(...(Object.keys(METHODS) as MethodName[])),
    replaced: fc.array(fc.tuple(fc.nat(8), anything), { maxLength: 3 }),
    dropped: fc.oneof({ weight: 4, arbitrary: fc.constant(-1) }, fc.nat(8)),
    added: fc.oneof(
      { weight: 6, arbitrary: fc.constant('') },
      fc.constantFrom('__proto__', 'name', 'constructor', 'x'),
    ),
    id: fc.constantFrom('1', '"a"', 'null', '1.5', '9007199254740993', '{}', ''),
  })
  .map(({ method, replaced, dropped, added, id }) => {
    const { example } = METHODS[method];
    const members = Object.entries(example.params).map(([key, value]) => [key, encodeJson(value)] as [string, string]);
    for (const [at, text] of replaced) {
      const member = members[at % Math.max(1, members.length)];
      if (member !== undefined) member[1] = text;
    }
    if (dropped >= 0) members.splice(dropped, 1);
    if (added !== '') members.push([added, '1']);
    const params = members.map(([key, text]) => `${JSON.stringify(key)}:${text}`).join();
    const tail = id === '' ? '' : `,"id":${id}`;
    return `{"jsonrpc":"2.0","method":${JSON.stringify(method)},"params":{${params}}${tail}}`;
  });

const texts = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: calls },
    { weight: 1, arbitrary: fc.array(calls, { maxLength: 4 }).map((list) => `[${list.join()}]`) },
    { weight: 1, arbitrary: anything },
    { weight: 1, arbitrary: fc.string({ maxLength: 40 }) },
  ),
  { minLength: 1, maxLength: 6 },
);

class RpcTarget implements FuzzTarget<Case> {
  readonly counts: Record<string, number> = { values: 0, 'successful answers': 0 };

  async attempt({ texts: list, changes, cuts }: Case): Promise<void> {
    const stream = Buffer.from(list.join('\n'));
    for (const [at, value] of changes) if (stream.length > 0) stream[at % stream.length] = value;
    const whole = parse([stream]);
    const places = [...new Set(cuts.map((cut) => cut % (stream.length + 1)))].toSorted((a, b) => a - b);
    const pieces = [0, ...places].map((place, i) => stream.subarray(place, places[i] ?? stream.length));
    deepEqual(parse(pieces), whole, 'how the bytes are cut does not matter');
    this.counts['values'] = (this.counts['values'] ?? 0) + whole.values.length;
    await this.#call(whole.values);
  }

  close(): void {}

  async #call(values: readonly unknown[]): Promise<void> {
    const faults: string[] = [];
    const log: Logger = { ...SILENT, error: (message, fields) => faults.push(`${message} ${JSON.stringify(fields)}`) };
    const bdevs = new BdevRegistry(1);
    const handlers = {
      ...fakeDaemon().handlers,
      ...bdevRpc(bdevs),
      ...mallocRpc(bdevs, new MemoryBudget(MEMORY_BYTES)),
      ...nullRpc(bdevs),
    };
    const dispatcher = new Dispatcher({ handlers, log, version: '0.0.0' });
    const abort = new AbortController();
    const caller = { connection: 1, signal: abort.signal, beginWait: () => () => undefined };
    const started = values.map((value) => dispatcher.start(value, caller));
    // What waits for something waits no longer.
    setImmediate(() => abort.abort());
    for (const { answer } of started) this.#check(await answer);
    deepEqual(faults, []);
    for (const entry of bdevs.list()) await bdevs.delete(entry);
  }

  #check(answer: AnswerValue): void {
    if (answer === null) return;
    for (const one of Array.isArray(answer) ? answer : [answer]) {
      ok(
        one.jsonrpc === '2.0' && 'id' in one && 'error' in one !== 'result' in one,
        'an answer has a result or an error',
      );
      ok(!('error' in one) || (Number.isSafeInteger(one.error.code) && one.error.message.length > 0));
      if ('result' in one) this.counts['successful answers'] = (this.counts['successful answers'] ?? 0) + 1;
    }
    JSON.parse(encodeJson(answer));
  }
}

function parse(pieces: readonly Uint8Array[]): { values: unknown[]; error: string } {
  const parser = new JsonStreamParser({ maxBytes: REQUEST_BYTES_MAX });
  const results = [...pieces.map((piece) => parser.push(piece)), parser.end()];
  const error = results.find((result) => result.error !== null)?.error;
  return { values: results.flatMap(({ values }) => values), error: error?.kind ?? '' };
}

export const rpc = defineFuzzer<Case>({
  name: 'rpc',
  purpose: 'RPC calls with wrong parameters, broken JSON, in pieces of any size',
  cases: fc.record({
    texts,
    changes: fc.oneof(
      { weight: 3, arbitrary: fc.constant([]) },
      fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { maxLength: 4 }),
    ),
    cuts: fc.array(fc.nat(2000), { maxLength: 12 }),
  }),
  open: () => new RpcTarget(),
});

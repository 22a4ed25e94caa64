/** A front-end that sends anything in any order, in whole messages or as bytes, harms nobody but itself. */
import { deepEqual, ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { OwnedMemory } from '../../../src/initiator/owned-memory.ts';
import { closeFd, createEventFd } from '../../../src/sys/events.ts';
import { encodeMessage, encodeU64, HeaderFlag, REQUESTS, type RequestName } from '../../../src/vhost-user/messages.ts';
import { openFdCount, openFdNames } from '../../support/descriptors.ts';
import {
  INBAND_BIT,
  LEAVING_BIT,
  memoryTable,
  PROTOCOL_FEATURES,
  PROTOCOL_FEATURES_BIT,
  SessionRig,
  singleRegion,
  vringAddr,
  vringState,
} from '../../support/session-rig.ts';
import { turns, until } from '../../support/waiting.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';

const NO_FD_BIT = 0x100;
const NO_BYTES = new Uint8Array(0);

/** What a message carries; `two` descriptors are one too many everywhere. */
const FDS = ['none', 'event', 'two', 'memory'] as const;

interface Step {
  /** Code of the request. */
  readonly code: number;
  /** What the payload is made from: values of the request, or bytes of a request that makes no sense. */
  readonly values: readonly number[];
  readonly isOdd: boolean;
  readonly fds: (typeof FDS)[number];
  readonly needsReply: boolean;
}

const ring = fc.oneof({ weight: 8, arbitrary: fc.nat(1) }, { weight: 1, arbitrary: fc.integer({ min: 2, max: 300 }) });
const fdBit = fc.constantFrom(0, 0, NO_FD_BIT);

type Sensible = Pick<Step, 'values' | 'fds'>;
const plain = (...values: fc.Arbitrary<number>[]): fc.Arbitrary<Sensible> =>
  fc.tuple(...values).map((list) => ({ values: list, fds: 'none' }));
const withMemory = (...values: fc.Arbitrary<number>[]): fc.Arbitrary<Sensible> =>
  fc.tuple(...values).map((list) => ({ values: list, fds: 'memory' }));
const vringFd = fc
  .tuple(ring, fdBit)
  .map(([index, bit]): Sensible => ({ values: [index | bit], fds: bit === 0 ? 'event' : 'none' }));

/** Requests that are right more often than not, so that the session gets somewhere. */
const SENSIBLE: Partial<Record<RequestName, fc.Arbitrary<Sensible>>> = {
  SET_FEATURES: plain(fc.nat(1)),
  SET_PROTOCOL_FEATURES: plain(fc.nat(2)),
  SET_MEM_TABLE: withMemory(),
  ADD_MEM_REG: withMemory(fc.nat(1)),
  REM_MEM_REG: plain(fc.nat(1)),
  SET_VRING_NUM: plain(ring),
  SET_VRING_BASE: plain(ring, fc.nat(0xffff)),
  SET_VRING_ADDR: plain(ring, fc.nat(40)),
  SET_VRING_ENABLE: plain(ring, fc.nat(2)),
  GET_VRING_BASE: plain(ring),
  SET_VRING_KICK: vringFd,
  SET_VRING_CALL: vringFd,
  SET_VRING_ERR: vringFd,
  RESET_OWNER: plain(),
  RESET_DEVICE: plain(),
  VRING_KICK: plain(ring),
  SET_STATUS: plain(fc.constantFrom(0, 4, 15)),
};

const sensible = fc.oneof(
  ...Object.entries(SENSIBLE).map(([name, body]) =>
    body.map((rest) => ({ code: REQUESTS[name as RequestName].code, isOdd: false, ...rest })),
  ),
);
const odd = fc.record({
  code: fc.nat(45),
  values: fc.array(fc.nat(255), { maxLength: 80 }),
  isOdd: fc.constant(true),
  fds: fc.constantFrom(...FDS),
});
const step: fc.Arbitrary<Step> = fc
  .tuple(fc.oneof({ weight: 12, arbitrary: sensible }, { weight: 1, arbitrary: odd }), fc.integer({ min: 0, max: 19 }))
  .map(([one, die]) => ({ ...one, needsReply: die !== 0 }));
const steps = fc.array(step, { maxLength: 60, size: 'max' });

function payloadOf({ code, values, isOdd }: Step, memory: OwnedMemory): Uint8Array {
  if (isOdd) return Uint8Array.from(values);
  const [first = 0, second = 0] = values;
  const [region] = memory.regions;
  switch (code) {
    case REQUESTS.SET_FEATURES.code:
      return encodeU64(first === 0 ? 0n : PROTOCOL_FEATURES_BIT);
    case REQUESTS.SET_PROTOCOL_FEATURES.code:
      return encodeU64(PROTOCOL_FEATURES | ([0n, INBAND_BIT, LEAVING_BIT][first] ?? 0n));
    case REQUESTS.SET_MEM_TABLE.code:
      return memoryTable(memory);
    case REQUESTS.ADD_MEM_REG.code:
    case REQUESTS.REM_MEM_REG.code:
      return singleRegion({ ...(region as NonNullable<typeof region>), guestAddress: first << 30 });
    case REQUESTS.SET_VRING_NUM.code:
      return vringState(first, 128);
    case REQUESTS.SET_VRING_ADDR.code:
      return vringAddr(memory, first, second);
    case REQUESTS.SET_VRING_KICK.code:
    case REQUESTS.SET_VRING_CALL.code:
    case REQUESTS.SET_VRING_ERR.code:
    case REQUESTS.SET_STATUS.code:
      return encodeU64(first);
    case REQUESTS.RESET_OWNER.code:
    case REQUESTS.RESET_DEVICE.code:
      return NO_BYTES;
    default:
      return vringState(first, second);
  }
}

/** What both fuzzers share: the memory, the descriptors, and what must hold at the end of a session. */
abstract class SessionTarget<Case> implements FuzzTarget<Case> {
  readonly counts: Record<string, number> = { messages: 0 };
  protected readonly memory = OwnedMemory.single(512 << 10, 0);
  readonly #countBefore = openFdCount();
  readonly #namesBefore = openFdNames();

  abstract attempt(one: Case): Promise<void>;

  close(): void {
    this.memory.close();
  }

  /** Calls with the descriptors that go along, and closes what is ours. */
  protected withFds(kind: Step['fds'], send: (fds: readonly number[]) => void): void {
    const events = kind === 'event' || kind === 'two' ? [createEventFd()] : [];
    const [event = -1] = events;
    send({ none: [], event: [event], two: [event, event], memory: [this.memory.regions[0]?.fd ?? -1] }[kind]);
    for (const fd of events) closeFd(fd);
  }

  protected checkRunning(rig: SessionRig): void {
    ok(rig.session.runningVrings.every(({ index }) => rig.device.running.has(index)));
  }

  protected async finish(rig: SessionRig): Promise<void> {
    await turns(3);
    await rig.close();
    // An `error` is a failure of ours; what a front-end does wrong is a warning.
    deepEqual(
      rig.lines.filter((line) => line.startsWith('error')),
      [],
    );
    deepEqual([rig.device.running.size, rig.device.endCount, rig.endings, rig.session.memory.count], [0, 1, 1, 0]);
    try {
      await until(() => openFdCount() <= this.#countBefore, 'end without a descriptor left over');
    } catch (error) {
      const added = openFdNames().filter((name) => !this.#namesBefore.includes(name));
      throw new Error(`${(error as Error).message}: ${added.join(', ')}`, { cause: error });
    }
  }
}

interface MessagesCase {
  readonly steps: readonly Step[];
  readonly isNegotiated: boolean;
}

class MessagesTarget extends SessionTarget<MessagesCase> {
  override async attempt({ steps: list, isNegotiated }: MessagesCase): Promise<void> {
    const rig = isNegotiated ? await SessionRig.negotiated() : new SessionRig();
    for (const one of list) {
      // The session may have ended the connection: what is sent then is lost.
      this.withFds(one.fds, (fds) =>
        rig.sendRaw(one.code, payloadOf(one, this.memory), { fds, needReply: one.needsReply }),
      );
      this.counts['messages'] = (this.counts['messages'] ?? 0) + 1;
      await turns(1);
      this.checkRunning(rig);
    }
    await this.finish(rig);
  }
}

export const vhostUserMessages = defineFuzzer<MessagesCase>({
  name: 'vhost-user',
  purpose: 'vhost-user messages with descriptors, mostly right, in any order',
  cases: fc.record({ steps, isNegotiated: fc.boolean() }),
  open: () => new MessagesTarget(),
});

interface BytesCase {
  readonly steps: readonly Step[];
  /** Bytes of the stream that are replaced: where (modulo its length), and by what. */
  readonly changes: readonly (readonly [at: number, value: number])[];
  /** Where the stream is cut into pieces, and what goes along with the piece after the cut. */
  readonly cuts: readonly (readonly [at: number, fds: Step['fds']])[];
  /** Bytes of the stream that are sent before it ends; -1: all. */
  readonly endAt: number;
}

class BytesTarget extends SessionTarget<BytesCase> {
  override async attempt({ steps: list, changes, cuts, endAt }: BytesCase): Promise<void> {
    const flagsOf = ({ needsReply }: Step): number => (needsReply ? HeaderFlag.needReply : 0);
    const messages = list.map((one) => encodeMessage(one.code, flagsOf(one), payloadOf(one, this.memory)));
    const stream = Buffer.concat(messages);
    for (const [at, value] of changes) if (stream.length > 0) stream[at % stream.length] = value;
    const end = endAt < 0 ? stream.length : endAt % (stream.length + 1);
    // Where a message starts its descriptors go along, so that a stream without changes is a good one.
    const pieces = new Map<number, Step['fds']>();
    let start = 0;
    list.forEach((one, i) => {
      pieces.set(start, one.fds);
      start += messages[i]?.length ?? 0;
    });
    for (const [at, fds] of cuts) pieces.set(at % (stream.length + 1), fds);
    const places = [...pieces.keys()].filter((place) => place < end).toSorted((a, b) => a - b);
    const rig = new SessionRig();
    for (const [i, place] of places.entries()) {
      const piece = stream.subarray(place, places[i + 1] ?? end);
      this.withFds(pieces.get(place) ?? 'none', (fds) => rig.sendBytes(piece, fds));
      await turns(1);
      this.checkRunning(rig);
    }
    this.counts['messages'] = (this.counts['messages'] ?? 0) + list.length;
    await this.finish(rig);
  }
}

const negotiation: Step = {
  code: REQUESTS.SET_PROTOCOL_FEATURES.code,
  values: [],
  isOdd: false,
  fds: 'none',
  needsReply: false,
};

export const vhostUserBytes = defineFuzzer<BytesCase>({
  name: 'vhost-user-bytes',
  purpose: 'the bytes of vhost-user messages, changed, cut anywhere, with descriptors anywhere',
  cases: fc.record({
    steps: steps.map((list) => [negotiation, ...list]),
    changes: fc.array(fc.tuple(fc.nat(4000), fc.nat(255)), { maxLength: 8 }),
    cuts: fc.array(fc.tuple(fc.nat(4000), fc.constantFrom(...FDS)), { maxLength: 8 }),
    endAt: fc.oneof(fc.constant(-1), fc.nat(4000)),
  }),
  open: () => new BytesTarget(),
});

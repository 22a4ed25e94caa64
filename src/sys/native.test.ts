/** The addon's calls check what they are given: a wrong argument is a TypeError, not a crash or another descriptor. */
import { describe, expect, it } from 'vitest';
import { native } from './native.ts';

type Call = (...args: readonly unknown[]) => unknown;
const CALLS = Object.entries(native as unknown as Record<string, Call>);
/** Calls without arguments. */
const BARE = ['guardEventFd', 'eventFdCreate', 'epollCreate', 'threadId', 'clockNs', 'clockStamp', 'yieldCore'];
const ARGUMENTS_MAX = 7;
/** Nothing that is one of these is right for any argument of any call, but for the callbacks and the texts below. */
const WRONG: readonly (readonly [string, unknown])[] = [
  ['undefined', undefined],
  ['null', null],
  ['an object', {}],
  ['NaN', Number.NaN],
  ['infinity', Number.POSITIVE_INFINITY],
  ['a fraction', 0.5],
  ['a huge number', 2 ** 60],
  ['a big integer', 1n],
  ['an array of another type', new Float32Array(8)],
  ['a symbol', Symbol('x')],
];
/** What some say instead of throwing: -EINVAL for what is no buffer, -ENAMETOOLONG for what is no path. */
const ERRNOS: Readonly<Record<string, number>> = { detachView: -22, socketListen: -36, socketConnect: -36 };

describe.each(CALLS.filter(([name]) => !BARE.includes(name)))('the call %s', (name, call) => {
  it('refuses to be called without arguments', () => {
    expect(() => call()).toThrow(TypeError);
  });

  it.each(WRONG)('refuses %s', (_what, value) => {
    const args = Array.from({ length: ARGUMENTS_MAX }, () => value);
    let result: unknown = 'refused';
    try {
      result = call(...args);
    } catch (error) {
      expect(error).toBeInstanceOf(TypeError);
      return;
    }
    expect(result).toBe(ERRNOS[name]);
  });
});

describe('ranges', () => {
  const bytes = new Uint8Array(16);
  const fds = new Int32Array(4);
  const wrong: readonly (readonly [string, () => unknown])[] = [
    ['a receive past the end of its array', () => native.receiveMessage(-1, bytes, 8, 9, fds)],
    ['a receive at an offset past the end', () => native.receiveMessage(-1, bytes, 17, 0, fds)],
    ['a send past the end of its array', () => native.sendMessage(-1, bytes, 1, 16, fds, 0)],
    ['a send of more descriptors than there are', () => native.sendMessage(-1, bytes, 0, 1, fds, 5)],
    ['a send of a negative number of descriptors', () => native.sendMessage(-1, bytes, 0, 1, fds, -1)],
    ['a write from past the end of its array', () => native.writeNow(-1, bytes, 17)],
    ['results that have no room', () => native.mapMemory(-1, 0, 4096, 4096, false, new Float64Array(1))],
    ['a guard that does not exist', () => native.guardWasHit(4096)],
    ['the unmapping of a guard that does not exist', () => native.unmapMemory(4096, 0, 4096)],
    ['a view of nothing', () => native.viewMemory(0, 1)],
    ['a view longer than a window can be', () => native.viewMemory(4096, 2 ** 52)],
    ['a copy engine that does not exist', () => native.copyEngineRun(1023, 0)],
    ['a ring that does not exist', () => native.gatherRun(16_383, 0, 1)],
    ['a ring of 3 entries', () => native.gatherCreate(4096, 4096, 3, new Float64Array(0), 4096)],
    ['regions of two numbers', () => native.gatherCreate(4096, 4096, 4, new Float64Array(2), 4096)],
    ['more transfers than records', () => native.transferNow(-1, 0, new Float64Array(5), 2)],
    ['a negative number of transfers', () => native.transferNow(-1, 0, new Float64Array(5), -1)],
    ['parameters of another size', () => native.uringSetup(1, new Uint8Array(119))],
    ['registrations that are not about descriptors', () => native.uringRegister(-1, 0, fds)],
    ['a core that no machine has', () => native.setAffinity(1 << 20)],
    ['a thread name of 16 bytes', () => native.setThreadName('x'.repeat(16))],
    ['a descriptor where a set should be', () => native.fdSetControl(3 as never, 1, 0, 0, 0)],
  ];
  it.each(wrong)('refuse %s', (_what, call) => {
    expect(call).toThrow(TypeError);
  });

  it('are checked by the kernel where a descriptor is wrong', () => {
    expect(native.closeFd(-1)).toBe(-9);
    expect(native.writeNow(-1, bytes, 0)).toBe(-9);
    expect(native.eventFdSignal(-1)).toBe(-9);
    expect(native.eventFdRead(-1)).toBe(-9);
    expect(native.socketAccept(-1)).toBe(-9);
    expect(native.setNonBlocking(-1)).toBe(-9);
    expect(native.peerCredentials(-1, fds)).toBe(-9);
    expect(native.truncateFile(-1, 0)).toBeLessThan(0);
    expect(native.lockFile(-1, 0)).toBe(-9);
    expect(native.fileInfo(-1, new Float64Array(3))).toBe(-9);
    expect(native.diskInfo(-1, new Float64Array(6))).toBe(-9);
    expect(native.uringEnter(-1, 0, 0)).toBe(-9);
    expect(native.mapMemory(-1, 0, 4096, 4095, false, new Float64Array(2))).toBe(-22);
    expect(native.mapMemory(-1, 0, 0, 4096, false, new Float64Array(2))).toBe(-22);
  });
});

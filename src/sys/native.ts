/**
 * Loads the addon and types its calls. Only `sys/` imports this file.
 *
 * Convention of every call: a negative result is a negative errno; a wrong argument is a thrown TypeError.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { TargetError } from '../base/errors.ts';

/** Opaque handle of a descriptor set or a turn. */
export type Watch = { readonly brand: 'watch' };

export interface Native {
  socketListen(path: string, backlog: number): number;
  socketAccept(fd: number): number;
  socketConnect(path: string): number;
  socketPair(out: Int32Array): number;
  receiveMessage(fd: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array): number;
  sendMessage(fd: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array, fdCount: number): number;
  writeNow(fd: number, bytes: Uint8Array, offset: number): number;
  peerCredentials(fd: number, out: Int32Array): number;
  setNonBlocking(fd: number): number;
  closeFd(fd: number): number;

  mapMemory(fd: number, offset: number, length: number, pageSize: number, guarded: boolean, out: Float64Array): number;
  unmapMemory(address: number, length: number, guardSlot: number): number;
  guardEventFd(): number;
  guardWasHit(slot: number): number;
  viewMemory(address: number, length: number): ArrayBuffer;
  detachView(view: ArrayBuffer): number;
  createMemoryFile(name: string, size: number, hugepageSize: number, isSealed: boolean): number;
  truncateFile(fd: number, size: number): number;
  fileInfo(fd: number, out: Float64Array): number;
  advise(address: number, length: number, advice: number): number;

  fdSetCreate(callback: (count: number) => void, events: Int32Array): Watch;
  fdSetControl(set: Watch, operation: number, fd: number, id: number, events: number): number;
  fdSetPoll(set: Watch): number;
  turnCreate(callback: () => void): Watch;
  turnStart(turn: Watch): number;
  turnStop(turn: Watch): number;
  watchClose(watch: Watch): number;
  eventFdCreate(): number;
  eventFdSignal(fd: number): number;
  eventFdRead(fd: number): number;

  copyEngineCreate(iovs: number, iovCapacity: number, operations: number, operationCapacity: number): number;
  copyEngineClose(id: number): number;
  copyEngineRun(id: number, count: number): void;

  uringSetup(entries: number, params: Uint8Array): number;
  uringEnter(fd: number, toSubmit: number, flags: number): number;
  uringWait(fd: number, count: number, timeoutNs: number): number;
  uringRegister(fd: number, opcode: number, fds: Int32Array): number;
  transferNow(fd: number, flags: number, records: Float64Array, count: number): void;
  diskInfo(fd: number, out: Float64Array): number;
  lockFile(fd: number, isShared: number): number;

  streamConnect(address: string, port: number): number;
  streamTransfer(fd: number, isSend: boolean, list: Uint8Array, first: number, count: number): number;
  crc32c(list: Uint8Array, first: number, count: number, length: number, seed: number): number;
  epollCreate(): number;
  epollControl(epoll: number, operation: number, fd: number, events: number): number;
  rbdCall(operation: number, handle: number, text: string, other: string, value: number): Promise<number | string>;
  rbdCluster(user: string, cores: Int32Array): number;
  rbdConfigure(cluster: number, name: string, value: string): number;
  rbdFd(handle: number): number;
  rbdImageError(image: number): number;
  rbdChannelOpen(image: number, requests: number): number;
  rbdChannelClose(channel: number): number;
  rbdSubmit(channel: number, records: Float64Array, count: number): void;
  rbdReap(channel: number, out: Float64Array): number;
  rbdArm(channel: number, isArmed: number): number;

  gatherCreate(
    descriptors: number,
    availableEntries: number,
    size: number,
    windows: Float64Array,
    records: number,
  ): number;
  gatherClose(id: number): number;
  gatherRun(id: number, first: number, count: number): void;
  gatherLook(id: number, first: number, wrap: number): number;

  deviceControl(fd: number, request: number, bytes: Uint8Array): number;
  deviceControlValue(fd: number, request: number, value: number): number;

  confine(readable: Int32Array, writable: Int32Array): number;

  setAffinity(core: number): number;
  getAffinity(out: Int32Array): number;
  nodeOfMemory(address: number): number;
  setThreadName(name: string): number;
  threadId(): number;
  clockNs(): number;
  clockStamp(): number;
  yieldCore(): number;
}

function load(): Native {
  const require = createRequire(import.meta.url);
  const root = fileURLToPath(new URL('../..', import.meta.url));
  // A checkout builds its own; the published package has only the prebuilt one. The tests name one with sanitizers.
  const named = process.env['RINGHOST_ADDON'];
  const own = [`${root}build/ringhost.node`, `${root}prebuilds/linux-${process.arch}/ringhost.node`];
  const candidates = named === undefined ? own : [named];
  const path = candidates.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new TargetError('ENOENT', `the native addon is not built for linux-${process.arch}: run \`npm start\``);
  }
  return require(path) as Native;
}

export const native: Native = load();

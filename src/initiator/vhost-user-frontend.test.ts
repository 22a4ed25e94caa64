/** The front-end against a back-end that the test scripts on the other end of a socket pair. */
import { fstatSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { Errno } from '../base/errors.ts';
import { closeFd, createEventFd } from '../sys/events.ts';
import { createMemoryFile } from '../sys/mapping.ts';
import { sendMessage, socketPair } from '../sys/socket.ts';
import {
  ConfigHead,
  encodeMessage,
  encodeU64,
  HeaderFlag,
  MemoryRegion,
  maskOf,
  ProtocolFeature,
  REQUESTS,
  VringAddr,
  VringState,
} from '../vhost-user/messages.ts';
import { MessageReader, type RawMessage } from './message-reader.ts';
import { type FrontendOptions, VhostUserFrontend } from './vhost-user-frontend.ts';

const cleanUp: (() => void)[] = [];
afterEach(() => {
  for (const action of cleanUp.splice(0).toReversed()) action();
});

class ScriptedBackend {
  readonly #fd: number;
  readonly #reader: MessageReader;
  #isOpen = true;

  constructor(fd: number) {
    this.#fd = fd;
    this.#reader = new MessageReader(fd);
  }

  async receive(): Promise<RawMessage> {
    for (;;) {
      const result = this.#reader.read();
      if (result.kind === 'message') return result.message;
      if (result.kind === 'end') throw new Error('the front-end closed');
      await nextTurn();
    }
  }

  reply(request: number, payload: Uint8Array, flags: number = HeaderFlag.reply): void {
    this.send(encodeMessage(request, flags, payload));
  }

  send(bytes: Uint8Array): void {
    if (sendMessage(this.#fd, bytes) !== bytes.length) throw new Error('the socket is full');
  }

  close(): void {
    if (this.#isOpen) closeFd(this.#fd);
    this.#isOpen = false;
  }
}

function connected(options: FrontendOptions = {}): { frontend: VhostUserFrontend; backend: ScriptedBackend } {
  const [ours, theirs] = socketPair();
  const frontend = new VhostUserFrontend(ours, { timeoutMs: 5000, ...options });
  const backend = new ScriptedBackend(theirs);
  cleanUp.push(() => {
    frontend.close();
    backend.close();
  });
  return { frontend, backend };
}

async function withReplyAck(options: FrontendOptions = {}) {
  const pair = connected(options);
  await pair.frontend.setProtocolFeatures(maskOf(ProtocolFeature.REPLY_ACK));
  await pair.backend.receive();
  return pair;
}

/** What a promise is rejected with. Attached at once, so that no rejection goes unhandled. */
async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('the promise was fulfilled');
}

describe('vhost-user front-end', () => {
  it('sends the header that the specification gives, and takes the reply', async () => {
    const { frontend, backend } = connected();
    const features = frontend.getFeatures();
    const request = await backend.receive();
    expect(request).toMatchObject({ request: 1, flags: HeaderFlag.version, fds: [] });
    backend.reply(1, encodeU64(0x1_4000_0000n));
    expect(await features).toBe(0x1_4000_0000n);
  });

  it('puts a reply together however the stream is cut', async () => {
    const { frontend, backend } = connected();
    const features = frontend.getFeatures();
    await backend.receive();
    for (const byte of encodeMessage(1, HeaderFlag.reply, encodeU64(42))) {
      backend.send(Uint8Array.of(byte));
      await nextTurn();
    }
    expect(await features).toBe(42n);
  });

  it('matches replies to requests in order', async () => {
    const { frontend, backend } = connected();
    const replies = Promise.all([frontend.getFeatures(), frontend.getVringBase(3), frontend.getQueueNum()]);
    for (let i = 0; i < 3; i++) await backend.receive();
    backend.reply(1, encodeU64(1));
    backend.reply(REQUESTS.GET_VRING_BASE.code, VringState.encode({ index: 3, num: 77 }));
    backend.reply(REQUESTS.GET_QUEUE_NUM.code, encodeU64(5));
    expect(await replies).toEqual([1n, 77, 5]);
  });

  it('asks for acks once REPLY_ACK was acked, and only then', async () => {
    const { frontend, backend } = connected();
    await frontend.setOwner();
    expect((await backend.receive()).flags).toBe(HeaderFlag.version);
    await frontend.setProtocolFeatures(maskOf(ProtocolFeature.REPLY_ACK));
    expect((await backend.receive()).flags).toBe(HeaderFlag.version);
    const acked = frontend.setVringNum(0, 128);
    expect((await backend.receive()).flags).toBe(HeaderFlag.version | HeaderFlag.needReply);
    backend.reply(REQUESTS.SET_VRING_NUM.code, encodeU64(0));
    await acked;
  });

  it('throws when a request is refused by its ack', async () => {
    const { frontend, backend } = await withReplyAck();
    const failure = failureOf(frontend.setVringNum(0, 3));
    await backend.receive();
    backend.reply(REQUESTS.SET_VRING_NUM.code, encodeU64(1));
    expect(await failure).toMatchObject({ code: 'VHOST_NACK' });
  });

  it('waits for no acks when told so', async () => {
    const { frontend, backend } = await withReplyAck({ wantsAcks: false });
    await frontend.setVringNum(0, 128);
    expect((await backend.receive()).flags).toBe(HeaderFlag.version);
  });

  it('refuses a reply to another request, one without the reply flag, and one of another size', async () => {
    const { frontend, backend } = connected();
    const bad: [number, Uint8Array, number][] = [
      [2, encodeU64(0), HeaderFlag.reply],
      [1, encodeU64(0), 0],
      [1, new Uint8Array(4), HeaderFlag.reply],
    ];
    for (const [code, payload, flags] of bad) {
      const failure = failureOf(frontend.getFeatures());
      await backend.receive();
      backend.reply(code, payload, flags);
      expect(await failure).toMatchObject({ code: 'VHOST_REPLY' });
    }
  });

  it('gives up after its time limit', async () => {
    const { frontend } = connected({ timeoutMs: 20 });
    await expect(frontend.getFeatures()).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  });

  it('tells everyone who waits when the back-end closes', async () => {
    const { frontend, backend } = connected();
    const failures = Promise.all([failureOf(frontend.getFeatures()), failureOf(frontend.receiveRaw())]);
    await backend.receive();
    backend.close();
    for (const failure of await failures) expect(failure).toMatchObject({ code: 'VHOST_CLOSED' });
    expect(await frontend.closed).toEqual({ isByPeer: true, errno: 0 });
    await expect(frontend.setOwner()).rejects.toMatchObject({ code: 'VHOST_CLOSED' });
  });

  it('closes at once when asked', async () => {
    const { frontend } = connected();
    const failure = failureOf(frontend.getFeatures());
    frontend.close();
    frontend.close();
    expect(await failure).toMatchObject({ code: 'VHOST_CLOSED' });
    expect(await frontend.closed).toEqual({ isByPeer: false, errno: 0 });
  });

  it('sends the memory table with one descriptor a region', async () => {
    const { frontend, backend } = connected();
    const fds = [createMemoryFile('a', 4096), createMemoryFile('b', 8192)];
    const regions = fds.map((fd, i) => ({
      guestAddress: 2 ** 40 * i,
      sizeBytes: 4096 * (i + 1),
      userAddress: 0x7f00_0000_0000 + i,
      mmapOffset: 0,
      fd,
    }));
    await frontend.setMemTable(regions);
    const message = await backend.receive();
    expect(message.payload.length).toBe(8 + 2 * 32);
    expect(MemoryRegion.decode(message.payload, 40)).toEqual({
      guestAddress: 2 ** 40,
      sizeBytes: 8192,
      userAddress: 0x7f00_0000_0001,
      mmapOffset: 0,
    });
    expect(message.fds.map((fd) => fstatSync(fd).size)).toEqual([4096, 8192]);
    for (const fd of [...fds, ...message.fds]) closeFd(fd);
  });

  it('sends ring addresses in the order descriptor, used, available', async () => {
    const { frontend, backend } = connected();
    await frontend.setVringAddr(1, { descriptor: 0x1000, used: 0x3000, available: 0x2000 });
    const { payload } = await backend.receive();
    expect(VringAddr.decode(payload)).toEqual({
      index: 1,
      flags: 0,
      descriptor: 0x1000,
      used: 0x3000,
      available: 0x2000,
      log: 0,
    });
    expect(Buffer.from(payload).readBigUInt64LE(16)).toBe(0x3000n);
  });

  it('sends an eventfd, or says that there is none', async () => {
    const { frontend, backend } = connected();
    const fd = createEventFd();
    await frontend.setVringKick(2, fd);
    const withFd = await backend.receive();
    expect(withFd.payload).toEqual(encodeU64(2));
    expect(withFd.fds.length).toBe(1);
    await frontend.setVringCall(2, null);
    const without = await backend.receive();
    expect(without.payload).toEqual(encodeU64(0x102));
    expect(without.fds).toEqual([]);
    for (const one of [fd, ...withFd.fds]) closeFd(one);
  });

  it('reads and writes the configuration space', async () => {
    const { frontend, backend } = connected();
    const config = frontend.getConfig(4, 8);
    const { payload } = await backend.receive();
    expect(ConfigHead.decode(payload)).toEqual({ offset: 4, size: 8, flags: 0 });
    expect(payload.length).toBe(20);
    payload.set([1, 2, 3, 4, 5, 6, 7, 8], 12);
    backend.reply(REQUESTS.GET_CONFIG.code, payload);
    expect(Array.from(await config)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    await frontend.setConfig(32, Uint8Array.of(1));
    const written = await backend.receive();
    expect(Array.from(written.payload)).toEqual([32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
  });

  it('answers requests of the back-end on its own channel', async () => {
    const { frontend, backend } = connected();
    const seen: number[] = [];
    await frontend.setBackendReqFd((message) => seen.push(message.request) - 1);
    const { fds } = await backend.receive();
    const channel = new ScriptedBackend(fds[0] as number);
    cleanUp.push(() => channel.close());
    channel.send(encodeMessage(2, 0, new Uint8Array(0)));
    channel.send(encodeMessage(3, HeaderFlag.needReply, new Uint8Array(8)));
    const reply = await channel.receive();
    expect(reply).toMatchObject({ request: 3, flags: HeaderFlag.version | HeaderFlag.reply, payload: encodeU64(1) });
    expect(seen).toEqual([2, 3]);
  });

  it('sends raw bytes in pieces, with descriptors where asked', async () => {
    const { frontend, backend } = connected();
    const fd = createEventFd();
    const bytes = Uint8Array.from([7, 0, 0, 0, 0xff, 0xff, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4]);
    await frontend.sendRaw(bytes, [fd], { chunkBytes: 1, fdsAtByte: 5 });
    const message = await backend.receive();
    expect(message).toMatchObject({ request: 7, flags: 0xffff, payload: Uint8Array.of(1, 2, 3, 4) });
    expect(message.fds.length).toBe(1);
    for (const one of [fd, ...message.fds]) closeFd(one);
  });

  it('hands out messages that nobody asked for', async () => {
    const { frontend, backend } = connected();
    backend.send(encodeMessage(99, 0, Uint8Array.of(1)));
    expect(await frontend.receiveRaw()).toMatchObject({ request: 99, payload: Uint8Array.of(1) });
  });

  it('keeps its order when the back-end is slow to read', async () => {
    const { frontend, backend } = connected();
    const count = 3000;
    const sent = Promise.all(Array.from({ length: count }, (_, i) => frontend.command(1000 + i, new Uint8Array(1024))));
    for (let i = 0; i < count; i++) expect((await backend.receive()).request).toBe(1000 + i);
    await sent;
  });

  it('ends when the back-end sends a message that is too long to be one', async () => {
    const { frontend, backend } = connected();
    const header = encodeMessage(1, HeaderFlag.reply, new Uint8Array(0));
    new DataView(header.buffer).setUint32(8, 1 << 30, true);
    backend.send(header);
    expect(await frontend.closed).toEqual({ isByPeer: true, errno: Errno.EOVERFLOW });
  });

  it('says what to do when nobody listens', async () => {
    await expect(VhostUserFrontend.connect('/nonexistent/vhost.0')).rejects.toThrow(/is the target running/);
  });
});

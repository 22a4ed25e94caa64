/**
 * vhost-user messages that no good front-end sends: wrong headers, lying sizes, descriptors of the wrong number and
 * kind, rings and memory that cannot be, broken streams.
 */
import { openSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { OwnedMemory, type RegionDescription } from '../../src/initiator/owned-memory.ts';
import { VhostUserFrontend } from '../../src/initiator/vhost-user-frontend.ts';
import { closeFd, createEventFd } from '../../src/sys/events.ts';
import { createMemoryFile } from '../../src/sys/mapping.ts';
import { connectUnix, sendMessage, socketPair } from '../../src/sys/socket.ts';
import {
  ConfigHead,
  encodeMessage,
  encodeU64,
  Header,
  HeaderFlag,
  MEMORY_TABLE_REGIONS_MAX,
  REQUESTS,
  type RequestName,
  type RequestSpec,
  requestName,
  VringAddr,
  VringState,
} from '../../src/vhost-user/messages.ts';
import { MIB } from './blk-case-helpers.ts';
import {
  anyOutcome,
  type HostileBench,
  isClosedByPeer,
  onHostileBench,
  refusal,
  seededRandom,
  waitUntil,
} from './hostile-helpers.ts';

const { needReply, version, reply } = HeaderFlag;
const NO_PAYLOAD = new Uint8Array(0);
const ROWS = Object.entries(REQUESTS) as [RequestName, RequestSpec][];
/** Not SET_PROTOCOL_FEATURES: acks are how refusals are seen. */
const SHUFFLED = ROWS.filter(([name]) => name !== 'SET_PROTOCOL_FEATURES');

let bench: HostileBench;
onHostileBench((started) => {
  bench = started;
});

/** A whole message with the header as given, right or wrong. */
function message(request: number, flags: number, size: number, payload: Uint8Array = NO_PAYLOAD): Uint8Array {
  const bytes = new Uint8Array(Header.size + payload.length);
  Header.encode({ request, flags, size }, bytes);
  bytes.set(payload, Header.size);
  return bytes;
}

/** Sends a request with any payload and descriptors, and waits for whichever reply it has. */
function send(frontend: VhostUserFrontend, spec: RequestSpec, payload: Uint8Array, fds: readonly number[] = []) {
  return spec.hasReply ? frontend.exchange(spec.code, payload, fds) : frontend.command(spec.code, payload, fds);
}

function withFds<T>(fds: readonly number[], use: (fds: readonly number[]) => Promise<T>): Promise<T> {
  return use(fds).finally(() => {
    for (const fd of fds) closeFd(fd);
  });
}

describe('headers', () => {
  it.each([0, 2, 3])('of protocol version %i end the connection', async (wrong) => {
    const frontend = await bench.connectFrontend();
    await frontend.sendRaw(message(REQUESTS.GET_FEATURES.code, wrong, 0));
    expect(await isClosedByPeer(frontend)).toBe(true);
  });

  it.each([4097, 65536, 0x7fff_ffff, 0xffff_ffff])('that announce %i bytes end the connection', async (size) => {
    const frontend = await bench.connectFrontend();
    await frontend.sendRaw(message(REQUESTS.SET_FEATURES.code, version, size, new Uint8Array(64)));
    expect(await isClosedByPeer(frontend)).toBe(true);
  });

  it('with the reply flag or with unknown flags harm nobody', async () => {
    for (const flags of [reply, 0x10, 0xffff_fff0, 0xffff_ffff]) {
      const frontend = await bench.connectFrontend({ timeoutMs: 300 });
      const bytes = message(REQUESTS.GET_FEATURES.code, (flags & ~3) | version, 0);
      await frontend.sendRaw(bytes);
      await frontend.receiveRaw().catch((error: unknown) => error);
      frontend.close();
    }
    expect(bench.internalErrors()).toEqual([]);
  });

  it('of unknown requests are answered by an ack that is not 0', async () => {
    const codes = Array.from({ length: 64 }, (_, code) => code).filter((code) => requestName(code) === undefined);
    const frontend = await bench.negotiated();
    for (const code of [...codes, 255, 256, 0x8000_0001, 0xffff_ffff]) {
      expect(await refusal(`request ${code}`, frontend.command(code, new Uint8Array(8)))).toBe('nack');
    }
  });

  it('of unknown requests that carry descriptors leave none open', async () => {
    const frontend = await bench.negotiated();
    await withFds(Array.from({ length: 8 }, createEventFd), async (fds) => {
      const codes = [99, 98, 31, 32, 6, 7].filter((code) => requestName(code) === undefined);
      for (const code of codes) await anyOutcome(frontend.command(code, new Uint8Array(24), fds));
    });
    expect(frontend.isClosed).toBe(false);
  });
});

describe('payload sizes', () => {
  it.each(ROWS)('of %s that are too small or too large are refused', async (name, spec) => {
    const fixed = spec.payload?.size ?? 0;
    const sizes = new Set([0, fixed - 1, fixed + 1, fixed + 8, 4096]);
    const legal = (size: number): boolean => size === fixed || (size > fixed && size <= (spec.payloadMax ?? fixed));
    for (const size of [...sizes].filter((one) => one >= 0 && !legal(one))) {
      const frontend = await bench.negotiated();
      expect(await refusal(`${name} of ${size} bytes`, send(frontend, spec, new Uint8Array(size)))).toBeDefined();
      frontend.close();
    }
  });

  it('of a memory table that do not fit its number of regions are refused', async () => {
    const memory = OwnedMemory.single(MIB);
    for (const [count, bytes] of [
      [2, 32],
      [1, 0],
      [1, 31],
      [1, 64],
      [0xffff_ffff, 32],
      [0x0800_0000, 32],
    ] as const) {
      const frontend = await bench.negotiated(['CONFIGURE_MEM_SLOTS']);
      const payload = new Uint8Array(8 + bytes);
      new DataView(payload.buffer).setUint32(0, count, true);
      const fds = memory.regions.map(({ fd }) => fd);
      const request = frontend.command(REQUESTS.SET_MEM_TABLE.code, payload, fds);
      expect(await refusal(`${count} regions in ${bytes} bytes`, request)).toBeDefined();
      frontend.close();
    }
    memory.close();
  });

  it('of a configuration request that disagree with each other are refused', async () => {
    const lies = [
      { offset: 0, size: 60, bytes: 8 },
      { offset: 0, size: 8, bytes: 60 },
      { offset: 0, size: 0xffff_ffff, bytes: 60 },
      { offset: 0xffff_ffff, size: 60, bytes: 60 },
      { offset: 0xffff_fff0, size: 256, bytes: 256 },
      { offset: 0, size: 0, bytes: 0 },
    ];
    for (const { offset, size, bytes } of lies) {
      for (const spec of [REQUESTS.GET_CONFIG, REQUESTS.SET_CONFIG] as const) {
        const frontend = await bench.negotiated();
        const payload = new Uint8Array(ConfigHead.size + bytes);
        ConfigHead.encode({ offset, size, flags: 0 }, payload);
        await anyOutcome(send(frontend, spec, payload));
        frontend.close();
      }
    }
    const probe = await bench.connect();
    expect(probe.config.capacitySectors * 512).toBe(bench.victim.sizeBytes);
  });
});

describe('file descriptors', () => {
  it.each(ROWS.filter(([, spec]) => spec.fds[1] === 0))(
    'that come with %s are refused or closed',
    async (_name, spec) => {
      for (const count of [1, 9]) {
        const frontend = await bench.negotiated();
        await withFds(Array.from({ length: count }, createEventFd), (fds) =>
          anyOutcome(send(frontend, spec, new Uint8Array(spec.payload?.size ?? 0), fds)),
        );
        frontend.close();
      }
      expect(bench.internalErrors()).toEqual([]);
    },
  );

  it.each(['SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR', 'SET_BACKEND_REQ_FD', 'ADD_MEM_REG'] as const)(
    'in a greater number than %s takes are refused',
    async (name) => {
      const spec: RequestSpec = REQUESTS[name];
      for (const count of [2, 9, 253]) {
        const frontend = await bench.negotiated();
        const payload = new Uint8Array(spec.payload?.size ?? 0);
        await withFds(Array.from({ length: count }, createEventFd), async (fds) => {
          expect(await refusal(`${name} with ${count}`, send(frontend, spec, payload, fds))).toBeDefined();
        });
        frontend.close();
      }
    },
  );

  it.each(['SET_BACKEND_REQ_FD', 'ADD_MEM_REG'] as const)('that are missing from %s make it fail', async (name) => {
    const frontend = await bench.negotiated();
    const spec: RequestSpec = REQUESTS[name];
    expect(await refusal(name, send(frontend, spec, new Uint8Array(spec.payload?.size ?? 0)))).toBeDefined();
  });

  it('of other kinds than they should be harm nobody', async () => {
    const memory = OwnedMemory.single(MIB);
    const [ours, theirs] = socketPair();
    const kinds = [
      createEventFd(),
      createMemoryFile('not-an-eventfd', 4096),
      ours,
      openSync('/dev/null', 'r+'),
      openSync('/dev/zero', 'r'),
      openSync('/', 'r'),
      openSync('/proc/self/maps', 'r'),
    ];
    await withFds([...kinds, theirs], async () => {
      for (const fd of kinds) {
        const frontend = await bench.negotiated();
        for (const name of ['SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR'] as const) {
          await anyOutcome(
            frontend.isClosed ? Promise.resolve() : frontend.command(REQUESTS[name].code, encodeU64(0), [fd]),
          );
        }
        frontend.close();
        const other = await bench.negotiated();
        await anyOutcome(other.command(REQUESTS.SET_BACKEND_REQ_FD.code, NO_PAYLOAD, [fd]));
        other.close();
        const table = await bench.negotiated(['CONFIGURE_MEM_SLOTS']);
        const region = { guestAddress: 0, sizeBytes: MIB, userAddress: 0x7000_0000_0000, mmapOffset: 0, fd };
        expect(await refusal('memory that is none', table.setMemTable([region]))).toBeDefined();
        table.close();
      }
    });
    memory.close();
  });
});

describe('ring indexes', () => {
  const wild = [255, 256, 257, 0xffff, 0x1_0000, 0x1_0001, 0x8000_0000, 0xffff_ffff];

  it('outside the device are refused, whichever bits they have', async () => {
    const probe = await bench.connect();
    const count = probe.session.queueCountMax;
    probe.close();
    for (const index of [count, ...wild].filter((one) => one >= count)) {
      const requests: [string, (frontend: VhostUserFrontend) => Promise<unknown>][] = [
        ['NUM', (frontend) => frontend.setVringNum(index, 128)],
        ['BASE', (frontend) => frontend.setVringBase(index, 0)],
        ['GET BASE', (frontend) => frontend.getVringBase(index)],
        ['ENABLE', (frontend) => frontend.setVringEnable(index, true)],
        ['ADDR', (frontend) => frontend.setVringAddr(index, { descriptor: 0, used: 0, available: 0 })],
      ];
      for (const [what, request] of requests) {
        const frontend = await bench.negotiated();
        await refusal(`${what} of ring ${index}`, request(frontend));
        frontend.close();
      }
    }
    expect(count).toBeGreaterThan(0);
  });

  it('of KICK, CALL and ERR are taken from 8 bits only', async () => {
    for (const name of ['SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR'] as const) {
      for (const value of [0xffn, 0x1ffn, 0x200n, 1n << 32n, 1n << 63n, (1n << 64n) - 1n]) {
        const frontend = await bench.negotiated();
        await withFds([createEventFd()], (fds) =>
          anyOutcome(frontend.command(REQUESTS[name].code, encodeU64(value), fds)),
        );
        frontend.close();
      }
    }
    expect(bench.internalErrors()).toEqual([]);
  });

  it('may come with any size, base and addresses', async () => {
    const values = [0, 1, 3, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x8000_0000, 0xffff_ffff];
    const frontend = await bench.connectFrontend();
    await frontend.getFeatures();
    for (const num of values) {
      for (const name of ['SET_VRING_NUM', 'SET_VRING_BASE', 'SET_VRING_ENABLE'] as const) {
        const connection = await reopenIfClosed(frontend);
        await anyOutcome(connection.command(REQUESTS[name].code, VringState.encode({ index: 0, num })));
      }
    }
    const fields = {
      index: 0,
      flags: 0xffff_ffff,
      descriptor: 2 ** 64 - 4096,
      used: 1,
      available: 2 ** 63,
      log: 2 ** 52,
    };
    const connection = await reopenIfClosed(frontend);
    await anyOutcome(connection.command(REQUESTS.SET_VRING_ADDR.code, VringAddr.encode(fields)));
    expect(bench.internalErrors()).toEqual([]);
  });

  async function reopenIfClosed(frontend: VhostUserFrontend): Promise<VhostUserFrontend> {
    return frontend.isClosed ? bench.connectFrontend() : frontend;
  }
});

describe('memory tables', () => {
  const good = { guestAddress: 0, sizeBytes: MIB, userAddress: 0x7000_0000_0000, mmapOffset: 0 };
  const bad: [string, Omit<RegionDescription, 'fd'>[]][] = [
    ['with a region of no bytes', [{ ...good, sizeBytes: 0 }]],
    ['with a region larger than its file', [{ ...good, sizeBytes: 2 * MIB }]],
    ['with a region that starts past the end of its file', [{ ...good, mmapOffset: 2 * MIB }]],
    ['with an offset and a size that overflow', [{ ...good, mmapOffset: 2 ** 64 - 4096 }]],
    ['with a region that ends past 2^64', [{ ...good, guestAddress: 2 ** 64 - 4096 }]],
    ['with a size of nearly 2^64', [{ ...good, sizeBytes: 2 ** 64 - 4096 }]],
    ['with a size of 2^52', [{ ...good, sizeBytes: 2 ** 52 }]],
    ['with the same region twice', [good, good]],
    ['with regions that overlap', [good, { ...good, guestAddress: MIB / 2 }]],
    ['with one region inside another', [good, { ...good, guestAddress: 4096, sizeBytes: 4096 }]],
  ];

  it.each(bad)('%s are refused, in one table and slot by slot', async (what, regions) => {
    const memory = OwnedMemory.single(MIB);
    const fd = memory.regions[0]?.fd ?? -1;
    const table = await bench.negotiated(['CONFIGURE_MEM_SLOTS']);
    const inOne = table.setMemTable(regions.map((region) => ({ ...region, fd })));
    expect(await refusal(what, inOne)).toBeDefined();
    table.close();
    const slots = await bench.negotiated();
    const oneByOne = Promise.all(regions.map((region) => slots.addMemRegion({ ...region, fd })));
    expect(await refusal(what, oneByOne)).toBeDefined();
    memory.close();
  });

  it('with fewer or more descriptors than regions are refused', async () => {
    const memory = OwnedMemory.single(MIB);
    const fd = memory.regions[0]?.fd ?? -1;
    const payload = new Uint8Array(8 + 64);
    payload[0] = 2;
    new DataView(payload.buffer).setUint32(16, MIB, true);
    new DataView(payload.buffer).setUint32(48, MIB, true);
    new DataView(payload.buffer).setUint32(43, 1, true);
    for (const count of [0, 1, 3, 9, MEMORY_TABLE_REGIONS_MAX + 1, 253]) {
      const frontend = await bench.negotiated(['CONFIGURE_MEM_SLOTS']);
      const fds = Array.from({ length: count }, () => fd);
      expect(
        await refusal(`${count} descriptors`, frontend.command(REQUESTS.SET_MEM_TABLE.code, payload, fds)),
      ).toBeDefined();
      frontend.close();
    }
    memory.close();
  });

  it('of more regions than there are slots are refused', async () => {
    const frontend = await bench.negotiated();
    const slots = await frontend.getMaxMemSlots();
    const memory = OwnedMemory.single(4096);
    const fd = memory.regions[0]?.fd ?? -1;
    for (let i = 0; i < slots; i++) {
      await frontend.addMemRegion({
        guestAddress: i * 4096,
        sizeBytes: 4096,
        userAddress: 0x7000_0000_0000 + i * 4096,
        mmapOffset: 0,
        fd,
      });
    }
    const more = { guestAddress: slots * 4096, sizeBytes: 4096, userAddress: 0x6000_0000_0000, mmapOffset: 0, fd };
    await refusal('one slot too many', frontend.addMemRegion(more));
    expect(slots).toBeGreaterThanOrEqual(32);
    memory.close();
  });

  it('are not changed by the removal of regions that are not there', async () => {
    const memory = OwnedMemory.single(MIB);
    const region = memory.regions[0] as RegionDescription;
    const frontend = await bench.negotiated();
    await refusal('nothing', frontend.remMemRegion(region));
    const second = frontend.isClosed ? await bench.negotiated() : frontend;
    await second.addMemRegion(region);
    for (const change of [{ guestAddress: 4096 }, { sizeBytes: 4096 }, { userAddress: 0 }]) {
      const connection = second.isClosed ? await bench.negotiated() : second;
      await refusal('another', connection.remMemRegion({ ...region, ...change }));
    }
    expect(bench.internalErrors()).toEqual([]);
    memory.close();
  });
});

describe('streams', () => {
  it('that end in the middle of a message leave nothing behind', async () => {
    const memory = OwnedMemory.single(MIB);
    const fds = memory.regions.map(({ fd }) => fd);
    const payload = new Uint8Array(40);
    payload[0] = 1;
    const whole = encodeMessage(REQUESTS.SET_MEM_TABLE.code, needReply, payload);
    for (let length = 1; length < whole.length; length += 3) {
      const frontend = await bench.connectFrontend();
      await frontend.sendRaw(whole.subarray(0, length), fds);
      frontend.close();
    }
    expect(bench.internalErrors()).toEqual([]);
    memory.close();
  });

  it('of many front-ends that come and go at once do not keep out the next one', async () => {
    const comers = await Promise.all(Array.from({ length: 20 }, () => bench.connectFrontend()));
    const last = await bench.connectFrontend();
    for (const comer of comers) comer.close();
    expect(await last.getFeatures()).toBeGreaterThan(0n);
  });

  it('that come byte by byte are understood', async () => {
    const frontend = await bench.connectFrontend();
    const bytes = encodeMessage(REQUESTS.GET_FEATURES.code, 0, NO_PAYLOAD);
    const answer = frontend.receiveRaw();
    await frontend.sendRaw(bytes, [], { chunkBytes: 1 });
    expect((await answer).request).toBe(REQUESTS.GET_FEATURES.code);
  });

  it('with descriptors in the middle of a message are understood or ended', async () => {
    const memory = OwnedMemory.single(MIB);
    for (const fdsAtByte of [1, 11, 12, 13, 30]) {
      const frontend = await bench.connectFrontend();
      const payload = new Uint8Array(40);
      payload[0] = 1;
      const bytes = encodeMessage(REQUESTS.SET_MEM_TABLE.code, 0, payload);
      const fds = memory.regions.map(({ fd }) => fd);
      await frontend.sendRaw(bytes, fds, { chunkBytes: 1, fdsAtByte }).catch((error: unknown) => error);
      await anyOutcome(frontend.isClosed ? Promise.resolve() : frontend.getFeatures());
      frontend.close();
    }
    expect(bench.internalErrors()).toEqual([]);
    memory.close();
  });

  it('of random bytes are ended', async () => {
    for (let seed = 1; seed <= 50; seed++) {
      const random = seededRandom(seed);
      const frontend = await bench.connectFrontend();
      const bytes = Uint8Array.from({ length: 4096 }, () => random() * 256);
      await frontend.sendRaw(bytes).catch((error: unknown) => error);
      // The first header of random bytes has the right version and a small size once in a million times.
      expect(await isClosedByPeer(frontend)).toBe(true);
    }
    expect(bench.internalErrors()).toEqual([]);
  });

  it('of messages in any order harm nobody', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const random = seededRandom(seed);
      const frontend = await bench.negotiated();
      for (let i = 0; i < 40 && !frontend.isClosed; i++) {
        const [, spec] = SHUFFLED[Math.floor(random() * SHUFFLED.length)] as [RequestName, RequestSpec];
        const payload = new Uint8Array(spec.payload?.size ?? 0);
        // Mostly small numbers: they get through the first checks.
        payload.forEach((_, at) => {
          payload[at] = random() < 0.8 ? 0 : random() < 0.8 ? random() * 4 : random() * 256;
        });
        const count = Math.round(spec.fds[0] + random() * Math.min(1, spec.fds[1] - spec.fds[0]));
        await withFds(Array.from({ length: count }, createEventFd), (fds) =>
          anyOutcome(send(frontend, spec, payload, fds)),
        );
      }
      frontend.close();
    }
    expect(bench.internalErrors()).toEqual([]);
  });

  it('whose replies nobody reads stop nobody else', async () => {
    const fd = connectUnix(bench.victim.path);
    bench.track({ close: () => closeFd(fd) });
    const bytes = encodeMessage(REQUESTS.GET_FEATURES.code, 0, NO_PAYLOAD);
    let sent = 0;
    let isFull = false;
    for (let i = 0; i < 200_000 && !isFull; i++) {
      const result = sendMessage(fd, bytes);
      if (result === bytes.length) sent++;
      else if (i % 100 === 0) await nextTurn();
      isFull = result < 0 && i > 100_000;
    }
    expect(sent).toBeGreaterThan(100);
  });
});

describe('connections', () => {
  it('beside a first one are refused at once, and the first goes on', async () => {
    // A controller of its own: the log says the same thing of one controller only so often.
    const target = await bench.daemon.create({ sizeBytes: MIB });
    const first = bench.track(await BlkInitiator.connect(target.path));
    await first.write(0, new Uint8Array(4096).fill(1));
    const logged = bench.daemon.log.length;
    for (let i = 0; i < 3; i++) {
      const second = bench.track(await VhostUserFrontend.connect(target.path));
      expect(await isClosedByPeer(second)).toBe(true);
      await first.flush();
    }
    expect(await first.read(0, 4096)).toEqual(new Uint8Array(4096).fill(1));
    await waitUntil('the log says so', () => /disk\.\d.*refused/.test(bench.daemon.log.slice(logged)));
    first.close();
    await target.close();
  });

  it('by the hundred, at once and one after another, are survived', async () => {
    const many = await Promise.all(Array.from({ length: 200 }, () => bench.connectFrontend()));
    for (const frontend of many) frontend.close();
    for (let i = 0; i < 200; i++) (await bench.connectFrontend()).close();
    expect(bench.internalErrors()).toEqual([]);
  });

  it('that say nothing keep nobody else from work', async () => {
    await bench.connectFrontend();
    const other = await bench.daemon.rpc.call('vhost_get_controllers', { name: 'disk.2' });
    expect(other.length).toBe(1);
  });
});

/** Sessions: setting up in odd orders, again and again, and changing things under a running driver. */
import { deepEqual, equal, ok, rejects } from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { DriverQueue } from '../../src/initiator/driver-queue.ts';
import { RING_FEATURES, STORAGE_PROTOCOL_FEATURES } from '../../src/initiator/frontend-session.ts';
import { BlkLoadGenerator } from '../../src/initiator/load-generator.ts';
import { OwnedMemory, type OwnedRegion } from '../../src/initiator/owned-memory.ts';
import type { VhostUserFrontend } from '../../src/initiator/vhost-user-frontend.ts';
import { hasBit, maskOf, ProtocolFeature, VHOST_USER_F_PROTOCOL_FEATURES } from '../../src/vhost-user/messages.ts';
import { BlkFeature } from '../../src/virtio/blk.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { KIB, MIB, pattern, SECTOR, sameBytes, writeAndReadBack } from './blk-case-helpers.ts';
import type { BlkCase, CaseContext } from './blk-cases.ts';

const WITHOUT_SLOTS = STORAGE_PROTOCOL_FEATURES & ~maskOf(ProtocolFeature.CONFIGURE_MEM_SLOTS);
const BLOCKS = 1024;
/** Of virtio's device status. */
const DRIVER_OK = 4;
/** A small memory region. */
const SLOT_BYTES = 64 * KIB;
/** Features of a connection that does nothing but show that it is served. */
const BASIC = maskOf(VirtioFeature.VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES);

/** A front-end that has negotiated REPLY_ACK and nothing else. */
async function negotiated(context: CaseContext): Promise<VhostUserFrontend> {
  const frontend = await context.connectFrontend();
  await frontend.getFeatures();
  await frontend.setProtocolFeatures((await frontend.getProtocolFeatures()) & maskOf(ProtocolFeature.REPLY_ACK));
  await frontend.setOwner();
  return frontend;
}

/** The message is refused by its ack or by the end of the connection; afterwards others are served. */
async function checkRefused(
  context: CaseContext,
  what: string,
  send: (frontend: VhostUserFrontend) => Promise<unknown>,
) {
  const frontend = await negotiated(context);
  await rejects(send(frontend), /refused|closed/, what);
  frontend.close();
  await checkServed(context);
}

/** A message that may be accepted or refused, but harms nobody. */
async function checkHarmless(context: CaseContext, send: (frontend: VhostUserFrontend) => Promise<unknown>) {
  const frontend = await negotiated(context);
  await send(frontend).catch(() => {});
  frontend.close();
  await checkServed(context);
}

async function checkServed(context: CaseContext): Promise<void> {
  const disk = await context.connect();
  await writeAndReadBack(disk, 0, pattern(4 * KIB, 99));
  disk.close();
}

/** Runs a verified load on queue 0 while `act` happens, and until it is over. */
async function underLoad(disk: BlkInitiator, act: () => Promise<void>): Promise<void> {
  const stamps = new BlockStamps(BLOCKS, 4096, { isZeroed: true });
  const generator = new BlkLoadGenerator(disk, { depth: 16, queues: [0], writePercent: 50, stamps });
  const run = generator.runAsync({ durationMs: 60_000 });
  run.catch(() => {});
  await sleep(20);
  await act();
  await sleep(20);
  generator.stop();
  const { ios, errors, firstMismatch } = await run;
  deepEqual({ isLoaded: ios > 0, errors, firstMismatch }, { isLoaded: true, errors: 0, firstMismatch: null });
  generator.close();
}

const setupCases: readonly BlkCase[] = [
  {
    name: 'offers what storage front-ends need',
    async run(context) {
      const { session } = await context.connect();
      for (const bit of [VirtioFeature.VERSION_1, VirtioFeature.INDIRECT_DESC, VirtioFeature.EVENT_IDX]) {
        ok(hasBit(session.offered, bit), `virtio feature ${bit}`);
      }
      for (const name of ['MQ', 'REPLY_ACK', 'BACKEND_REQ', 'CONFIG', 'CONFIGURE_MEM_SLOTS'] as const) {
        ok(hasBit(session.offeredProtocol, ProtocolFeature[name]), name);
      }
      ok(session.queueCountMax >= context.target.queues);
    },
  },
  {
    name: 'refuses rings of a size that none has',
    async run(context) {
      for (const size of [0, 3, 100, 65536, 0x8000_0000]) {
        await checkRefused(context, `${size} entries`, (frontend) => frontend.setVringNum(0, size));
      }
    },
  },
  {
    name: 'refuses ring addresses that are misaligned or outside the memory',
    async run(context) {
      const memory = OwnedMemory.single(4 * MIB);
      const base = memory.userAddressOf(memory.allocate(MIB));
      const good = { descriptor: base, available: base + 0x10000, used: base + 0x20000 };
      const bad = [
        { ...good, descriptor: base + 8 },
        { ...good, available: base + 0x10001 },
        { ...good, used: base + 0x20002 },
        { ...good, descriptor: base - 4096 },
        { ...good, used: base + 4 * MIB - 16 },
        { ...good, available: 0 },
        { ...good, descriptor: 2 ** 63 },
      ];
      for (const [i, addresses] of bad.entries()) {
        await checkRefused(context, `address ${i}`, async (frontend) => {
          await frontend.setFeatures(BASIC);
          await frontend.setMemTable(memory.regions);
          await frontend.setVringNum(0, 128);
          await frontend.setVringAddr(0, addresses);
          await frontend.setVringKick(0, null);
          await frontend.setVringEnable(0, true);
          throw new Error('accepted');
        });
      }
      memory.close();
    },
  },
  {
    name: 'lives through an empty memory table',
    run: (context) => checkHarmless(context, (frontend) => frontend.setMemTable([])),
  },
  {
    name: 'lives through ring messages before the memory table',
    run: (context) =>
      checkHarmless(context, async (frontend) => {
        await frontend.setVringNum(0, 128);
        await frontend.setVringAddr(0, { descriptor: 0x10000, available: 0x20000, used: 0x30000 });
        await frontend.setVringKick(0, null);
        await frontend.setVringEnable(0, true);
      }),
  },
  {
    name: 'lives through rings that are enabled and stopped but never set up',
    run: (context) =>
      checkHarmless(context, async (frontend) => {
        await frontend.setVringEnable(0, true);
        equal(await frontend.getVringBase(0), 0);
        await frontend.setVringEnable(0, false);
      }),
  },
  {
    name: 'lets a second SET_OWNER pass, or refuses it, and goes on',
    async run(context) {
      const disk = await context.connect();
      await disk.frontend.setOwner().catch((error: Error) => ok(/refused/.test(error.message), error.message));
      await writeAndReadBack(disk, 0, pattern(SECTOR));
    },
  },
  {
    name: 'refuses features that it did not offer',
    async run(context) {
      const probe = await context.connect();
      const { offered } = probe.session;
      probe.close();
      for (const bit of [VirtioFeature.RING_PACKED, 63, 50, 44]) {
        if (hasBit(offered, bit)) continue;
        await checkRefused(context, `feature ${bit}`, (frontend) => frontend.setFeatures(BASIC | maskOf(bit)));
      }
    },
  },
  {
    name: 'works with no more features than VERSION_1',
    async run(context) {
      const disk = await context.connect({ features: maskOf(VirtioFeature.VERSION_1) });
      await writeAndReadBack(disk, 0, pattern(MIB));
    },
  },
  {
    name: 'works with a front-end that acks no protocol features, and enables no rings',
    async run(context) {
      const session = { protocolFeatures: maskOf(ProtocolFeature.CONFIG) };
      const disk = await context.connect(session);
      await writeAndReadBack(disk, 0, pattern(4 * KIB));
      disk.close();
      await writeAndReadBack(await context.connect({ ...session, wantsAcks: false }), 8, pattern(4 * KIB));
    },
  },
  {
    name: 'works with a front-end that asks for no acks',
    async run(context) {
      const disk = await context.connect({ wantsAcks: false });
      await writeAndReadBack(disk, 0, pattern(MIB));
    },
  },
];

const repeatCases: readonly BlkCase[] = [
  {
    name: 'keeps data over a reconnect',
    async run(context) {
      const first = await context.connect();
      await first.write(0, pattern(MIB, 1));
      first.disconnect();
      first.close();
      const second = await context.connect();
      sameBytes(await second.read(0, MIB), pattern(MIB, 1), 'after a reconnect');
      await second.reconnect();
      sameBytes(await second.read(0, MIB), pattern(MIB, 1), 'after a reconnect with the same rings');
      await writeAndReadBack(second, 5, pattern(SECTOR, 3));
    },
  },
  {
    name: 'serves front-ends one after another, with other features, queues and memory each time',
    async run(context) {
      const none = maskOf(VirtioFeature.VERSION_1);
      for (let i = 0; i < 15; i++) {
        const disk = await context.connect({
          queues: 1 + (i % 4),
          queueSize: 32 << (i % 3),
          ...(i % 2 === 0 ? { features: none | maskOf(...Object.values(BlkFeature)) } : {}),
          memory: [{ guestAddress: i * MIB, sizeBytes: 16 * MIB }],
        });
        await writeAndReadBack(disk, i * 8, pattern(4 * KIB, i + 1), i % (1 + (i % 4)));
        disk.close();
      }
    },
  },
  {
    name: 'takes the next front-end after one that vanished with requests in flight',
    async run(context) {
      for (let round = 0; round < 5; round++) {
        const disk = await context.connect({ queues: 2 });
        const requests = Array.from({ length: 32 }, (_, i) => disk.read(i * 64, 64 * KIB, { queue: i % 2 }));
        disk.disconnect();
        await Promise.allSettled(requests);
        // It may refuse until the requests are done.
        await disk.reconnect();
        await writeAndReadBack(disk, 0, pattern(4 * KIB, round + 1));
        disk.close();
      }
    },
  },
  {
    name: 'does what a driver published while nobody was connected, after the reconnect',
    async run(context) {
      const disk = await context.connect({ keepsRequests: true });
      await disk.write(0, pattern(SECTOR, 6));
      disk.disconnect();
      const pending = Promise.all([disk.read(0, SECTOR), disk.write(1, pattern(SECTOR, 7)), disk.flush()]);
      pending.catch(() => {});
      await disk.reconnect();
      sameBytes((await pending)[0], pattern(SECTOR, 6), 'read after the reconnect');
      sameBytes(await disk.read(1, SECTOR), pattern(SECTOR, 7), 'written after the reconnect');
    },
  },
  {
    name: 'stops and starts again under one connection',
    async run(context) {
      const disk = await context.connect({ queues: 2 });
      for (let i = 0; i < 10; i++) {
        await writeAndReadBack(disk, i, pattern(SECTOR, i + 1), i % 2);
        await disk.stop();
        await disk.start();
      }
    },
  },
  {
    name: 'can be set up again after RESET_OWNER',
    async run(context) {
      const disk = await context.connect();
      await writeAndReadBack(disk, 0, pattern(SECTOR, 1));
      await disk.stop();
      await disk.frontend.resetOwner();
      await disk.frontend.setOwner();
      await disk.start();
      await writeAndReadBack(disk, 1, pattern(SECTOR, 2));
    },
  },
  {
    name: 'begins anew when the device status is set to 0, and keeps the status that it was told',
    options: { protocolFeatures: STORAGE_PROTOCOL_FEATURES | maskOf(ProtocolFeature.STATUS) },
    async run(context) {
      const disk = await context.connect();
      ok(disk.session.hasProtocolFeature('STATUS'));
      equal(await disk.frontend.getStatus(), 0);
      await disk.frontend.setStatus(DRIVER_OK);
      equal(await disk.frontend.getStatus(), DRIVER_OK);
      await writeAndReadBack(disk, 0, pattern(SECTOR, 1));
      await disk.frontend.setStatus(0);
      equal(await disk.frontend.getStatus(), 0);
      disk.queue(0).ring.reset();
      await disk.start();
      await writeAndReadBack(disk, 1, pattern(SECTOR, 2));
      sameBytes(await disk.read(0, SECTOR), pattern(SECTOR, 1), 'from before the reset');
    },
  },
  {
    name: 'is handed from firmware with one small queue over to an operating system with others',
    async run(context) {
      const firmware = { features: maskOf(VirtioFeature.VERSION_1), queues: 1, queueSize: 16, poll: true };
      const disk = await context.connect(firmware);
      for (let i = 0; i < 10; i++) await writeAndReadBack(disk, i, pattern(SECTOR, i + 1));
      const systems = [
        { isPacked: context.isPacked, features: RING_FEATURES | maskOf(BlkFeature.MQ), queues: 4, queueSize: 256 },
        { isPacked: false, features: RING_FEATURES, queues: 2, queueSize: 128 },
      ];
      for (const system of systems) {
        await disk.stop();
        await disk.restart({ ...system, poll: false });
        for (let i = 0; i < 10; i++) sameBytes(await disk.read(i, SECTOR), pattern(SECTOR, i + 1), `sector ${i}`);
        for (const { index } of disk.queues) await writeAndReadBack(disk, 100 + index, pattern(SECTOR, index), index);
      }
    },
  },
  {
    name: 'can be set up again after RESET_DEVICE',
    async run(context) {
      const disk = await context.connect();
      ok(disk.session.hasProtocolFeature('RESET_DEVICE'));
      await writeAndReadBack(disk, 0, pattern(SECTOR, 1));
      await disk.frontend.resetDevice();
      disk.queue(0).ring.reset();
      await disk.start();
      await writeAndReadBack(disk, 1, pattern(SECTOR, 2));
      sameBytes(await disk.read(0, SECTOR), pattern(SECTOR, 1), 'from before the reset');
    },
  },
];

const runningCases: readonly BlkCase[] = [
  {
    name: 'takes a new memory table under load, with the same regions mapped anew and others added',
    options: { protocolFeatures: WITHOUT_SLOTS, queues: 2 },
    async run(context) {
      const disk = await context.connect();
      await underLoad(disk, async () => {
        for (let i = 0; i < 10; i++) {
          const region = disk.memory.add({ guestAddress: 2 ** 34 + i * 4 * MIB, sizeBytes: 2 * MIB });
          await disk.session.shareMemory();
          const place = (lengthBytes: number): number =>
            lengthBytes === 4 * KIB ? region.guestAddress + 4096 : disk.memory.allocate(16);
          const data = pattern(4 * KIB, i + 1);
          await disk.write(32 * KIB + i * 8, data, { place, queue: 1 });
          region.bytes.fill(0);
          sameBytes(await disk.read(32 * KIB + i * 8, data.length, { place, queue: 1 }), data, `round ${i}`);
          disk.memory.remove(region);
          await disk.session.shareMemory();
        }
      });
    },
  },
  {
    name: 'takes memory slots added and removed under load',
    options: { queues: 2 },
    async run(context) {
      const disk = await context.connect();
      await underLoad(disk, async () => {
        for (let i = 0; i < 20; i++) {
          const region = disk.memory.add({ guestAddress: 2 ** 34 + i * 4 * MIB, sizeBytes: 2 * MIB });
          await disk.session.shareMemory();
          await writeAndReadBack(disk, 32 * KIB + i * 8, pattern(4 * KIB, i + 1), 1);
          disk.memory.remove(region);
          await disk.session.shareMemory();
        }
      });
    },
  },
  {
    name: 'takes as many memory slots as it says, the last of them coming and going under load',
    options: {
      queues: 2,
      memory: [
        { guestAddress: 2 ** 32, sizeBytes: 16 * MIB },
        { guestAddress: 2 ** 33, sizeBytes: SLOT_BYTES },
      ],
    },
    async run(context) {
      const disk = await context.connect();
      const { session, memory } = disk;
      const place = (gpa: number) => (lengthBytes: number) =>
        lengthBytes === 4 * KIB ? gpa : memory.allocate(16, { region: memory.regions[0] as OwnedRegion });
      const add = (slot: number) =>
        memory.add({ guestAddress: 2 ** 33 + slot * 2 * SLOT_BYTES, sizeBytes: SLOT_BYTES });
      await disk.stop();
      for (let slot = 1; memory.regions.length < session.memSlotsMax - 1; slot++) add(slot);
      await disk.start();
      await underLoad(disk, async () => {
        for (let round = 0; round < 5; round++) {
          const last = add(1000 + round);
          equal(memory.regions.length, session.memSlotsMax);
          await session.shareMemory();
          for (const { guestAddress } of [last, memory.regions[1 + round] as OwnedRegion]) {
            const shape = { place: place(guestAddress), queue: 1 };
            const data = pattern(4 * KIB, round + 1);
            await disk.write(32 * KIB + round * 8, data, shape);
            memory.bytes(guestAddress, 4 * KIB).fill(0);
            sameBytes(await disk.read(32 * KIB + round * 8, data.length, shape), data, `round ${round}`);
          }
          memory.remove(last);
          await session.shareMemory();
        }
      });
    },
  },
  {
    name: 'takes the same features again under load',
    options: { queues: 2 },
    async run(context) {
      const disk = await context.connect();
      await underLoad(disk, async () => {
        for (let i = 0; i < 20; i++) {
          await disk.frontend.setFeatures(disk.features);
          await writeAndReadBack(disk, 32 * KIB + i * 8, pattern(4 * KIB, i + 1), 1);
        }
      });
    },
  },
  {
    name: 'takes the same ring addresses again under load',
    options: { queues: 2 },
    async run(context) {
      const disk = await context.connect();
      const { ring } = disk.queue(0);
      const addresses = {
        descriptor: disk.memory.userAddressOf(ring.descriptorAddress),
        available: disk.memory.userAddressOf(ring.availableAddress),
        used: disk.memory.userAddressOf(ring.usedAddress),
      };
      await underLoad(disk, async () => {
        for (let i = 0; i < 20; i++) await disk.frontend.setVringAddr(0, addresses);
      });
    },
  },
  {
    name: 'resets one ring and takes another in its place while the other queue is under load (RING_RESET)',
    options: { queues: 2 },
    async run(context) {
      const disk = await context.connect();
      await underLoad(disk, async () => {
        const { session, frontend, memory } = disk;
        for (const size of [16, 64, 256]) {
          await writeAndReadBack(disk, 32 * KIB + size, pattern(4 * KIB, size), 1);
          await frontend.setVringEnable(1, false);
          await frontend.getVringBase(1);
          const ring = { size, hasEventIdx: disk.hasFeature(VirtioFeature.EVENT_IDX), isPacked: context.isPacked };
          const queue = new DriverQueue(memory, { ...ring, index: 1, isPolled: false, fds: session.fds });
          for (const old of session.queues.splice(1, 1, queue)) old.close();
          await session.startQueue(queue);
          await frontend.setVringEnable(1, true);
          await writeAndReadBack(disk, 32 * KIB + size, pattern(4 * KIB, size + 1), 1);
        }
      });
    },
  },
  {
    name: 'is kicked and calls by messages alone with INBAND_NOTIFICATIONS',
    options: {
      protocolFeatures: STORAGE_PROTOCOL_FEATURES | maskOf(ProtocolFeature.INBAND_NOTIFICATIONS),
      queues: 2,
    },
    async run(context) {
      const disk = await context.connect();
      ok(disk.session.hasProtocolFeature('INBAND_NOTIFICATIONS'));
      for (let i = 0; i < 20; i++) await writeAndReadBack(disk, i * 8, pattern(4 * KIB, i + 1), i % 2);
      // Asleep, it hears of requests by nothing but the message.
      for (let i = 0; i < 3; i++) {
        await sleep(20);
        await writeAndReadBack(disk, i * 8, pattern(4 * KIB, i + 7), 1);
      }
      ok(disk.queues.every(({ kicks, calls }) => kicks > 0 && calls > 0));
      await disk.stop();
      await disk.start();
      await writeAndReadBack(disk, 0, pattern(4 * KIB, 3));
    },
  },
  {
    name: 'stops and starts one queue while another is under load',
    options: { queues: 2 },
    async run(context) {
      const disk = await context.connect();
      await underLoad(disk, async () => {
        const queue = disk.queue(1);
        for (let i = 0; i < 20; i++) {
          await writeAndReadBack(disk, 32 * KIB + i * 8, pattern(4 * KIB, i + 1), 1);
          queue.base = await disk.frontend.getVringBase(1);
          equal(queue.base, queue.ring.usedBase);
          await disk.session.startQueue(queue);
          await disk.frontend.setVringEnable(1, true);
        }
      });
    },
  },
];

export const sessionCases: readonly BlkCase[] = [...setupCases, ...repeatCases, ...runningCases];

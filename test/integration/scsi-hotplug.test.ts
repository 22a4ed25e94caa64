/** Targets that come, go and grow while a driver works: events, unit attentions, and nothing left behind. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { EVENTS_PENDING_MAX } from '../../src/vhost/scsi-events.ts';
import { SCSI_CAPACITY_CHANGED, ScsiEventType, ScsiResetReason, ScsiResponse } from '../../src/virtio/scsi.ts';
import { attentions, BLOCK_BYTES, read10, ScsiBench, TEST_UNIT_READY, write10 } from './scsi-bench.ts';

const CYCLES = 100;

let bench: ScsiBench;
beforeAll(async () => {
  bench = await ScsiBench.start();
});
afterEach(async () => {
  await bench.checkNeighbour();
  await bench.clear();
});
afterAll(() => bench.close());

const transport = (target: number, reason: number, lun = 0) => ({
  type: ScsiEventType.TRANSPORT_RESET,
  hasMissed: false,
  target,
  lun,
  reason,
});

describe('hot attach and detach', () => {
  test('are told by events', async () => {
    const host = await bench.connect();
    await bench.addDisk('Hot', 4);
    expect(await host.nextEvent()).toEqual(transport(4, ScsiResetReason.RESCAN));
    await attentions(host, { target: 4 });
    await bench.removeTarget(4);
    expect(await host.nextEvent()).toEqual(transport(4, ScsiResetReason.REMOVED));
    expect((await host.command({ target: 4, cdb: TEST_UNIT_READY })).response).toBe(ScsiResponse.BAD_TARGET);
    await bench.addDisk('Other', 4, { lun: 2 });
    expect(await host.nextEvent()).toEqual(transport(4, ScsiResetReason.RESCAN, 2));
  });

  test('deleting the bdev takes the LUN away, wherever it is shown', async () => {
    await bench.addDisk('Shared', 0);
    const rpc = bench.daemon.rpc;
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi.0', scsi_target_num: 1, bdev_name: 'Shared' });
    await bench.addDisk('Stays', 1, { lun: 1 });
    const host = await bench.connect();
    await rpc.call('delete_bdev', { name: 'Shared' });
    const events = [await host.nextEvent(), await host.nextEvent()].sort((a, b) => a.target - b.target);
    expect(events).toEqual([transport(0, ScsiResetReason.REMOVED), transport(1, ScsiResetReason.REMOVED)]);
    expect((await host.command({ target: 0, cdb: TEST_UNIT_READY })).response).toBe(ScsiResponse.BAD_TARGET);
    expect(await host.command({ target: 1, cdb: TEST_UNIT_READY })).toMatchObject({ response: 0, status: 2 });
    await attentions(host, { target: 1, lun: 1 });
  });

  test('a hundred cycles under I/O leave nothing behind', async () => {
    await bench.addDisk('Busy', 0);
    const host = await bench.connect({ requestQueues: 2 });
    await attentions(host, {});
    const load = { isOn: true };
    const counts = { busy: 0, hot: 0, refused: 0 };
    const busy = async (): Promise<void> => {
      while (load.isOn) {
        await host.good({ cdb: write10(counts.busy++ % 100, 1), out: new Uint8Array(BLOCK_BYTES) });
      }
    };
    /** Reads from the target that comes and goes; only its absence may be an error. */
    const hot = async (): Promise<void> => {
      while (load.isOn) {
        const { response, status } = await host.command({ target: 9, cdb: read10(0, 8), inBytes: 4096, queue: 1 });
        if (response === ScsiResponse.BAD_TARGET) counts.refused++;
        else if (response === 0 && status === 0) counts.hot++;
        else expect([response, status]).toEqual([0, 2]);
      }
    };
    const running = Promise.all([busy(), busy(), hot(), hot()]);
    let fds = 0;
    let mappings = 0;
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      await bench.addDisk('Hot', 9, { sizeMiB: 1 });
      expect(await host.nextEvent()).toEqual(transport(9, ScsiResetReason.RESCAN));
      if (cycle % 2 === 0) await bench.removeTarget(9);
      await bench.daemon.rpc.call('delete_bdev', { name: 'Hot' });
      expect(await host.nextEvent()).toEqual(transport(9, ScsiResetReason.REMOVED));
      if (cycle !== 10) continue;
      // What is made once, and kept, is there by now.
      fds = bench.fds();
      mappings = bench.mappings();
    }
    load.isOn = false;
    await running;
    expect(counts.hot).toBeGreaterThan(0);
    expect(counts.refused).toBeGreaterThan(0);
    expect(bench.fds()).toBeLessThanOrEqual(fds);
    // The engine's own heap comes and goes by a few lines.
    expect(bench.mappings()).toBeLessThan(mappings + CYCLES / 2);
  });

  test('events wait for buffers, and the next one says when others were lost', async () => {
    const host = await bench.connect({ eventBuffers: 0 });
    await bench.addDisk('Hot', 1);
    host.offerEventBuffer();
    expect(await host.nextEvent()).toEqual(transport(1, ScsiResetReason.RESCAN));
    for (let i = 0; i <= EVENTS_PENDING_MAX / 2; i++) {
      await bench.removeTarget(1);
      await bench.daemon.rpc.call('delete_bdev', { name: 'Hot' });
      await bench.addDisk('Hot', 1);
    }
    host.offerEventBuffer();
    host.offerEventBuffer();
    expect(await host.nextEvent()).toEqual({ ...transport(1, ScsiResetReason.REMOVED), hasMissed: true });
    expect(await host.nextEvent()).toEqual(transport(1, ScsiResetReason.RESCAN));
  });

  test('a driver without HOTPLUG keeps its targets, and deleting the bdev still works', async () => {
    await bench.addDisk('Fixed', 0);
    const { RING_FEATURES } = await import('../../src/initiator/frontend-session.ts');
    const host = await bench.connect({ features: RING_FEATURES });
    await attentions(host, {});
    await expect(bench.removeTarget(0)).rejects.toThrow('Operation not supported');
    expect(await attentions(host, {})).toEqual([]);
    await bench.daemon.rpc.call('delete_bdev', { name: 'Fixed' });
    expect((await host.command({ cdb: TEST_UNIT_READY })).response).toBe(ScsiResponse.BAD_TARGET);
    expect(host.events).toEqual([]);
  });

  test('deleting the controller under its driver takes every target away', async () => {
    const rpc = bench.daemon.rpc;
    await rpc.call('vhost_create_scsi_controller', { ctrlr: 'gone' });
    await bench.addDisk('Gone', 7);
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'gone', scsi_target_num: 0, bdev_name: 'Gone' });
    const { ScsiInitiator } = await import('../../src/initiator/scsi-initiator.ts');
    const host = await ScsiInitiator.connect(`${bench.daemon.directory}/gone`);
    await attentions(host, {});
    await expect(rpc.call('vhost_delete_controller', { ctrlr: 'gone' })).rejects.toThrow('busy');
    await rpc.call('vhost_delete_controller', { ctrlr: 'gone', force: true });
    expect(await host.nextEvent()).toEqual(transport(0, ScsiResetReason.REMOVED));
    expect((await host.command({ cdb: TEST_UNIT_READY })).response).toBe(ScsiResponse.BAD_TARGET);
    host.close();
  });
});

describe('a resize', () => {
  test('is told by an event and a unit attention', async () => {
    await bench.addDisk('Grows', 2);
    const host = await bench.connect();
    await attentions(host, { target: 2 });
    await bench.daemon.rpc.call('bdev_malloc_resize', { name: 'Grows', new_size: 6 });
    expect(await host.nextEvent()).toEqual({
      type: ScsiEventType.PARAM_CHANGE,
      hasMissed: false,
      target: 2,
      lun: 0,
      reason: SCSI_CAPACITY_CHANGED,
    });
    expect(await attentions(host, { target: 2 })).toEqual(['6/2a/09']);
    const capacity = await host.good({ target: 2, cdb: [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], inBytes: 8 });
    expect(new DataView(capacity.buffer, capacity.byteOffset).getUint32(0)).toBe((6 << 20) / BLOCK_BYTES - 1);
  });
});

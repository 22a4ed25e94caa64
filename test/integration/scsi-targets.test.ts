/** A scsi controller of the daemon as its driver sees it: identity, data, queues, targets and LUNs, task management. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { ScsiLoadGenerator } from '../../src/initiator/load-generator.ts';
import { senseText } from '../../src/initiator/scsi-request.ts';
import { ScsiControlType, ScsiResponse, ScsiTmf } from '../../src/virtio/scsi.ts';
import { MIB, pattern } from './blk-case-helpers.ts';
import { attentions, BLOCK_BYTES, CTRLR, inquiry, read10, ScsiBench, TEST_UNIT_READY, write10 } from './scsi-bench.ts';

let bench: ScsiBench;
beforeAll(async () => {
  bench = await ScsiBench.start();
});
afterEach(async () => {
  await bench.checkNeighbour();
  await bench.clear();
});
afterAll(() => bench.close());

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

describe('targets', () => {
  test('show vendor, model and serial number as they are configured', async () => {
    await bench.addDisk('Plain', 0);
    await bench.daemon.rpc.call('vhost_scsi_controller_add_target', {
      ctrlr: CTRLR,
      scsi_target_num: 1,
      bdev_name: 'Plain',
      vendor: 'ACME',
      model: 'Fast disk',
      serial: 'SN-77',
    });
    const host = await bench.connect();
    const plain = await host.good({ cdb: inquiry(), inBytes: 255 });
    expect([text(plain.subarray(8, 16)), text(plain.subarray(16, 32))]).toEqual(['INTEL   ', 'Malloc disk     ']);
    const named = await host.good({ target: 1, cdb: inquiry(), inBytes: 255 });
    expect([text(named.subarray(8, 16)), text(named.subarray(16, 32))]).toEqual(['ACME    ', 'Fast disk       ']);
    expect(text(await host.good({ target: 1, cdb: inquiry(1, 0x80), inBytes: 255 }))).toContain('SN-77');
    expect(text(await host.good({ cdb: inquiry(1, 0x80), inBytes: 255 }))).toContain('Plain');
  });

  test('say that unmapped blocks read as zeroes where the bdev promises it, and only there', async () => {
    await bench.addDisk('Ram', 0);
    const { rpc } = bench.daemon;
    await rpc.call('bdev_null_create', { name: 'Null', num_blocks: 8192, block_size: BLOCK_BYTES });
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr: CTRLR, scsi_target_num: 1, bdev_name: 'Null' });
    const host = await bench.connect();
    const cdb = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    for (const [target, provisioning, lbprz] of [
      [0, 0xc0, [0xe4, 0x02]],
      [1, 0, [0, 0]],
    ] as const) {
      await attentions(host, { target });
      expect((await host.good({ target, cdb, inBytes: 32 }))[14], `target ${target}`).toBe(provisioning);
      const page = await host.good({ target, cdb: inquiry(1, 0xb2), inBytes: 255 });
      expect([...page.subarray(5, 7)], `target ${target}`).toEqual(lbprz);
    }
  });

  test('refuse writes when they are read-only, and eject when they are removable', async () => {
    await bench.addDisk('Fixed', 0);
    const { rpc } = bench.daemon;
    const more = { ctrlr: CTRLR, bdev_name: 'Fixed' };
    await rpc.call('vhost_scsi_controller_add_target', { ...more, scsi_target_num: 1, readonly: true });
    await rpc.call('vhost_scsi_controller_add_target', { ...more, scsi_target_num: 2, removable: true });
    const host = await bench.connect();
    for (const target of [0, 1, 2]) await attentions(host, { target });
    const refused = await host.command({ target: 1, cdb: write10(0, 1), out: new Uint8Array(BLOCK_BYTES) });
    expect([refused.response, refused.status, senseText(refused.sense)]).toEqual([0, 2, '7/27/00']);
    expect((await host.good({ target: 1, cdb: [0x1a, 0, 0x3f, 0, 255, 0], inBytes: 255 }))[2]).toBe(0x90);
    await host.good({ target: 2, cdb: [0x1b, 0, 0, 0, 2, 0] });
    expect(senseText((await host.command({ target: 2, cdb: TEST_UNIT_READY })).sense)).toBe('2/3a/00');
    expect(senseText((await host.command({ target: 0, cdb: [0x1b, 0, 0, 0, 2, 0] })).sense)).toBe('5/24/00');
    const config = await rpc.call('framework_get_config', { name: 'vhost_scsi' });
    expect(config?.map(({ params }) => params)).toEqual(
      expect.arrayContaining([
        { ...more, scsi_target_num: 0 },
        { ...more, scsi_target_num: 1, readonly: true },
        { ...more, scsi_target_num: 2, removable: true },
      ]),
    );
  });

  test('take the first free number for -1, and refuse one that is taken', async () => {
    expect(await bench.addDisk('A', -1)).toBe(0);
    expect(await bench.addDisk('B', 2)).toBe(2);
    expect(await bench.addDisk('C', -1)).toBe(1);
    const again = { ctrlr: CTRLR, scsi_target_num: 2, bdev_name: 'A' };
    await expect(bench.daemon.rpc.call('vhost_scsi_controller_add_target', again)).rejects.toThrow('File exists');
    await expect(bench.removeTarget(7)).rejects.toThrow('No such device');
    const [controller] = await bench.daemon.rpc.call('vhost_get_controllers', { name: CTRLR });
    expect(controller?.backend_specific).toEqual({
      scsi: [
        { scsi_dev_num: 0, id: 0, target_name: 'Target 0', luns: [{ id: 0, bdev_name: 'A' }] },
        { scsi_dev_num: 1, id: 1, target_name: 'Target 1', luns: [{ id: 0, bdev_name: 'C' }] },
        { scsi_dev_num: 2, id: 2, target_name: 'Target 2', luns: [{ id: 0, bdev_name: 'B' }] },
      ],
    });
  });

  test('go up to 255, and one that is not there is a bad target', async () => {
    await bench.addDisk('Last', 255);
    const host = await bench.connect();
    await attentions(host, { target: 255 });
    expect(await host.command({ target: 254, cdb: TEST_UNIT_READY })).toMatchObject({
      response: ScsiResponse.BAD_TARGET,
      usedLen: 108,
    });
  });

  test('have several LUNs, and say so for one that is not there', async () => {
    await bench.addDisk('L0', 3);
    await bench.addDisk('L300', 3, { lun: 300, sizeMiB: 8 });
    const host = await bench.connect();
    const luns = await host.good({ target: 3, cdb: [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], inBytes: 256 });
    expect([...luns.subarray(0, 24)]).toEqual([
      0,
      0,
      0,
      16,
      0,
      0,
      0,
      0,
      ...[0, 0, 0, 0, 0, 0, 0, 0],
      0x41,
      44,
      0,
      0,
      0,
      0,
      0,
      0,
    ]);
    await attentions(host, { target: 3, lun: 300 });
    const capacity = await host.good({ target: 3, lun: 300, cdb: [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], inBytes: 8 });
    expect(new DataView(capacity.buffer, capacity.byteOffset).getUint32(0)).toBe((8 << 20) / BLOCK_BYTES - 1);
    const missing = await host.command({ target: 3, lun: 1, cdb: TEST_UNIT_READY });
    expect([missing.response, missing.status, senseText(missing.sense)]).toEqual([0, 2, '5/25/00']);
    expect((await host.good({ target: 3, lun: 1, cdb: inquiry(), inBytes: 96 }))[0]).toBe(0x7f);
  });

  test('serve a controller that was created with delay only when it is started', async () => {
    const { rpc, directory } = bench.daemon;
    await rpc.call('vhost_create_scsi_controller', { ctrlr: 'late', delay: true });
    const { ScsiInitiator } = await import('../../src/initiator/scsi-initiator.ts');
    await expect(ScsiInitiator.connect(`${directory}/late`)).rejects.toThrow();
    const config = await rpc.call('framework_get_config', { name: 'vhost_scsi' });
    expect(config).toContainEqual({
      method: 'vhost_create_scsi_controller',
      params: { ctrlr: 'late', delay: true },
    });
    await rpc.call('vhost_start_scsi_controller', { ctrlr: 'late' });
    await rpc.call('vhost_start_scsi_controller', { ctrlr: 'late' });
    (await ScsiInitiator.connect(`${directory}/late`)).close();
    await rpc.call('vhost_delete_controller', { ctrlr: 'late', force: true });
  });
});

describe('data', () => {
  test('is the same through every queue, by any framing', async () => {
    await bench.addDisk('Data', 0);
    const host = await bench.connect({ requestQueues: 4 });
    await attentions(host, {});
    for (let queue = 0; queue < 4; queue++) {
      const out = pattern(16 * BLOCK_BYTES, queue + 1);
      const block = queue * 100;
      await host.good({ cdb: write10(block, 16), out, queue, readable: [20, 31 + 7, out.length - 7] });
      const shape = { writable: [50, 58 + 1000, out.length - 1000], isIndirect: true };
      const read = await host.good({ cdb: read10(block, 16), inBytes: out.length, queue: 3 - queue, ...shape });
      expect(Buffer.compare(read, out), `queue ${queue}`).toBe(0);
    }
  });

  test('is counted: residual and used length', async () => {
    await bench.addDisk('Data', 0);
    const host = await bench.connect();
    await attentions(host, {});
    const more = await host.command({ cdb: read10(0, 1), inBytes: 1000 });
    expect(more).toMatchObject({ response: 0, status: 0, residual: 488, usedLen: 108 + 512 });
    const less = await host.command({ cdb: read10(0, 2), inBytes: 512 });
    expect(less).toMatchObject({ response: ScsiResponse.OVERRUN, usedLen: 108 });
  });

  test('goes through many commands at once', async () => {
    await bench.addDisk('Data', 0);
    const host = await bench.connect({ requestQueues: 2 });
    await attentions(host, {});
    const blocks = Array.from({ length: 40 }, (_, i) => i);
    await Promise.all(blocks.map((i) => host.good({ cdb: write10(i, 1), out: pattern(512, i + 1), queue: i % 2 })));
    const read = await host.good({ cdb: read10(0, 40), inBytes: 40 * 512 });
    const wrong = blocks.filter(
      (i) => Buffer.compare(read.subarray(i * 512, i * 512 + 512), pattern(512, i + 1)) !== 0,
    );
    expect(wrong).toEqual([]);
  });
});

describe('load', () => {
  test('of reads and writes on two queues reads what it wrote', async () => {
    await bench.addDisk('Load', 0);
    const host = await bench.connect({ requestQueues: 2 });
    await attentions(host, {});
    const stamps = new BlockStamps(1024, 4096);
    const disk = { target: 0, lun: 0, sizeBytes: 4 * MIB, logicalBlockBytes: BLOCK_BYTES };
    const load = new ScsiLoadGenerator(host, disk, { depth: 16, writePercent: 50, stamps });
    const result = await load.runAsync({ count: 20_000 });
    expect(result).toMatchObject({ ios: 20_000, errors: 0, mismatches: 0, firstMismatch: null });
    load.close();
  });
});

describe('task management', () => {
  test.each([
    ['ABORT TASK of a task that is over', ScsiTmf.ABORT_TASK, ScsiResponse.OK],
    ['ABORT TASK SET', ScsiTmf.ABORT_TASK_SET, ScsiResponse.OK],
    ['CLEAR TASK SET', ScsiTmf.CLEAR_TASK_SET, ScsiResponse.OK],
    ['LOGICAL UNIT RESET', ScsiTmf.LOGICAL_UNIT_RESET, ScsiResponse.OK],
    ['I_T NEXUS RESET', ScsiTmf.I_T_NEXUS_RESET, ScsiResponse.OK],
    ['QUERY TASK of a task that is over', ScsiTmf.QUERY_TASK, ScsiResponse.OK],
    ['QUERY TASK SET', ScsiTmf.QUERY_TASK_SET, ScsiResponse.OK],
    ['CLEAR ACA, which does not exist here,', ScsiTmf.CLEAR_ACA, ScsiResponse.FUNCTION_REJECTED],
    ['an unknown function', 99, ScsiResponse.FUNCTION_REJECTED],
  ])('%s is answered', async (_name, subtype, response) => {
    await bench.addDisk('Managed', 0);
    const host = await bench.connect();
    await attentions(host, {});
    expect(await host.manage(subtype, {}, 1n)).toBe(response);
    expect(await host.manage(subtype, { target: 9 }, 1n)).toBe(ScsiResponse.BAD_TARGET);
  });

  test('a reset is told by a unit attention, once', async () => {
    await bench.addDisk('Managed', 0);
    const host = await bench.connect();
    expect(await attentions(host, {})).toEqual(['6/29/00']);
    await host.manage(ScsiTmf.LOGICAL_UNIT_RESET, {});
    expect(await attentions(host, {})).toEqual(['6/29/03']);
    await host.manage(ScsiTmf.I_T_NEXUS_RESET, {});
    expect(await attentions(host, {})).toEqual(['6/29/07']);
  });

  test('a LUN that is not there is named', async () => {
    await bench.addDisk('Managed', 0);
    const host = await bench.connect();
    expect(await host.manage(ScsiTmf.LOGICAL_UNIT_RESET, { lun: 4 })).toBe(ScsiResponse.INCORRECT_LUN);
  });

  test('no asynchronous notification can be had, and asking is not an error', async () => {
    await bench.addDisk('Managed', 0);
    const host = await bench.connect();
    const none = { actual: 0, response: ScsiResponse.OK };
    expect(await host.notification(ScsiControlType.AN_QUERY, {}, 0x3f)).toEqual(none);
    expect(await host.notification(ScsiControlType.AN_SUBSCRIBE, {}, 0x3f)).toEqual(none);
    const bad = { actual: 0, response: ScsiResponse.BAD_TARGET };
    expect(await host.notification(ScsiControlType.AN_QUERY, { target: 8 }, 1)).toEqual(bad);
    const missing = { actual: 0, response: ScsiResponse.INCORRECT_LUN };
    for (const type of [ScsiControlType.AN_QUERY, ScsiControlType.AN_SUBSCRIBE]) {
      expect(await host.notification(type, { lun: 4 }, 1)).toEqual(missing);
    }
  });
});

describe('hostile requests', () => {
  test('short, long and misdirected ones are answered, and the controller goes on', async () => {
    await bench.addDisk('Victim', 0);
    const host = await bench.connect({ timeoutMs: 5000 });
    const short = await host.command({ cdb: TEST_UNIT_READY, header: new Uint8Array(50) });
    expect(short.response).toBe(ScsiResponse.FAILURE);
    expect((await host.command({ cdb: TEST_UNIT_READY, header: new Uint8Array(51) })).response).toBe(
      ScsiResponse.BAD_TARGET,
    );
    expect((await host.command({ cdb: TEST_UNIT_READY, responseBytes: 107 })).usedLen).toBe(0);
    const both = await host.command({ cdb: read10(0, 1), out: new Uint8Array(512), inBytes: 512 });
    expect(both.response).toBe(ScsiResponse.FAILURE);
    await attentions(host, {});
    const reversed = await host.command({ cdb: read10(0, 1), out: new Uint8Array(512) });
    expect(reversed).toMatchObject({ response: ScsiResponse.OVERRUN, usedLen: 108 });
    expect([...(await host.control(new Uint8Array(3), 1))]).toEqual([ScsiResponse.FAILURE]);
    expect([...(await host.control(new Uint8Array(23), 1))]).toEqual([ScsiResponse.FAILURE]);
    expect([...(await host.control(Uint8Array.of(9, 0, 0, 0), 1))]).toEqual([ScsiResponse.FUNCTION_REJECTED]);
    expect((await host.control(Uint8Array.of(1, 0, 0, 0), 5))[4]).toBe(ScsiResponse.FAILURE);
    expect(await attentions(host, {})).toEqual([]);
  });

  test('buffers outside the memory fail that command only', async () => {
    await bench.addDisk('Victim', 0);
    const host = await bench.connect({ timeoutMs: 5000 });
    await attentions(host, {});
    const { ring } = host.queue(0);
    const good = host.memory.allocate(256);
    host.memory.write(good, new Uint8Array(51));
    host.memory.write(good, Uint8Array.of(1));
    host.memory.write(good + 19, Uint8Array.from(read10(0, 1)));
    const head = ring.addChain([
      { gpa: good, lengthBytes: 51, isWritable: false },
      { gpa: good + 64, lengthBytes: 108, isWritable: true },
      { gpa: 4096, lengthBytes: 512, isWritable: true },
    ]);
    await host.queue(0).submit(head, 5000);
    expect(host.memory.read(good + 64, 108)[11]).toBe(ScsiResponse.FAILURE);
    expect(await attentions(host, {})).toEqual([]);
  });
});

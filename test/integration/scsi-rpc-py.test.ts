/**
 * SPDK's rpc.py and the scsi methods: what it sends, byte for byte (`json.dumps(request, indent=2)` in one send, keys
 * in its order, one connection a call), is answered by a daemon with what it expects.
 */
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RinghostDaemon } from './fixtures/targets.ts';

let daemon: RinghostDaemon;
beforeAll(async () => {
  daemon = await RinghostDaemon.start();
});
afterAll(() => daemon.close());

/** Sends one request as rpc.py does; returns the answer. */
async function send(method: string, params?: object): Promise<unknown> {
  const request = { jsonrpc: '2.0', method, id: 1, ...(params === undefined ? {} : { params }) };
  const socket = connect(join(daemon.directory, 'rpc.sock'));
  socket.write(JSON.stringify(request, null, 2));
  let text = '';
  for await (const piece of socket.setEncoding('utf8')) {
    text += piece;
    if (text.endsWith('\n')) break;
  }
  socket.destroy();
  return JSON.parse(text);
}

const ok = (result: unknown) => ({ jsonrpc: '2.0', id: 1, result });
const malloc = (name: string) =>
  send('bdev_malloc_create', {
    ...{ num_blocks: 8192, block_size: 512, name },
    ...{ md_interleave: false, dif_is_head_of_md: false },
  });

describe('rpc.py of today', () => {
  test('makes a controller, adds targets, lists, removes and deletes', async () => {
    expect(await malloc('Malloc0')).toEqual(ok('Malloc0'));
    expect(await malloc('Malloc1')).toEqual(ok('Malloc1'));
    const create = { ctrlr: 'vhost.0', cpumask: '0x1', delay: false };
    expect(await send('vhost_create_scsi_controller', create)).toEqual(ok(true));
    const target = (scsi_target_num: number, bdev_name: string) => ({ ctrlr: 'vhost.0', scsi_target_num, bdev_name });
    expect(await send('vhost_scsi_controller_add_target', target(0, 'Malloc0'))).toEqual(ok(0));
    expect(await send('vhost_scsi_controller_add_target', target(-1, 'Malloc1'))).toEqual(ok(1));
    expect(await send('vhost_get_controllers', { name: 'vhost.0' })).toMatchObject(
      ok([
        {
          ctrlr: 'vhost.0',
          cpumask: '0x1',
          delay_base_us: 0,
          iops_threshold: 60_000,
          sessions: [],
          backend_specific: {
            scsi: [
              { scsi_dev_num: 0, id: 0, target_name: 'Target 0', luns: [{ id: 0, bdev_name: 'Malloc0' }] },
              { scsi_dev_num: 1, id: 1, target_name: 'Target 1', luns: [{ id: 0, bdev_name: 'Malloc1' }] },
            ],
          },
        },
      ]),
    );
    const removal = { ctrlr: 'vhost.0', scsi_target_num: 0 };
    expect(await send('vhost_scsi_controller_remove_target', removal)).toEqual(ok(true));
    expect(await send('vhost_scsi_controller_remove_target', removal)).toMatchObject({
      error: { code: -32_602, message: 'No such device' },
    });
    expect(await send('vhost_scsi_controller_add_target', target(1, 'Malloc0'))).toMatchObject({
      error: { code: -32_602, message: 'File exists' },
    });
    expect(await send('vhost_delete_controller', { ctrlr: 'vhost.0' })).toEqual(ok(true));
    expect(await send('vhost_get_controllers')).toEqual(ok([]));
  });

  test('starts a controller that it created with --delay', async () => {
    expect(await send('vhost_create_scsi_controller', { ctrlr: 'vhost.1', delay: true })).toEqual(ok(true));
    expect(await send('vhost_start_scsi_controller', { ctrlr: 'vhost.1' })).toEqual(ok(true));
    expect(await send('vhost_delete_controller', { ctrlr: 'vhost.1' })).toEqual(ok(true));
  });
});

describe('rpc.py of 2018', () => {
  test('does the same by the names of that time', async () => {
    const construct = { num_blocks: 8192, block_size: 512, name: 'Malloc2' };
    expect(await send('construct_malloc_bdev', construct)).toEqual(ok('Malloc2'));
    const create = { ctrlr: 'vhost.2', cpumask: '0x1' };
    expect(await send('construct_vhost_scsi_controller', create)).toEqual(ok(true));
    const lun = { ctrlr: 'vhost.2', scsi_dev_num: 3, lun_name: 'Malloc2' };
    expect(await send('add_vhost_scsi_lun', lun)).toEqual(ok(3));
    expect(await send('get_vhost_controllers')).toMatchObject(ok([{ ctrlr: 'vhost.2' }]));
    expect(await send('remove_vhost_scsi_dev', { ctrlr: 'vhost.2', scsi_dev_num: 3 })).toEqual(ok(true));
    const target = { ctrlr: 'vhost.2', scsi_target_num: 4, bdev_name: 'Malloc2' };
    expect(await send('add_vhost_scsi_lun', target)).toEqual(ok(4));
    expect(await send('remove_vhost_scsi_target', { ctrlr: 'vhost.2', scsi_target_num: 4 })).toEqual(ok(true));
    expect(await send('remove_vhost_controller', { ctrlr: 'vhost.2' })).toEqual(ok(true));
    expect(await send('delete_bdev', { name: 'Malloc2' })).toEqual(ok(true));
  });
});

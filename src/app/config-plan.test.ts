/** What has to be done, against a daemon that only remembers. */
import { describe, expect, it } from 'vitest';
import { identityOf } from './config-calls.ts';
import type { CallConfig, ConfigCall, ConfigFile } from './config-file.ts';
import { carryOut, planConfig } from './config-plan.ts';

const ram = (name: string, blocks = 64): ConfigCall => ({
  method: 'bdev_malloc_create',
  params: { name, num_blocks: blocks, block_size: 512 },
});
const nothing = (name: string, parts: object = {}): ConfigCall => ({
  method: 'bdev_null_create',
  params: { name, num_blocks: 64, block_size: 512, ...parts },
});
const limit = (name: string, rate: number): ConfigCall => ({
  method: 'bdev_set_qos_limit',
  params: { name, rw_ios_per_sec: rate },
});
const over = (name: string, base: string): ConfigCall => ({
  method: 'bdev_passthru_create',
  params: { name, base_bdev_name: base },
});
const blk = (ctrlr: string, bdev: string, parts: object = {}): ConfigCall => ({
  method: 'vhost_create_blk_controller',
  params: { ctrlr, dev_name: bdev, ...parts },
});
const scsi = (ctrlr: string, parts: object = { delay: true }): ConfigCall => ({
  method: 'vhost_create_scsi_controller',
  params: { ctrlr, ...parts },
});
const target = (ctrlr: string, num: number, bdev: string): ConfigCall => ({
  method: 'vhost_scsi_controller_add_target',
  params: { ctrlr, scsi_target_num: num, bdev_name: bdev },
});
const started = (ctrlr: string): ConfigCall => ({ method: 'vhost_start_scsi_controller', params: { ctrlr } });

function fileOf(...calls: readonly ConfigCall[]): ConfigFile {
  const of = (subsystem: string, pattern: RegExp) => ({
    subsystem,
    config: calls.filter(({ method }) => pattern.test(method)),
  });
  return { subsystems: [of('bdev', /^bdev/), of('vhost_blk', /blk/), of('vhost_scsi', /scsi/)] };
}

const textOf = ({ method, params = {} }: ConfigCall): string =>
  [method, ...['ctrlr', 'name', 'bdev_name'].flatMap((key) => params[key] ?? [])].join(' ');

function plan(now: readonly ConfigCall[], wanted: readonly ConfigCall[], prune = false) {
  const { changes, steps, extra } = planConfig(fileOf(...now), fileOf(...wanted), { prune });
  return {
    changes: changes.map(({ action, name }) => `${action} ${name}`),
    steps: steps.flatMap(({ call }) => (call === null ? [] : textOf(call))),
    extra: extra.map(textOf),
  };
}

describe('a plan', () => {
  it('is empty when everything is as it should be', () => {
    const all = [
      ram('A'),
      limit('A', 100),
      over('B', 'A'),
      blk('c', 'B'),
      scsi('s'),
      target('s', 0, 'A'),
      started('s'),
    ];
    expect(plan(all, all)).toEqual({ changes: [], steps: [], extra: [] });
  });

  it('compares only what the configuration gives, with defaults and older names understood', () => {
    const now = [nothing('A', { uuid: '0a0a0a0a-0000-4000-8000-000000000001' }), blk('c', 'A', { readonly: false })];
    const wanted = [
      { method: 'construct_null_bdev', params: { name: 'A', num_blocks: 64, block_size: 512 } },
      blk('c', 'A'),
    ];
    expect(plan(now, wanted).changes).toEqual([]);
    expect(plan([scsi('s'), started('s')], [scsi('s', {})]).changes).toEqual([]);
  });

  it('makes what is missing, in the order of the configuration', () => {
    expect(plan([ram('A')], [ram('A'), over('B', 'A'), blk('c', 'B')])).toEqual({
      changes: ['add B', 'add c'],
      steps: ['bdev_passthru_create B', 'vhost_create_blk_controller c'],
      extra: [],
    });
  });

  it('leaves what is not in the configuration, or takes it away when told: users before what they use', () => {
    const now = [nothing('A'), nothing('X'), over('Y', 'X'), blk('c', 'Y')];
    expect(plan(now, [nothing('A')]).extra).toHaveLength(3);
    expect(plan(now, [nothing('A')]).steps).toEqual([]);
    expect(plan(now, [nothing('A')], true).steps).toEqual([
      'vhost_delete_controller c',
      'bdev_passthru_delete Y',
      'bdev_null_delete X',
    ]);
  });

  it('takes RAM disks away last, for their content could not be brought back', () => {
    expect(plan([ram('A'), blk('c', 'A'), nothing('N')], [nothing('M')], true).steps).toEqual([
      'vhost_delete_controller c',
      'bdev_null_delete N',
      'bdev_null_create M',
      'bdev_malloc_delete A',
    ]);
  });

  it('sets what can be set', () => {
    expect(plan([ram('A'), limit('A', 100)], [ram('A'), limit('A', 200)])).toEqual({
      changes: ['set A'],
      steps: ['bdev_set_qos_limit A'],
      extra: [],
    });
  });

  it('makes anew what cannot be, and all that stands on it', () => {
    const now = [
      nothing('A'),
      limit('A', 5),
      over('B', 'A'),
      blk('c', 'B'),
      scsi('s'),
      target('s', 0, 'B'),
      started('s'),
    ];
    const wanted = [nothing('A', { num_blocks: 128 }), limit('A', 5), over('B', 'A'), blk('c', 'B')];
    const { changes, steps } = plan(now, wanted);
    expect(changes).toEqual(['replace A', 'replace A', 'replace B', 'replace c']);
    expect(steps).toEqual([
      'vhost_scsi_controller_remove_target s',
      'vhost_delete_controller c',
      'bdev_passthru_delete B',
      'bdev_set_qos_limit A',
      'bdev_null_delete A',
      'bdev_null_create A',
      'bdev_set_qos_limit A',
      'bdev_passthru_create B',
      'vhost_create_blk_controller c',
      // It is not in the configuration: it stays, so it comes back.
      'vhost_scsi_controller_add_target s B',
    ]);
  });

  it('makes a controller anew whose bdev was deleted under it', () => {
    expect(plan([blk('c', 'A')], [nothing('A'), blk('c', 'A')]).changes).toEqual(['add A', 'replace c']);
  });

  it('leaves alone the subsystems that the configuration does not name', () => {
    const only = { subsystems: [{ subsystem: 'vhost_blk', config: [] }] };
    expect(planConfig(fileOf(ram('A'), blk('c', 'A')), only, { prune: true }).changes.map(({ name }) => name)).toEqual([
      'c',
    ]);
  });

  it.each([
    ['no name', [{ method: 'bdev_malloc_create', params: { num_blocks: 8, block_size: 512 } }], /give it a name/],
    ['the same twice', [ram('A'), ram('A')], /A is in the configuration twice/],
    ['an unknown method', [{ method: 'bdev_x', params: {} }], /no method bdev_x/],
    ['a wrong parameter', [ram('A', -1)], /num_blocks/],
  ])('refuses a configuration with %s', (_, calls, message) => {
    expect(() => planConfig(fileOf(), fileOf(...calls), { prune: false })).toThrow(message);
  });
});

describe('carrying it out', () => {
  /** A daemon that makes anything but what has `broken` in it. */
  function daemon(now: readonly ConfigCall[], broken = '') {
    const there = new Map(now.map((call) => [identityOf(call), call]));
    const make: CallConfig = async (call) => {
      if (broken !== '' && JSON.stringify(call).includes(broken)) return { code: -5, message: 'Input/output error' };
      const isRemoval = /_(delete|remove)/.test(call.method);
      if (!isRemoval) there.set(identityOf(call), call);
      else for (const [id, one] of there) if (one.params?.['name'] === call.params?.['name']) there.delete(id);
      return null;
    };
    return { make, names: () => [...there.values()].map(({ params }) => params?.['name']) };
  }

  it('ends with what the configuration says', async () => {
    const now = [nothing('A'), nothing('X')];
    const wanted = [nothing('A'), over('B', 'A')];
    const { make, names } = daemon(now);
    await carryOut(planConfig(fileOf(...now), fileOf(...wanted), { prune: true }).steps, make);
    expect(names()).toEqual(['A', 'B']);
  });

  it('undoes everything when a call fails', async () => {
    const now = [nothing('A'), nothing('X')];
    const wanted = [nothing('A'), nothing('C'), nothing('BROKEN')];
    const { make, names } = daemon(now, 'BROKEN');
    const { steps } = planConfig(fileOf(...now), fileOf(...wanted), { prune: true });
    await expect(carryOut(steps, make)).rejects.toThrow(
      'bdev_null_create BROKEN: Input/output error; everything that was done was undone',
    );
    expect(names()).toEqual(['A', 'X']);
  });

  it('says what it could not undo', async () => {
    const { make } = daemon([], 'BROKEN');
    const steps = [
      { call: nothing('C'), undo: nothing('BROKEN') },
      { call: nothing('BROKEN'), undo: null },
    ];
    await expect(carryOut(steps, make)).rejects.toThrow(/this could not be undone: bdev_null_create BROKEN/);
  });
});

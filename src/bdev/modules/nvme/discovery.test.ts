/** What discovery services make of what a target lists, against targets of this process. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NvmeTcpTarget } from '../../../../test/support/nvme-tcp-target.ts';
import { until } from '../../../../test/support/waiting.ts';
import { SILENT } from '../../../base/log.ts';
import type { RpcContext } from '../../../rpc/methods.ts';
import { BdevRegistry } from '../../registry.ts';
import { NvmeControllers } from './controllers.ts';
import { discoveryRpc } from './discovery.rpc.ts';
import { Discoveries } from './discovery.ts';
import { nvmeRpc } from './nvme.rpc.ts';
import { tcpTransport } from './tcp.rpc.ts';

const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
const SETTLE_MS = 300;

let registry: BdevRegistry;
let controllers: NvmeControllers;
let discoveries: Discoveries;
let rpc: ReturnType<typeof discoveryRpc> & ReturnType<typeof nvmeRpc>;
/** It is asked what there is. */
let service: NvmeTcpTarget;
let targets: NvmeTcpTarget[];
/** What was logged as a warning. */
let warnings: string[];

beforeEach(async () => {
  warnings = [];
  targets = [];
  service = await newTarget('service');
  registry = new BdevRegistry(1);
  controllers = new NvmeControllers(registry, SILENT);
  const log = { ...SILENT, warn: (text: string) => void warnings.push(text) };
  discoveries = new Discoveries(controllers, tcpTransport(SILENT), log, { settleMs: SETTLE_MS, lookMs: 200 });
  rpc = { ...nvmeRpc(controllers, [discoveries.transport], discoveries), ...discoveryRpc(discoveries) };
});

afterEach(async () => {
  await discoveries.close();
  await controllers.close();
  for (const target of targets) await target.kill();
});

async function newTarget(name: string, address = '127.0.0.1'): Promise<NvmeTcpTarget> {
  const target = new NvmeTcpTarget();
  target.nqn = `nqn.2026-01.io.ringhost:${name}`;
  target.identityByte = targets.length;
  targets.push(target);
  return await target.listen(address);
}

const start = (parts: Partial<Parameters<typeof rpc.bdev_nvme_start_discovery>[0]> = {}) =>
  rpc.bdev_nvme_start_discovery(
    {
      ...{ name: 'Nvme', trtype: 'tcp', traddr: service.address, trsvcid: String(service.port) },
      ...{ wait_for_attach: true, reconnect_delay_sec: 1, ...parts },
    },
    context,
  );
const names = (): string[] => registry.list().map(({ name }) => name);
const disksAre = async (...wanted: readonly string[]): Promise<void> => {
  const text = wanted.toSorted().join();
  await until(() => names().toSorted().join() === text, `the disks ${text}`).catch((error: Error) =>
    expect.fail(`${error.message}: they are ${names().join()}`),
  );
};
const pathsOf = (name: string): number => controllers.get(name).controller.pathIds?.length ?? 0;

describe('a discovery service', () => {
  it('attaches what is listed, follows what comes and goes, and detaches all when it is stopped', async () => {
    const [one, two] = [await newTarget('one'), await newTarget('two')];
    service.list(one.listed);
    expect(await start()).toBe(true);
    expect(names()).toEqual(['Nvme0n1']);
    service.list(one.listed, two.listed);
    await disksAre('Nvme0n1', 'Nvme1n1');
    service.list(two.listed);
    await disksAre('Nvme1n1');
    service.list(two.listed, one.listed);
    await disksAre('Nvme0n1', 'Nvme1n1');
    expect(await rpc.bdev_nvme_stop_discovery({ name: 'Nvme' }, context)).toBe(true);
    expect([names(), discoveries.list()]).toEqual([[], []]);
    await expect(rpc.bdev_nvme_stop_discovery({ name: 'Nvme' }, context)).rejects.toMatchObject({ code: 'ENODEV' });
  });

  it('does not wait unless it is told to', async () => {
    const one = await newTarget('one');
    service.list(one.listed);
    await start({ wait_for_attach: false });
    expect(names()).toEqual([]);
    await disksAre('Nvme0n1');
  });

  it('makes one controller of several ways to a subsystem', async () => {
    const one = await newTarget('one');
    const other = new NvmeTcpTarget({}, one.namespaces);
    Object.assign(other, { nqn: one.nqn, identityByte: one.identityByte });
    targets.push(other);
    await other.listen();
    service.list(one.listed, other.listed);
    await start();
    expect([names(), pathsOf('Nvme0')]).toEqual([['Nvme0n1'], 2]);
    service.list(other.listed);
    await until(() => pathsOf('Nvme0') === 1, 'the end of a path');
    expect(controllers.get('Nvme0').controller.pathIds).toMatchObject([{ trsvcid: String(other.port) }]);
    service.list();
    await disksAre();
  });

  it('works by IPv6', async () => {
    const one = await newTarget('one', '::1');
    one.list(one.listed);
    await start({ adrfam: 'ipv6', traddr: '::1', trsvcid: String(one.port) });
    expect(names()).toEqual(['Nvme0n1']);
    expect(controllers.get('Nvme0').controller.transportId).toMatchObject({ traddr: '::1', adrfam: 'IPv6' });
  });

  it('reads a log again that changed while it was read', async () => {
    const all = await Promise.all(Array.from({ length: 6 }, (_, i) => newTarget(`n${i}`)));
    service.list(...all.map(({ listed }) => listed));
    let reads = 0;
    service.onLogRead = () => {
      // Between the two parts of the first pass, the entries move.
      if (++reads === 2) service.list(...all.toReversed().map(({ listed }) => listed));
    };
    await start();
    expect(names().length).toBe(6);
    const nqns = controllers.list().map(({ controller }) => controller.transportId.subnqn);
    expect(nqns.toSorted()).toEqual(all.map(({ nqn }) => nqn).toSorted());
  });

  it('leaves alone what it cannot use, and shows referrals', async () => {
    const one = await newTarget('one');
    const { listed } = one;
    service.list(
      { ...listed, transport: 1, subnqn: 'nqn.rdma' },
      { ...listed, treq: 1, subnqn: 'nqn.secret' },
      { ...listed, subtype: 3, traddr: service.address },
      { ...listed, subtype: 1, traddr: '192.0.2.9', trsvcid: '8009' },
      listed,
    );
    await start();
    expect(names()).toEqual(['Nvme0n1']);
    expect(warnings.join('\n')).toMatch(/nqn.rdma .* its transport is not TCP\n.*nqn.secret .* over TLS only/);
    const discovery = 'nqn.2014-08.org.nvmexpress.discovery';
    expect(await rpc.bdev_nvme_get_discovery_info({}, context)).toMatchObject([
      {
        name: 'Nvme',
        trid: { trtype: 'TCP', traddr: '127.0.0.1', adrfam: 'IPv4', trsvcid: `${service.port}`, subnqn: discovery },
        referrals: [{ trid: { traddr: '192.0.2.9', trsvcid: '8009' } }],
      },
    ]);
  });

  it('that is lost is tried again; what was attached stays until the target has had time to be complete', async () => {
    const [one, two] = [await newTarget('one'), await newTarget('two')];
    service.list(one.listed, two.listed);
    await start();
    await service.kill();
    service.discovery = [two.listed];
    const begin = Date.now();
    await service.listen();
    await disksAre('Nvme1n1');
    expect(Date.now() - begin).toBeGreaterThanOrEqual(SETTLE_MS);
  });

  it('tries again what cannot be attached yet, and the rest at once', async () => {
    const [one, two] = [await newTarget('one'), await newTarget('two')];
    await one.kill();
    service.list(one.listed, two.listed);
    await start();
    expect(names()).toEqual(['Nvme1n1']);
    await one.listen();
    await disksAre('Nvme0n1', 'Nvme1n1');
  });

  it('attaches again what was lost for good', async () => {
    const one = await newTarget('one');
    service.list(one.listed);
    await start({ ctrlr_loss_timeout_sec: 1 });
    await one.kill();
    await disksAre();
    await one.listen();
    await disksAre('Nvme0n1');
    expect(names()).toEqual(['Nvme0n1']);
  });

  it('does not bring back what an operator detached, unless it is listed anew', async () => {
    const [one, two] = [await newTarget('one'), await newTarget('two')];
    service.list(one.listed);
    await start();
    await rpc.bdev_nvme_detach_controller({ name: 'Nvme0' }, context);
    service.list(one.listed, two.listed);
    await disksAre('Nvme1n1');
    service.list(two.listed);
    await until(() => discoveries.list()[0]?.found.size === 1, 'the news');
    service.list(one.listed, two.listed);
    await disksAre('Nvme0n1', 'Nvme1n1');
    expect(pathsOf('Nvme0')).toBe(1);
  });

  it('leaves what an operator attached, and what another service names', async () => {
    const [one, two, other] = [await newTarget('one'), await newTarget('two'), await newTarget('other')];
    const at = { traddr: one.address, trsvcid: String(one.port), subnqn: one.nqn };
    await rpc.bdev_nvme_attach_controller({ name: 'Mine', trtype: 'TCP', ...at }, context);
    service.list(one.listed, two.listed);
    other.list(two.listed);
    await start();
    await start({ name: 'Other', trsvcid: String(other.port) });
    expect(names().toSorted()).toEqual(['Minen1', 'Nvme1n1']);
    await rpc.bdev_nvme_stop_discovery({ name: 'Nvme' }, context);
    expect(names().toSorted()).toEqual(['Minen1', 'Nvme1n1']);
    await rpc.bdev_nvme_stop_discovery({ name: 'Other' }, context);
    expect(names()).toEqual(['Minen1']);
  });

  it('that nobody answers is given up in time, with the reason, and nothing of it is left', async () => {
    await service.kill();
    const refused = /not all was attached within 1.5 s: the discovery service at 127.0.0.1 port \d+: .*refused/i;
    await expect(start({ attach_timeout_ms: 1500 })).rejects.toThrow(refused);
    expect(discoveries.list()).toEqual([]);
  });

  it('is refused when its name or address is taken, or is none', async () => {
    await start();
    await expect(start()).rejects.toMatchObject({ code: 'EEXIST' });
    await expect(start({ name: 'Other' })).rejects.toThrow('is asked already, by "Nvme"');
    await expect(start({ name: 'Other', trtype: 'rdma' })).rejects.toThrow('has no discovery here. Known: TCP');
    await expect(start({ name: 'Other', adrfam: 'IPv6' })).rejects.toThrow('is of IPv4, not of IPv6');
  });
});

describe('the names of discovered controllers', () => {
  it('are the same when the service is started again, whatever the order of the log', async () => {
    const [one, two] = [await newTarget('one'), await newTarget('two')];
    let changes = 0;
    discoveries.onChange = () => void changes++;
    service.list(one.listed, two.listed);
    await start();
    const [config] = discoveries.list().map((each) => each.toConfig());
    expect(changes).toBe(2);
    expect(config?.params).toMatchObject({
      wait_for_attach: true,
      controller_names: { Nvme0: one.nqn, Nvme1: two.nqn },
    });
    await rpc.bdev_nvme_stop_discovery({ name: 'Nvme' }, context);
    const three = await newTarget('three');
    service.list(three.listed, two.listed);
    await rpc.bdev_nvme_start_discovery(config?.params as never, context);
    const byNqn = Object.fromEntries(controllers.list().map((each) => [each.controller.transportId.subnqn, each.name]));
    expect(byNqn).toEqual({ [two.nqn]: 'Nvme1', [three.nqn]: 'Nvme2' });
  });

  it('are not those of others', async () => {
    const [one, two] = [await newTarget('one'), await newTarget('two')];
    const at = { traddr: one.address, trsvcid: String(one.port), subnqn: one.nqn };
    await rpc.bdev_nvme_attach_controller({ name: 'Nvme0', trtype: 'TCP', ...at }, context);
    service.list(two.listed);
    await start();
    expect(names()).toEqual(['Nvme0n1', 'Nvme1n1']);
  });
});

/** The calls of NVMe controllers, over a transport that a test plays. */
import { beforeEach, describe, expect, it } from 'vitest';
import { until } from '../../../../test/support/waiting.ts';
import { SILENT } from '../../../base/log.ts';
import type { ControllerEvents, ControllerState, NvmeController } from '../../../nvme/controller.ts';
import { type NamespaceIdentity, parseController, parseNamespace } from '../../../nvme/identify.ts';
import type { RpcContext } from '../../../rpc/methods.ts';
import { type BdevEntry, BdevRegistry } from '../../registry.ts';
import { type AttachedController, NvmeControllers } from './controllers.ts';
import { nvmeRpc } from './nvme.rpc.ts';
import type { NvmeTransport } from './transport.rpc.ts';

const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
const NVME0 = { name: 'Nvme0', trtype: 'pcie', traddr: '0000:01:00.0' };

function namespace(nsid: number, parts: Partial<NamespaceIdentity> = {}): NamespaceIdentity {
  const page = Buffer.alloc(4096);
  page.writeUInt8(9, 130);
  return { ...parseNamespace(nsid, page), blockCount: 100, ...parts };
}

class FakeController implements NvmeController {
  readonly transportId = { trtype: 'PCIe', traddr: '0000:01:00.0' } as const;
  state: ControllerState = 'enabled';
  readonly identity = { ...parseController(Buffer.alloc(4096)), serialNumber: 'S1', hasDatasetManagement: true };
  namespaces: readonly NamespaceIdentity[] = [namespace(1), namespace(3, { uuid: 'f'.repeat(8) })];
  readonly channelKind = 'null';
  readonly calls: string[] = [];
  readonly admin = {
    execute: async (_: unknown, readBytes = 0) => ({ status: 0, dword0: 0, data: Buffer.alloc(readBytes, 1) }),
  };

  channelParams(nsid: number) {
    return { nsid };
  }

  async reset(): Promise<void> {
    this.calls.push('reset');
  }

  async close(): Promise<void> {
    this.calls.push('close');
  }
}

let registry: BdevRegistry;
let controllers: NvmeControllers;
let controller: FakeController;
let events: ControllerEvents;
let rpc: ReturnType<typeof nvmeRpc>;

beforeEach(() => {
  registry = new BdevRegistry(1);
  controllers = new NvmeControllers(registry, SILENT);
  controller = new FakeController();
  const transport: NvmeTransport = {
    trtype: 'PCIe',
    transportId: ({ traddr }) => ({ trtype: 'PCIe', traddr }),
    connect: async (_id, _params, given) => {
      events = given;
      return controller;
    },
  };
  rpc = nvmeRpc(controllers, [transport], null);
});

const names = (): string[] => registry.list().map(({ name }) => name);

describe('attaching a controller', () => {
  it('makes a disk of each namespace, and detaching takes them away', async () => {
    expect(await rpc.bdev_nvme_attach_controller(NVME0, context)).toEqual(['Nvme0n1', 'Nvme0n3']);
    expect(names()).toEqual(['Nvme0n1', 'Nvme0n3']);
    expect(registry.get('Nvme0n1').bdev).toMatchObject({ productName: 'NVMe disk', blockSizeBytes: 512 });
    expect(registry.get('Nvme0n3').describe().params).toEqual({ nsid: 3 });
    expect(await rpc.bdev_nvme_detach_controller({ name: 'Nvme0' }, context)).toBe(true);
    expect([names(), controllers.list(), controller.calls]).toEqual([[], [], ['close']]);
  });

  it('is told by one call in the configuration, whatever the number of disks', async () => {
    await rpc.bdev_nvme_attach_controller(NVME0, context);
    const configs = () => [controllers.list(), registry.list()].flatMap((list) => list.flatMap(callsOf));
    const callsOf = (one: AttachedController | BdevEntry) => ('configs' in one ? one.configs : one.bdev.toConfig());
    const call = { method: 'bdev_nvme_attach_controller', params: { ...NVME0, trtype: 'PCIe' } };
    expect(configs()).toEqual([call]);
    await registry.delete(registry.get('Nvme0n1'));
    await registry.delete(registry.get('Nvme0n3'));
    expect(configs()).toEqual([call]);
  });

  it('gives a disk the same UUID each time', async () => {
    await rpc.bdev_nvme_attach_controller(NVME0, context);
    const first = registry.get('Nvme0n1').bdev.uuid;
    await rpc.bdev_nvme_detach_controller({ name: 'Nvme0' }, context);
    await rpc.bdev_nvme_attach_controller(NVME0, context);
    expect(first).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(registry.get('Nvme0n1').bdev.uuid).toBe(first);
  });

  it('is refused for a name or a drive that is taken, and for unknown transports', async () => {
    await rpc.bdev_nvme_attach_controller(NVME0, context);
    const attach = (parts: object) => rpc.bdev_nvme_attach_controller({ ...NVME0, ...parts }, context);
    await expect(attach({})).rejects.toMatchObject({ code: 'EEXIST' });
    await expect(attach({ name: 'Other' })).rejects.toThrow('attached already, as "Nvme0"');
    await expect(attach({ trtype: 'RDMA' })).rejects.toThrow('trtype "RDMA" is not known here. Known: PCIe');
    await expect(rpc.bdev_nvme_detach_controller({ name: 'Nvme9' }, context)).rejects.toMatchObject({ code: 'ENODEV' });
  });

  it('leaves out namespaces that cannot be disks', async () => {
    controller.namespaces = [namespace(1, { metadataBytes: 8 }), namespace(2, { blockSizeBytes: 8192 }), namespace(4)];
    expect(await rpc.bdev_nvme_attach_controller(NVME0, context)).toEqual(['Nvme0n4']);
  });
});

describe('an attached controller', () => {
  beforeEach(() => rpc.bdev_nvme_attach_controller(NVME0, context));

  it('is listed with where it is', async () => {
    const trid = { trtype: 'PCIe', traddr: '0000:01:00.0' };
    const listed = [{ name: 'Nvme0', ctrlrs: [{ state: 'enabled', cntlid: 0, trid }] }];
    expect(await rpc.bdev_nvme_get_controllers({}, context)).toEqual(listed);
    expect(await rpc.bdev_nvme_get_controllers({ name: 'Nvme0' }, context)).toEqual(listed);
  });

  it('shows its health, and is reset', async () => {
    const health = await rpc.bdev_nvme_get_controller_health_info({ name: 'Nvme0' }, context);
    expect(health).toMatchObject({ serial_number: 'S1', temperature_celsius: 0x0101 - 273, percentage_used: 1 });
    await rpc.bdev_nvme_reset_controller({ name: 'Nvme0' }, context);
    expect(controller.calls).toEqual(['reset']);
  });

  it('has its disks follow its namespaces', async () => {
    controller.namespaces = [namespace(1, { blockCount: 200 }), namespace(2)];
    events.onNamespaces();
    await until(() => names().join() === 'Nvme0n1,Nvme0n2', 'the new disks');
    expect(registry.get('Nvme0n1').bdev.blockCount).toBe(200);
  });

  it('goes with its disks when its device is gone, and says first what would bring it back', async () => {
    const told: unknown[] = [];
    registry.on('gone', (entries, calls) =>
      told.push(
        entries.map(({ name }) => name),
        calls.length,
        names().length,
      ),
    );
    events.onGone('pulled out');
    expect(told).toEqual([['Nvme0n1', 'Nvme0n3'], 1, 2]);
    await until(() => controller.calls.includes('close'), 'the end of the controller');
    expect([names(), controllers.list()]).toEqual([[], []]);
  });

  it('is given back when the daemon stops', async () => {
    await controllers.close();
    expect([names(), controller.calls]).toEqual([[], ['close']]);
  });
});

/** What controllers and namespaces say of themselves, and the questions by which they are made to. */
import { describe, expect, it } from 'vitest';
import type { TargetError } from '../base/errors.ts';
import { type AdminPort, identifyController, identifyNamespaces, readHealth, requestQueues } from './admin.ts';
import type { AdminCommand } from './command.ts';
import { parseController, parseNamespace } from './identify.ts';
import { AdminOpcode, IdentifyCns } from './spec.ts';
import { checkStatus, STATUS_DNR, Status, statusText } from './status.ts';

function controllerPage(): Buffer {
  const page = Buffer.alloc(4096);
  page.writeUInt16LE(0x8086, 0);
  page.write('SERIAL1'.padEnd(20), 4);
  page.write('A drive'.padEnd(40), 24);
  page.write('1.0'.padEnd(8), 64);
  page.writeUInt8(5, 77);
  page.writeUInt16LE(3, 78);
  page.writeUInt8(3, 259);
  page.writeUInt16LE(10, 320);
  page.writeUInt32LE(2, 516);
  page.writeUInt16LE(0b1100, 520);
  page.writeUInt8(1, 525);
  page.write('nqn.2019-08.org.example:one', 768);
  page.writeUInt32LE(260, 1792);
  page.writeUInt32LE(1, 1796);
  return page;
}

function namespacePage(blocks: bigint, format = 0): Buffer {
  const page = Buffer.alloc(4096);
  page.writeBigUInt64LE(blocks, 0);
  page.writeUInt8(format, 26);
  page.writeUInt8(9, 128 + 2);
  page.writeUInt16LE(8, 132);
  page.writeUInt8(12, 132 + 2);
  page.writeUInt8(11, 128 + 4 * 16 + 2);
  page.writeUInt16LE(256, 46);
  page.writeUInt8(0x11, 24);
  page.writeUInt16LE(7, 64);
  page.writeUInt8(1, 33);
  Buffer.from('0102030405060708', 'hex').copy(page, 120);
  return page;
}

/** Answers from a list of namespaces, as far as `knows` allows. */
class FakePort implements AdminPort {
  readonly commands: AdminCommand[] = [];
  readonly #namespaces: ReadonlyMap<number, Buffer>;
  readonly #knows: ReadonlySet<number>;

  constructor(namespaces: ReadonlyMap<number, Buffer>, knows: readonly number[] = Object.values(IdentifyCns)) {
    this.#namespaces = namespaces;
    this.#knows = new Set(knows);
  }

  async execute(command: AdminCommand, readBytes = 0) {
    this.commands.push(command);
    const data = Buffer.alloc(readBytes);
    const answer = (status: number = Status.success, dword0 = 0) => ({ status, dword0, data });
    if (command.opcode === AdminOpcode.setFeatures) return answer(Status.success, 0x0003_0002);
    if (command.opcode === AdminOpcode.getLogPage) {
      data.writeUInt16LE(310, 1);
      data.writeUInt32LE(7, 56);
      return answer();
    }
    const { cdw10: cns = 0, nsid = 0 } = command;
    if (!this.#knows.has(cns)) return answer(Status.invalidField | STATUS_DNR);
    if (cns === IdentifyCns.controller) controllerPage().copy(data);
    else if (cns === IdentifyCns.activeNamespaces) {
      [...this.#namespaces.keys()].forEach((id, i) => {
        data.writeUInt32LE(id, 4 * i);
      });
    } else if (cns === IdentifyCns.namespace) {
      const page = this.#namespaces.get(nsid);
      if (page === undefined) return answer(Status.invalidNamespace | STATUS_DNR);
      page.copy(data);
    } else
      Buffer.from('02100000ffffffffffffffffffffffffffffffff0310000000112233445566778899aabbccddeeff', 'hex').copy(data);
    return answer();
  }
}

describe('a controller', () => {
  it('is known by what it says of itself, without the blanks behind it', async () => {
    expect(await identifyController(new FakePort(new Map()))).toEqual({
      vendorId: 0x8086,
      subsystemVendorId: 0,
      serialNumber: 'SERIAL1',
      modelNumber: 'A drive',
      firmwareRevision: '1.0',
      mdts: 5,
      controllerId: 3,
      keepAliveGranularityMs: 1000,
      hasDatasetManagement: true,
      hasWriteZeroes: true,
      hasVolatileWriteCache: true,
      reportsAccess: false,
      namespacesMax: 2,
      subsystemNqn: 'nqn.2019-08.org.example:one',
      commandCapsuleBytes: 4160,
      responseCapsuleBytes: 16,
      inCapsuleDataOffsetBytes: 0,
    });
    expect(parseController(Buffer.alloc(4096))).toMatchObject({ serialNumber: '', hasWriteZeroes: false, mdts: 0 });
  });

  it('gives as many queue pairs as it has of both kinds', async () => {
    expect(await requestQueues(new FakePort(new Map()), 8)).toBe(3);
    expect(await requestQueues(new FakePort(new Map()), 2)).toBe(2);
  });

  it('gives its health', async () => {
    const health = await readHealth(new FakePort(new Map()));
    expect(health).toMatchObject({ temperatureKelvin: 310, dataUnitsWritten: 7n << 64n, powerCycles: 0n });
  });
});

describe('namespaces', () => {
  const both = new Map([
    [1, namespacePage(2n ** 33n)],
    [2, namespacePage(0n)],
    [5, namespacePage(100n, 1)],
  ]);

  it('are those in the list of active ones that have a size', async () => {
    const port = new FakePort(both);
    const found = await identifyNamespaces(port, parseController(controllerPage()));
    expect(found.map(({ nsid }) => nsid)).toEqual([1, 5]);
    expect(found[0]).toEqual({
      nsid: 1,
      blockCount: 2 ** 33,
      blockSizeBytes: 512,
      metadataBytes: 0,
      boundaryBlocks: 256,
      writeGranularityBlocks: 8,
      deallocatedReadsZeroes: true,
      nguid: '',
      eui64: '0102030405060708',
      uuid: '00112233-4455-6677-8899-aabbccddeeff',
    });
    expect(found[1]).toMatchObject({ blockSizeBytes: 4096, metadataBytes: 8 });
  });

  it('of an old controller are tried one after another, and have no UUID', async () => {
    const port = new FakePort(both, [IdentifyCns.namespace, IdentifyCns.controller]);
    const found = await identifyNamespaces(port, parseController(controllerPage()));
    expect(found.map(({ nsid, uuid }) => [nsid, uuid])).toEqual([[1, '']]);
  });

  it('may have more than 16 formats', () => {
    expect(parseNamespace(1, namespacePage(1n, 0x20)).blockSizeBytes).toBe(2048);
  });

  it('whose descriptors make no sense have no UUID', () => {
    expect(parseNamespace(1, namespacePage(1n), Buffer.from('03100000', 'hex')).uuid).toBe('');
    expect(parseNamespace(1, namespacePage(1n), Buffer.alloc(4096)).uuid).toBe('');
  });
});

describe('a status', () => {
  it('is told in words, with its numbers', () => {
    expect(statusText(0x080 | STATUS_DNR)).toBe('LBA out of range (status type 0, code 80h)');
    expect(statusText(0x7ff)).toBe('status type 7, code ffh');
  });

  it('other than success is an error of the control plane', () => {
    expect(() => checkStatus(Status.success, 'it')).not.toThrow();
    const failing = () => checkStatus(Status.invalidField | STATUS_DNR, 'no queues');
    expect(failing).toThrow(expect.objectContaining({ code: 'EIO' } satisfies Partial<TargetError>));
    expect(failing).toThrow('no queues: invalid field in command');
  });
});

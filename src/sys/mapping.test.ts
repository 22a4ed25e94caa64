/** Mapped memory: views that can be taken back, and files that are cut off under us. */
import { closeSync, fstatSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { runModule, sourceUrl } from '../../test/support/processes.ts';
import { AssertionError } from '../base/assert.ts';
import { closeFd, readEventFd } from './events.ts';
import { createMemoryFile, fileInfo, Mapping, MappingViews, truncateFile, truncationEventFd } from './mapping.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0).toReversed()) cleanup();
});

function memoryFile(sizeBytes: number): number {
  const fd = createMemoryFile('test', sizeBytes);
  cleanups.push(() => closeFd(fd));
  return fd;
}

function kept(mapping: Mapping): Mapping {
  cleanups.push(() => mapping.close());
  return mapping;
}

function bytesOf(mapping: Mapping, offset = 0, length = mapping.lengthBytes - offset): Uint8Array {
  const views = new MappingViews();
  cleanups.push(() => views.close());
  return new Uint8Array(views.view(mapping, offset, length));
}

describe('anonymous memory', () => {
  it('is zeroed and can be written', () => {
    const bytes = bytesOf(kept(Mapping.anonymous(3 * PAGE)));
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    bytes.fill(7);
    expect(bytes[3 * PAGE - 1]).toBe(7);
  });

  it('takes memory only where it is touched', () => {
    const mapping = kept(Mapping.anonymous(64 * GIB));
    const bytes = bytesOf(mapping, 60 * GIB, PAGE);
    bytes[5] = 1;
    expect(bytes[5]).toBe(1);
  });

  it('is refused when it is empty or larger than any address space', () => {
    expect(() => Mapping.anonymous(0)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => Mapping.anonymous(2 ** 52)).toThrow(expect.objectContaining({ code: 'ENOMEM' }));
  });
});

describe('a mapped file', () => {
  it('is shared with every other mapping of it', () => {
    const fd = memoryFile(4 * PAGE);
    const first = bytesOf(kept(Mapping.file(fd, 0, 4 * PAGE)));
    const second = bytesOf(kept(Mapping.file(fd, 2 * PAGE, PAGE)));
    first[2 * PAGE + 9] = 42;
    expect(second[9]).toBe(42);
    second[10] = 43;
    expect(first[2 * PAGE + 10]).toBe(43);
  });

  it('outlives the descriptor it was mapped from', () => {
    const fd = createMemoryFile('test', PAGE);
    const bytes = bytesOf(kept(Mapping.file(fd, 0, PAGE, { guarded: true })));
    closeFd(fd);
    bytes[0] = 1;
    expect(bytes[0]).toBe(1);
  });

  it('is refused with the reason of the system', () => {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-mapping-'));
    cleanups.push(() => rmSync(directory, { recursive: true }));
    writeFileSync(join(directory, 'file'), 'x');
    const readOnly = openSync(join(directory, 'file'), 'r');
    cleanups.push(() => closeSync(readOnly));
    expect(() => Mapping.file(readOnly, 0, PAGE)).toThrow(expect.objectContaining({ code: 'EACCES' }));
    expect(() => Mapping.file(99_999, 0, PAGE)).toThrow(expect.objectContaining({ code: 'EBADF' }));
    expect(() => Mapping.file(memoryFile(PAGE), 1, PAGE)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('leaves nothing behind when it was refused', () => {
    const before = openFdCount();
    expect(() => Mapping.file(99_999, 0, PAGE, { guarded: true })).toThrow();
    const pageSizeBytes = 3 * PAGE;
    expect(() => Mapping.file(memoryFile(PAGE), 0, PAGE, { guarded: true, pageSizeBytes })).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
    expect(openFdCount()).toBe(before + 1);
  });
});

describe('views', () => {
  it('are detached when they are closed: their arrays have no elements left', () => {
    const mapping = Mapping.anonymous(2 * PAGE);
    const views = new MappingViews();
    const buffer = views.view(mapping, PAGE, PAGE);
    const arrays = [new Uint8Array(buffer), new Uint16Array(buffer, 2, 8), new Uint8Array(buffer).subarray(5)];
    views.close();
    mapping.close();
    expect(buffer.byteLength).toBe(0);
    expect(arrays.map((array) => array.length)).toEqual([0, 0, 0]);
    expect(arrays.map((array) => array[0])).toEqual([undefined, undefined, undefined]);
    expect(() => Atomics.load(arrays[1] as Uint16Array, 0)).toThrow();
    views.close();
  });

  it('are asserted to stay inside their mapping', () => {
    const mapping = kept(Mapping.anonymous(PAGE));
    const views = new MappingViews();
    for (const [offset, length] of [
      [0, PAGE + 1],
      [PAGE, 1],
      [-1, 1],
      [0, -1],
      [1, PAGE],
    ] as const) {
      expect(() => views.view(mapping, offset, length)).toThrow(AssertionError);
    }
    expect(views.view(mapping, PAGE - 1, 1).byteLength).toBe(1);
    views.close();
  });

  it('reach the end of a mapping that is larger than 4 GiB', () => {
    const fd = memoryFile(5 * GIB);
    const mapping = kept(Mapping.file(fd, 0, 5 * GIB));
    const end = bytesOf(mapping, 5 * GIB - 16, 16);
    end[15] = 9;
    expect(bytesOf(kept(Mapping.file(fd, 5 * GIB - PAGE, PAGE)))[PAGE - 1]).toBe(9);
  });
});

describe('a mapping', () => {
  it('is closed once: more is our own mistake', () => {
    const mapping = Mapping.anonymous(PAGE);
    mapping.close();
    expect(() => mapping.close()).toThrow(AssertionError);
  });

  it('takes the hint for huge pages whether or not the kernel can follow it', () => {
    const mapping = kept(Mapping.anonymous(4 << 20));
    expect(() => mapping.preferHugePages()).not.toThrow();
  });
});

describe('memory files', () => {
  it('have the size they were made with and can be resized', () => {
    const fd = memoryFile(3 * PAGE + 1);
    expect(fileInfo(fd)).toMatchObject({ sizeBytes: 3 * PAGE + 1, pageSizeBytes: PAGE });
    truncateFile(fd, 10 * PAGE);
    expect(fileInfo(fd).sizeBytes).toBe(10 * PAGE);
    expect(fileInfo(fd).mode).toBe(fstatSync(fd).mode);
  });

  it('are refused with the reason of the system', () => {
    expect(() => fileInfo(99_999)).toThrow(expect.objectContaining({ code: 'EBADF' }));
    expect(() => truncateFile(99_999, 1)).toThrow(expect.objectContaining({ code: 'EBADF' }));
    // No machine has hugepages of 8 KiB.
    expect(() => createMemoryFile('test', 8192, 8192)).toThrow(expect.objectContaining({ name: 'TargetError' }));
  });
});

describe('the truncation guard', () => {
  it('puts zeroes in place of lost pages, keeps the rest, and tells', () => {
    const fd = memoryFile(8 * PAGE);
    const mapping = kept(Mapping.file(fd, 0, 8 * PAGE, { guarded: true }));
    const bytes = bytesOf(mapping).fill(0x5a);
    readEventFd(truncationEventFd());
    expect(mapping.wasTruncated).toBe(false);
    truncateFile(fd, 3 * PAGE);
    // Nothing has happened as long as nobody looks at a lost page.
    expect(bytes[3 * PAGE - 1]).toBe(0x5a);
    expect([mapping.wasTruncated, readEventFd(truncationEventFd())]).toEqual([false, -11]);
    expect(bytes[5 * PAGE]).toBe(0);
    expect([mapping.wasTruncated, readEventFd(truncationEventFd())]).toEqual([true, 1]);
    expect(bytes.subarray(3 * PAGE).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(0, 3 * PAGE).every((byte) => byte === 0x5a)).toBe(true);
  });

  it('lets writes to lost pages succeed, and keeps them from the file', () => {
    const fd = memoryFile(2 * PAGE);
    const mapping = kept(Mapping.file(fd, 0, 2 * PAGE, { guarded: true }));
    const bytes = bytesOf(mapping);
    truncateFile(fd, 0);
    bytes.fill(7);
    expect([bytes[0], bytes[2 * PAGE - 1], mapping.wasTruncated]).toEqual([7, 7, true]);
    truncateFile(fd, 2 * PAGE);
    const other = bytesOf(kept(Mapping.file(fd, 0, 2 * PAGE)));
    expect(other.every((byte) => byte === 0)).toBe(true);
  });

  it('tells which mapping was cut, and forgets it with the mapping', () => {
    const whole = kept(Mapping.file(memoryFile(PAGE), 0, PAGE, { guarded: true }));
    const fd = memoryFile(PAGE);
    const cut = Mapping.file(fd, 0, PAGE, { guarded: true });
    const views = new MappingViews();
    truncateFile(fd, 0);
    expect(new Uint8Array(views.view(cut, 0, PAGE))[0]).toBe(0);
    expect([whole.wasTruncated, cut.wasTruncated]).toEqual([false, true]);
    views.close();
    cut.close();
    const next = kept(Mapping.file(memoryFile(PAGE), 0, PAGE, { guarded: true }));
    expect(next.wasTruncated).toBe(false);
  });

  it('says nothing of a mapping that is not guarded', () => {
    const fd = memoryFile(PAGE);
    const mapping = kept(Mapping.file(fd, 0, PAGE));
    truncateFile(fd, 0);
    expect(mapping.wasTruncated).toBe(false);
  });

  it('refuses a mapping that it has no slot for, rather than leave it unguarded', () => {
    const fd = memoryFile(PAGE);
    const mappings: Mapping[] = [];
    const fill = () => {
      for (let i = 0; i < 5000; i++) mappings.push(Mapping.file(fd, 0, PAGE, { guarded: true }));
    };
    expect(fill).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
    expect(mappings.length).toBeGreaterThan(4000);
    for (const mapping of mappings) mapping.close();
    expect(() => Mapping.file(fd, 0, PAGE, { guarded: true }).close()).not.toThrow();
  });

  it('does not hide a fault elsewhere: the process ends as it would without it', () => {
    const { signal } = runModule(`
      const { createMemoryFile, Mapping, MappingViews, truncateFile, truncationEventFd } =
        await import(${JSON.stringify(sourceUrl('sys/mapping.ts'))});
      truncationEventFd();
      const fd = createMemoryFile('test', 4096);
      const mapping = Mapping.file(fd, 0, 4096);
      const bytes = new Uint8Array(new MappingViews().view(mapping, 0, 4096));
      truncateFile(fd, 0);
      console.log(bytes[0]);
    `);
    expect(signal).toBe('SIGBUS');
  });
});

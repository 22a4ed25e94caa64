/** Bdevs by name: nobody loses one without being told, and none goes while somebody uses it. */
import { describe, expect, it, vi } from 'vitest';
import { turns } from '../../test/support/waiting.ts';
import { REMOVAL_MS_MAX } from '../base/limits.ts';
import { createStats } from './bdev-stats.ts';
import { NullBdev } from './modules/null/null.ts';
import { type BdevEntry, BdevRegistry, type BdevUser, checkResize } from './registry.ts';

const UUID = '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1';

class FakeBdev extends NullBdev {
  destructs = 0;

  override async destruct(): Promise<void> {
    this.destructs++;
  }
}

function create(registry: BdevRegistry, name: string, uuid?: string): { entry: BdevEntry; bdev: FakeBdev } {
  const bdev = new FakeBdev({ name, blockCount: 8, blockSizeBytes: 512, uuid });
  return { bdev, entry: registry.create(name, uuid, () => bdev) };
}

/** A user whose answers wait for `release`. */
class FakeUser implements BdevUser {
  readonly told: string[] = [];
  release = (): void => {};
  #gate: Promise<void> = Promise.resolve();

  hold(): void {
    this.#gate = new Promise((resolve) => {
      this.release = resolve;
    });
  }

  async bdevChanged(entry: BdevEntry): Promise<void> {
    this.told.push(`changed ${entry.name} to ${entry.bdev.blockCount}`);
    await this.#gate;
  }

  async bdevRemoved(entry: BdevEntry): Promise<void> {
    this.told.push(`removed ${entry.name}`);
    await this.#gate;
  }
}

describe('names', () => {
  it('and UUIDs both find a bdev, in any case of letters for the UUID', () => {
    const registry = new BdevRegistry(1);
    const { entry } = create(registry, 'A', UUID.toUpperCase());
    expect(['A', UUID, UUID.toUpperCase()].map((name) => registry.get(name))).toEqual([entry, entry, entry]);
    expect([registry.find('a'), registry.find('B')]).toEqual([undefined, undefined]);
    expect(() => registry.get('B')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
  });

  it('and UUIDs that are taken are refused before anything is made', () => {
    const registry = new BdevRegistry(1);
    create(registry, 'A', UUID);
    const make = () => {
      throw new Error('made');
    };
    const exists = expect.objectContaining({ code: 'EEXIST' });
    expect(() => registry.create('A', undefined, make)).toThrow(exists);
    expect(() => registry.create('B', UUID.toUpperCase(), make)).toThrow(exists);
    // Somebody’s UUID is a name of that bdev too.
    expect(() => registry.create(UUID, undefined, make)).toThrow(exists);
    expect(registry.list()).toHaveLength(1);
  });

  it('are free again when making the bdev failed', () => {
    const registry = new BdevRegistry(1);
    const fail = () => {
      throw new Error('no memory');
    };
    expect(() => registry.create('A', undefined, fail)).toThrow('no memory');
    expect(create(registry, 'A').entry.name).toBe('A');
  });

  it('by default count up from 0 and fill gaps', async () => {
    const registry = new BdevRegistry(1);
    expect(registry.nextName('Malloc')).toBe('Malloc0');
    for (const name of ['Malloc0', 'Malloc1', 'Malloc3']) create(registry, name);
    expect(registry.nextName('Malloc')).toBe('Malloc2');
    await registry.delete(registry.get('Malloc0'));
    expect(registry.nextName('Malloc')).toBe('Malloc0');
  });

  it('are listed in the order of creation, and ids are never used again', async () => {
    const registry = new BdevRegistry(1);
    for (const name of ['C', 'A', 'B']) create(registry, name);
    expect(registry.list().map(({ name, id }) => [name, id])).toEqual([
      ['C', 1],
      ['A', 2],
      ['B', 3],
    ]);
    await registry.delete(registry.get('B'));
    expect(create(registry, 'B').entry.id).toBe(4);
  });
});

describe('deletion', () => {
  it('tells every user, waits for all of them, then destructs', async () => {
    const registry = new BdevRegistry(1);
    const { entry, bdev } = create(registry, 'A');
    const users = [new FakeUser(), new FakeUser()];
    for (const user of users) {
      user.hold();
      entry.users.add(user);
    }
    const deletion = registry.delete(entry);
    await turns();
    expect(users.map(({ told }) => told)).toEqual([['removed A'], ['removed A']]);
    users[0]?.release();
    await turns();
    expect(bdev.destructs).toBe(0);
    users[1]?.release();
    await deletion;
    expect([bdev.destructs, registry.list(), entry.users.size]).toEqual([1, [], 0]);
  });

  it('hides the bdev at once, keeps its name until the end, and happens once', async () => {
    const registry = new BdevRegistry(1);
    const { entry } = create(registry, 'A');
    const user = new FakeUser();
    user.hold();
    entry.users.add(user);
    const deletion = registry.delete(entry);
    expect(entry.describe().isRemoved).toBe(true);
    expect(() => registry.get('A')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
    expect(() => create(registry, 'A')).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    await expect(registry.delete(entry)).rejects.toMatchObject({ code: 'ENODEV' });
    user.release();
    await deletion;
    expect(create(registry, 'A').entry.isRemoving).toBe(false);
  });

  it('is answered after ten seconds when a user cannot let go, and goes on', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const registry = new BdevRegistry(1);
      const { entry, bdev } = create(registry, 'A');
      const user = new FakeUser();
      user.hold();
      entry.users.add(user);
      const deletion = registry.delete(entry).catch((error: unknown) => error);
      await vi.advanceTimersByTimeAsync(REMOVAL_MS_MAX);
      expect(await deletion).toMatchObject({ code: 'ETIMEDOUT' });
      expect([bdev.destructs, registry.list(), entry.isRemoving]).toEqual([0, [entry], true]);
      expect(() => registry.get('A')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
      user.release();
      await vi.advanceTimersByTimeAsync(0);
      expect([bdev.destructs, registry.list()]).toEqual([1, []]);
    } finally {
      vi.useRealTimers();
    }
  });

  it('and creation are told to whoever listens', async () => {
    const registry = new BdevRegistry(1);
    const events: string[] = [];
    registry.on('created', ({ name }) => events.push(`created ${name}`));
    registry.on('deleted', ({ name }) => events.push(`deleted ${name}`));
    const { entry } = create(registry, 'A');
    await registry.delete(entry);
    expect(events).toEqual(['created A', 'deleted A']);
  });
});

describe('a change of size', () => {
  it('is told to every user, and over when all have it', async () => {
    const registry = new BdevRegistry(1);
    const { entry, bdev } = create(registry, 'A');
    const users = [new FakeUser(), new FakeUser()];
    users[1]?.hold();
    for (const user of users) entry.users.add(user);
    bdev.blockCount = 16;
    let isOver = false;
    const change = registry.changed(entry).then(() => {
      isOver = true;
    });
    await turns();
    expect([users.map(({ told }) => told), isOver]).toEqual([[['changed A to 16'], ['changed A to 16']], false]);
    users[1]?.release();
    await change;
    expect(isOver).toBe(true);
  });

  it('may shrink a bdev only while nobody uses it', () => {
    const { entry } = create(new BdevRegistry(1), 'A');
    expect(() => checkResize(entry, 4)).not.toThrow();
    entry.users.add(new FakeUser());
    expect(() => checkResize(entry, 4)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    for (const blockCount of [8, 9]) expect(() => checkResize(entry, blockCount)).not.toThrow();
  });
});

describe('a description', () => {
  it('is plain data that another thread can have', () => {
    const { entry } = create(new BdevRegistry(2), 'A', UUID);
    const description = entry.describe();
    expect(structuredClone({ ...description, stats: null })).toEqual({ ...description, stats: null });
    expect(description).toMatchObject({ id: 1, name: 'A', kind: 'null', blockSizeBytes: 512, blockCount: 8 });
    expect([description.isRemoved, description.stats.byteLength, entry.sizeBytes]).toEqual([
      false,
      createStats(2).byteLength,
      4096,
    ]);
  });
});

describe('a stacked bdev', () => {
  const stack = (registry: BdevRegistry, name: string, bases: readonly BdevEntry[], holder?: string) => {
    const bdev = new FakeBdev({ name, blockCount: 8, blockSizeBytes: 512 });
    const foundation = holder === undefined ? { bases } : { bases, holder };
    return { bdev, entry: registry.create(name, undefined, () => bdev, foundation) };
  };
  const denied = expect.objectContaining({ code: 'EPERM' });

  it('claims what it stands on, alone, until it goes', async () => {
    const registry = new BdevRegistry(1);
    const { entry: base } = create(registry, 'Base');
    const { entry } = stack(registry, 'Top', [base]);
    expect(() => base.checkUnclaimed()).toThrow('bdev "Base" is claimed by "Top"');
    expect(() => stack(registry, 'Other', [base])).toThrow(denied);
    expect(registry.find('Other')).toBe(undefined);
    expect(entry.describe().bases.map(({ name }) => name)).toEqual(['Base']);
    await registry.delete(entry);
    expect(base.users.size).toBe(0);
    base.checkUnclaimed();
    stack(registry, 'Other', [base]);
  });

  it('does not take a bdev from a controller', () => {
    const registry = new BdevRegistry(1);
    const { entry: base } = create(registry, 'Base');
    base.users.add(new FakeUser());
    expect(() => stack(registry, 'Top', [base])).toThrow('bdev "Base" is in use');
    expect(base.holder).toBe(null);
  });

  it('shares its base with the other parts of one whole', async () => {
    const registry = new BdevRegistry(1);
    const { entry: base } = create(registry, 'Base');
    const [one, two] = ['One', 'Two'].map((name) => stack(registry, name, [base], 'split').entry) as [
      BdevEntry,
      BdevEntry,
    ];
    await registry.delete(one);
    expect(() => base.checkUnclaimed()).toThrow(denied);
    await registry.delete(two);
    base.checkUnclaimed();
  });

  it('tells its users when what it stands on changes, and goes with it, after its own users', async () => {
    const registry = new BdevRegistry(1);
    const { entry: base, bdev: baseBdev } = create(registry, 'Base');
    const middle = stack(registry, 'Middle', [base]);
    const top = stack(registry, 'Top', [middle.entry]);
    const user = new FakeUser();
    top.entry.users.add(user);
    await registry.changed(base);
    user.hold();
    const deleting = registry.delete(base);
    await turns();
    expect(user.told).toEqual(['changed Top to 8', 'removed Top']);
    expect([top.bdev, middle.bdev, baseBdev].map(({ destructs }) => destructs)).toEqual([0, 0, 0]);
    expect(registry.list().every(({ isRemoving }) => isRemoving)).toBe(true);
    user.release();
    await deleting;
    expect([top.bdev, middle.bdev, baseBdev].map(({ destructs }) => destructs)).toEqual([1, 1, 1]);
    expect(registry.list()).toEqual([]);
  });

  it('goes once, when it and what it stands on are deleted at the same time', async () => {
    const registry = new BdevRegistry(1);
    const { entry: base } = create(registry, 'Base');
    const { entry, bdev } = stack(registry, 'Top', [base]);
    await Promise.all([registry.delete(entry), registry.delete(base)]);
    expect([bdev.destructs, registry.list()]).toEqual([1, []]);
  });
});

/**
 * A copy-on-write overlay: many machines share one image, each writes to a file of its own.
 * `ringhost serve examples/cow-overlay.ts base=/srv/debian.img diff=/srv/vm1.diff`
 */
import { open } from 'node:fs/promises';
import { defineDisk } from 'ringhost';

const BLOCK = 4096;

export default defineDisk(async ({ base = '', diff = '' }) => {
  const baseFile = await open(base, 'r');
  const diffFile = await open(diff, 'r+').catch(() => open(diff, 'w+'));
  const mapFile = await open(`${diff}.map`, 'r+').catch(() => open(`${diff}.map`, 'w+'));
  const { size } = await baseFile.stat();
  const blocks = Math.floor(size / BLOCK);
  /** A byte a block: 1 when it was written, and is in the file of differences. */
  const map = new Uint8Array(blocks);
  await mapFile.read(map, 0, blocks, 0);
  let changedFrom = blocks;
  let changedTo = 0;

  /** First the data, then the map that leads to it. */
  async function flush(): Promise<void> {
    await diffFile.datasync();
    const [from, to] = [changedFrom, changedTo];
    [changedFrom, changedTo] = [blocks, 0];
    if (from < to) await mapFile.write(map, from, to - from, from);
    await mapFile.datasync();
  }

  return {
    size: blocks * BLOCK,
    blockSize: BLOCK,
    flush,

    async read(offset, buffers) {
      let at = offset;
      for (const buffer of buffers) {
        for (let done = 0; done < buffer.length; ) {
          const block = Math.floor(at / BLOCK);
          const isOurs = map[block] === 1;
          let end = block + 1;
          while (end < blocks && (map[end] === 1) === isOurs) end++;
          const length = Math.min(buffer.length - done, end * BLOCK - at);
          await (isOurs ? diffFile : baseFile).read(buffer, done, length, at);
          done += length;
          at += length;
        }
      }
    },

    async write(offset, buffers) {
      const length = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
      await diffFile.writev([...buffers], offset);
      map.fill(1, offset / BLOCK, (offset + length) / BLOCK);
      changedFrom = Math.min(changedFrom, offset / BLOCK);
      changedTo = Math.max(changedTo, (offset + length) / BLOCK);
    },

    async close() {
      await flush();
      for (const file of [baseFile, diffFile, mapFile]) await file.close();
    },
  };
});

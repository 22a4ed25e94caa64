/** A disk in a database, a row a block: `ringhost serve examples/sqlite-disk.ts file=/srv/vm1.db mib=1024`. */
import { DatabaseSync } from 'node:sqlite';
import { defineDisk } from 'ringhost';

const BLOCK = 4096;

export default defineDisk(({ file = '', mib = '64' }) => {
  const db = new DatabaseSync(file);
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL');
  db.exec('CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, data BLOB NOT NULL)');
  const select = db.prepare('SELECT data FROM blocks WHERE number = ?');
  const insert = db.prepare('INSERT OR REPLACE INTO blocks VALUES (?, ?)');
  const remove = db.prepare('DELETE FROM blocks WHERE number >= ? AND number < ?');
  const whole = new Uint8Array(BLOCK);

  /** What is written since the last flush is one transaction, which is stable when that flush is over. */
  let isOpen = false;
  function begin(): void {
    if (!isOpen) db.exec('BEGIN');
    isOpen = true;
  }
  function flush(): void {
    if (isOpen) db.exec('COMMIT');
    isOpen = false;
  }
  function forget(offset: number, length: number): void {
    begin();
    remove.run(offset / BLOCK, (offset + length) / BLOCK);
  }

  return {
    size: Number(mib) * 2 ** 20,
    blockSize: BLOCK,
    flush,
    discard: forget,
    writeZeroes: forget,

    read(offset, buffers) {
      let at = offset;
      for (const buffer of buffers) {
        for (let done = 0; done < buffer.length; ) {
          const data = (select.get(Math.floor(at / BLOCK))?.data as Uint8Array | undefined) ?? new Uint8Array(BLOCK);
          const part = data.subarray(at % BLOCK, (at % BLOCK) + buffer.length - done);
          buffer.set(part, done);
          done += part.length;
          at += part.length;
        }
      }
    },

    write(offset, buffers) {
      begin();
      let at = offset;
      for (const buffer of buffers) {
        for (let done = 0; done < buffer.length; ) {
          const part = buffer.subarray(done, done + BLOCK - (at % BLOCK));
          whole.set(part, at % BLOCK);
          done += part.length;
          at += part.length;
          if (at % BLOCK === 0) insert.run(at / BLOCK - 1, whole);
        }
      }
    },

    close() {
      flush();
      db.close();
    },
  };
});

/** A log that takes nothing does not stop who writes it. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { until } from '../../test/support/waiting.ts';
import { closeFd } from '../sys/events.ts';
import { socketPair } from '../sys/socket.ts';
import { LogDestination } from './log-destination.ts';

const describeLoss = (lines: number): string => `lost ${lines}\n`;
const open: number[] = [];
afterEach(() => {
  for (const fd of open.splice(0)) closeFd(fd);
});

/** Two ends of a socket; what is written to one can be read from the other. */
function pair(): { readonly own: number; read(): string } {
  const [own, peer] = socketPair();
  open.push(own, peer);
  const buffer = new Uint8Array(1 << 20);
  return {
    own,
    read: () => {
      try {
        return Buffer.from(buffer.subarray(0, readSync(peer, buffer))).toString();
      } catch {
        return '';
      }
    },
  };
}

describe('a log', () => {
  it('gets its lines at once and in order', () => {
    const { own, read } = pair();
    const log = new LogDestination(own, describeLoss);
    for (let i = 0; i < 3; i++) log.write(`line ${i}\n`);
    expect(read()).toBe('line 0\nline 1\nline 2\n');
  });

  it('that nobody reads keeps some lines and drops others, and says how many once it is read', async () => {
    const { own, read } = pair();
    const log = new LogDestination(own, describeLoss);
    const line = (i: number): string => `${String(i).padStart(99, '.')}\n`;
    const count = 40_000;
    for (let i = 0; i < count; i++) log.write(line(i));
    let text = '';
    await until(() => {
      text += read();
      return text.includes('lost');
    }, 'word of the loss');
    const lost = Number(/lost (\d+)/.exec(text)?.[1]);
    await until(() => {
      text += read();
      return text.length >= (count - lost) * 100;
    }, 'lines that were kept');
    const kept = text.replace(/lost \d+\n/, '');
    expect(kept).toBe(Array.from({ length: count - lost }, (_, i) => line(i)).join(''));
    expect(lost).toBeGreaterThan(0);
  });

  it('on a full disk loses lines, and nothing else', () => {
    const full = openSync('/dev/full', 'w');
    open.push(full);
    const log = new LogDestination(full, describeLoss);
    for (let i = 0; i < 1000; i++) log.write('x\n');
    expect(open).toHaveLength(1);
  });

  it('in a file is written as it is', () => {
    const path = join(tmpdir(), `ringhost-log-${process.pid}`);
    const fd = openSync(path, 'w');
    const log = new LogDestination(fd, describeLoss);
    log.write(`${'y'.repeat(10_000)}\n`);
    closeSync(fd);
    expect(readFileSync(path, 'utf8')).toHaveLength(10_001);
  });
});

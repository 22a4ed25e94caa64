/** Levels of the log, and of the parts of the daemon. */
import { describe, expect, it } from 'vitest';
import { DaemonLog } from './logger.ts';

/** What of each level got through, of the log itself and of two of its rooms. */
function heard(log: DaemonLog): string[] {
  const from = log.events.since(0).at(-1)?.id ?? 0;
  for (const level of ['debug', 'info', 'warn', 'error'] as const) {
    log[level](`log ${level}`);
    log.room('vhost')[level](`vhost ${level}`);
    log.room('rpc')[level](`rpc ${level}`);
  }
  return log.events.since(from).map(({ message }) => message);
}

const all = (name: string): string[] => ['debug', 'info', 'warn', 'error'].map((level) => `${name} ${level}`);

describe('the level', () => {
  it('is that of the log where a part has none of its own', () => {
    const log = new DaemonLog('json');
    log.level = 'WARNING';
    expect(heard(log)).toEqual(['log warn', 'vhost warn', 'rpc warn', 'log error', 'vhost error', 'rpc error']);
  });

  it('of a part may be lower or higher, and goes back', () => {
    const log = new DaemonLog('json');
    log.setLevels('error,vhost=debug');
    expect(heard(log).toSorted()).toEqual([...all('vhost'), 'log error', 'rpc error'].toSorted());
    log.setLevels('rpc=ERROR,Debug');
    expect(heard(log).toSorted()).toEqual([...all('log'), ...all('vhost'), 'rpc error'].toSorted());
    log.setLevelOf('rpc', undefined);
    expect(heard(log)).toHaveLength(12);
  });

  it('has a name, and so has the part', () => {
    const log = new DaemonLog('json');
    expect(() => log.setLevels('loud')).toThrow('loud: choose of error, warning, notice, info, debug');
    expect(() => log.setLevels('vhots=debug')).toThrow('the log has no "vhots": choose of bdev, http,');
    expect(() => log.setLevels('')).toThrow('choose of');
  });
});

import { describe, expect, it } from 'vitest';
import { parseNetworkAddress } from './network-address.ts';

describe('an address of a listener', () => {
  it.each([
    ['127.0.0.1:9009', { host: '127.0.0.1', port: 9009 }],
    ['[::1]:80', { host: '::1', port: 80 }],
    ['localhost:0', { host: 'localhost', port: 0 }],
  ])('%s is read', (text, address) => {
    expect(parseNetworkAddress(text, '--http')).toEqual(address);
  });

  it.each(['9009', '127.0.0.1', '127.0.0.1:99999', 'example.org:80', '::1:80', 'a:b', ''])('%j is refused', (text) => {
    expect(() => parseNetworkAddress(text, '--http')).toThrow(`--http ${text}: give an address and a port`);
  });
});

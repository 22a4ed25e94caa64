/** Addresses of TCP listeners, as options name them. */
import { isIP } from 'node:net';
import { TargetError } from './errors.ts';

export interface NetworkAddress {
  readonly host: string;
  /** 0: the kernel chooses one. */
  readonly port: number;
}

/** `127.0.0.1:9009`, `[::1]:9009`, `localhost:9009`. `option` names it in errors. @throws TargetError `EINVAL` */
export function parseNetworkAddress(text: string, option: string): NetworkAddress {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  const isHost = host === 'localhost' || isIP(host ?? '') !== 0;
  if (host === undefined || !isHost || port > 65_535) {
    const examples = 'such as 127.0.0.1:9009 or [::1]:9009';
    throw new TargetError('EINVAL', `${option} ${text}: give an address and a port, ${examples}`);
  }
  return { host, port };
}

/** As it is written in a URL. */
export function hostInUrl(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

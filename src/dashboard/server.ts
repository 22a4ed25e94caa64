/**
 * The HTTP server: the dashboard at `/`, its frames at `/frames` (server-sent events, one a second), the newest
 * sample at `/sample`, `/metrics` for Prometheus, and single requests for a while (POST `/trace`). It only shows:
 * nothing can be changed by it.
 */
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import { Hono } from 'hono';
import { streamSSE } from 'hono/streaming';
import { z } from 'zod';
import { TargetError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { hostInUrl, type NetworkAddress } from '../base/network-address.ts';
import { descriptorOf, startListening } from '../base/node-handle.ts';
import { Feed, type FeedSource } from '../observe/feed.ts';
import type { Frame } from '../observe/frame.ts';
import { METRICS_CONTENT_TYPE, metricsText } from '../observe/metrics-text.ts';
import { takeSample } from '../observe/take-sample.ts';
import { traceFor, traceRequest } from '../observe/trace-file.ts';
import { guard, requireToken, sameOriginOnly } from './access.ts';
import { findAsset } from './assets.ts';

export interface DashboardOptions {
  readonly address: NetworkAddress;
  /** Null: none is needed, on a loopback address. */
  readonly token: string | null;
  readonly source: FeedSource;
  /** A socket that listens already. Default: a new one, on the address. */
  readonly inheritedFd?: number | undefined;
  readonly log: Logger;
}

const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy': "default-src 'self'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
};
/** Frames that a browser may be behind; then it is let go, and connects again by itself. */
const BACKLOG_MAX = 400;

export class Dashboard {
  /** Null: none is needed, on a loopback address. */
  token: string | null;
  readonly #server: Server;
  readonly #feed: Feed;

  private constructor(options: DashboardOptions, feed: Feed) {
    this.token = options.token;
    this.#feed = feed;
    this.#server = createAdaptorServer({ fetch: routes(options.source, feed, () => this.token).fetch }) as Server;
  }

  /** @throws TargetError `EINVAL` for an address that needs a token, `EADDRINUSE`, `EACCES`, … */
  static async listen(options: DashboardOptions): Promise<Dashboard> {
    const { address, log } = options;
    requireToken(address, options.token);
    const feed = new Feed(options.source, (error) => log.error(`the dashboard has no figures: ${error.message}`));
    const dashboard = new Dashboard(options, feed);
    try {
      await startListening(dashboard.#server, address, options.inheritedFd);
    } catch (error) {
      const { code = 'EIO', message } = error as NodeJS.ErrnoException;
      throw new TargetError(code, `--http ${hostInUrl(address.host)}:${address.port}: ${message}: choose another port`);
    }
    log.info(`dashboard on ${dashboard.url}`);
    return dashboard;
  }

  get url(): string {
    const { address, port } = this.#server.address() as AddressInfo;
    return `http://${hostInUrl(address)}:${port}/`;
  }

  /** For whoever listens on it next; it stays the server's. */
  get listeningFd(): number {
    return descriptorOf(this.#server);
  }

  async close(): Promise<void> {
    this.#feed.close();
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}

function routes(source: FeedSource, feed: Feed, tokenOf: () => string | null): Hono {
  const app = new Hono();
  app.use(async (context, next) => {
    await next();
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) context.header(name, value);
  });
  app.use(guard(tokenOf));
  app.get('/metrics', async (context) => {
    return context.body(await metricsText(await takeSample(source.call)), 200, {
      'content-type': METRICS_CONTENT_TYPE,
    });
  });
  app.get('/sample', async (context) => context.json(await takeSample(source.call)));
  app.post('/trace', sameOriginOnly, async (context) => {
    const request = traceRequest.safeParse(await context.req.json().catch(() => null));
    if (!request.success) return context.text(`${z.prettifyError(request.error)}\n`, 400);
    try {
      const text = await traceFor(source.call, request.data, context.req.raw.signal);
      return context.body(text, 200, { 'content-type': 'application/json' });
    } catch (error) {
      if (!(error instanceof TargetError)) throw error;
      return context.text(`${error.message}\n`, 409);
    }
  });
  app.get('/frames', (context) => {
    return streamSSE(context, async (stream) => {
      const queue: Frame[] = [];
      let notify: () => void = () => undefined;
      const unsubscribe = feed.subscribe((frame) => {
        queue.push(frame);
        notify();
      });
      stream.onAbort(() => {
        unsubscribe();
        notify();
      });
      while (!stream.aborted && queue.length < BACKLOG_MAX) {
        const frame = queue.shift();
        if (frame === undefined) await new Promise<void>((resolve) => (notify = resolve));
        else await stream.writeSSE({ data: JSON.stringify(frame) });
      }
      unsubscribe();
    });
  });
  app.get('*', async (context) => {
    const asset = await findAsset(context.req.path);
    return asset === null ? context.notFound() : context.body(asset.text, 200, { 'content-type': asset.type });
  });
  return app;
}

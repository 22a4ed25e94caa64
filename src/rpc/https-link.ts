/** The way of an RPC client to a daemon over TCP: each request is the body of a POST over TLS, with the token. */
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { TargetError } from '../base/errors.ts';
import { JsonStreamParser } from './framing.ts';
import { RESPONSE_MAX_BYTES } from './limits.ts';
import type { Link, LinkEvents } from './link.ts';

export interface HttpsLinkOptions {
  /** Certificates (PEM) of who may have signed the daemon's. Default: those that Node.js trusts. */
  readonly ca?: string | undefined;
  readonly token: string;
}

const UNAUTHORIZED = 401;

/** Requests are sent one after the other, in order; the connection is kept in between. */
export class HttpsLink implements Link {
  readonly #url: string;
  readonly #agent: Agent;
  readonly #token: string;
  readonly #events: LinkEvents;

  constructor(url: string, { ca, token }: HttpsLinkOptions, events: LinkEvents) {
    this.#url = url;
    this.#token = token;
    this.#events = events;
    this.#agent = new Agent({ keepAlive: true, maxSockets: 1, ca, minVersion: 'TLSv1.2' });
  }

  send(text: string): void {
    const headers = { authorization: `Bearer ${this.#token}`, 'content-type': 'application/json' };
    const call = request(this.#url, { agent: this.#agent, method: 'POST', headers }, (answer) => this.#read(answer));
    call.on('error', (error) => this.#events.lost(httpsError(this.#url, error)));
    call.end(text);
  }

  close(): void {
    this.#agent.destroy();
  }

  #read(answer: IncomingMessage): void {
    const parser = new JsonStreamParser({ maxBytes: RESPONSE_MAX_BYTES, exactIntegers: false });
    const take = ({ values, error }: ReturnType<JsonStreamParser['push']>): void => {
      for (const value of values) this.#events.value(value);
      if (error === null) return;
      answer.destroy();
      const detail = `what answers on ${this.#url} does not speak JSON-RPC: ${error.detail}`;
      this.#events.lost(new TargetError('EPROTO', detail));
    };
    if (answer.statusCode === UNAUTHORIZED) {
      const detail = 'give the token that its --rpc-token-file has (--token-file FILE)';
      this.#events.lost(new TargetError('EACCES', `the daemon at ${this.#url} refuses the token: ${detail}`));
    }
    answer.on('error', (error) => this.#events.lost(httpsError(this.#url, error)));
    answer.on('data', (piece: Buffer) => take(parser.push(piece)));
    answer.on('end', () => take(parser.end()));
  }
}

function httpsError(url: string, error: NodeJS.ErrnoException): TargetError {
  const code = error.code ?? 'EIO';
  const isUnknownSigner = /SELF_SIGNED|UNABLE_TO_(GET_ISSUER|VERIFY)/.test(code);
  const hints: readonly (readonly [RegExp, string])[] = [
    [/^ECONNREFUSED$/, 'nobody answers there. Is ringhost running with --rpc-https?'],
    [/ALTNAME_INVALID$/, 'its certificate is for another name: use a name or address that is in its subjectAltName'],
    [/^CERT_HAS_EXPIRED$/, 'its certificate has expired: give the daemon a new one'],
    [
      /^(EPROTO|ERR_SSL_.*)$/,
      `it does not speak TLS 1.2 or later: is this the port of --rpc-https? (${error.message})`,
    ],
  ];
  const hint = isUnknownSigner
    ? `its certificate is not signed by whom this client trusts: give --ca-file FILE (${code})`
    : (hints.find(([pattern]) => pattern.test(code))?.[1] ?? error.message);
  return new TargetError(code, `cannot call ${url}: ${hint}`, { cause: error, fields: { url } });
}

/** What carries an RPC client's requests to a daemon. */
import type { TargetError } from '../base/errors.ts';

export interface Link {
  /** Sends a JSON text. */
  send(text: string): void;
  close(): void;
}

export interface LinkEvents {
  /** A JSON value that the daemon sent. */
  value(value: unknown): void;
  /** Nothing more will come. May be told more than once: the first reason counts. */
  lost(error: TargetError): void;
}

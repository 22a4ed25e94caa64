/**
 * The one table of RPC methods. Types of handlers and clients, parameter checks, `rpc_get_methods`, `rpc.discover`, the
 * arguments of `ringhost rpc` and docs/rpc.md are all derived from it.
 *
 * Other rooms import types from here and write `*.rpc.ts` files that return `Pick<Handlers, …>`; the daemon merges them
 * into `DaemonHandlers`, so a method without a handler does not compile.
 */
import type { z } from 'zod';
import type { MethodSpec } from './define.ts';
import { accelMethods } from './methods/accel.ts';
import { bdevMethods } from './methods/bdev.ts';
import { fileMethods } from './methods/bdev-file.ts';
import { jobMethods } from './methods/bdev-jobs.ts';
import { lvolMethods } from './methods/bdev-lvol.ts';
import { moduleMethods } from './methods/bdev-module.ts';
import { nbdMethods } from './methods/bdev-nbd.ts';
import { nvmeMethods } from './methods/bdev-nvme.ts';
import { powerCutMethods } from './methods/bdev-powercut.ts';
import { raidMethods } from './methods/bdev-raid.ts';
import { rbdMethods } from './methods/bdev-rbd.ts';
import { stackedMethods } from './methods/bdev-stacked.ts';
import { virtioMethods } from './methods/bdev-virtio.ts';
import { configMethods } from './methods/config.ts';
import { frameworkMethods } from './methods/framework.ts';
import { latencyMethods } from './methods/latency.ts';
import { spdkMethods } from './methods/spdk.ts';
import { traceMethods } from './methods/trace.ts';
import { vhostMethods } from './methods/vhost.ts';

export const METHODS = {
  ...bdevMethods,
  ...latencyMethods,
  ...fileMethods,
  ...jobMethods,
  ...nbdMethods,
  ...virtioMethods,
  ...nvmeMethods,
  ...rbdMethods,
  ...stackedMethods,
  ...raidMethods,
  ...lvolMethods,
  ...accelMethods,
  ...moduleMethods,
  ...powerCutMethods,
  ...vhostMethods,
  ...traceMethods,
  ...frameworkMethods,
  ...configMethods,
  ...spdkMethods,
} as const satisfies Record<string, MethodSpec>;

export type MethodName = keyof typeof METHODS;

/** Parameters as a handler gets them: checked, defaults filled in. */
export type Params<N extends MethodName> = z.output<(typeof METHODS)[N]['params']>;

/** Parameters as a caller gives them: what has a default may be left out. */
export type CallParams<N extends MethodName> = z.input<(typeof METHODS)[N]['params']>;

export type Result<N extends MethodName> = z.output<(typeof METHODS)[N]['result']>;

/** Makes a call: a client's, or the daemon's own. */
export type Call = <N extends MethodName>(method: N, params: CallParams<N>) => Promise<Result<N>>;

/** What a handler may know about the request besides its parameters. */
export interface RpcContext {
  /** Aborted when the client disconnects or the server closes: a handler that waits stops waiting. */
  readonly signal: AbortSignal;
  /** The name that was called: the method's own or an alias. */
  readonly calledAs: string;
  /** Distinguishes connections in the log; 1-based, never used twice. */
  readonly connection: number;
}

/**
 * A handler answers with its result or throws a `TargetError`, whose `errno` becomes the error that SPDK's clients
 * expect and whose message tells the operator what to do.
 */
export type Handlers = {
  readonly [N in MethodName]: (params: Params<N>, context: RpcContext) => Result<N> | Promise<Result<N>>;
};

/** Answered by the RPC server itself, from the table. */
export type BuiltinMethodName = 'rpc_get_methods' | 'rpc.discover';

/** All that the daemon must provide. */
export type DaemonHandlers = Omit<Handlers, BuiltinMethodName>;

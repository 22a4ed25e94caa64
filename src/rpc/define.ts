/**
 * How one RPC method is described. A row of the method table (`methods.ts`) gives everything that is derived elsewhere:
 * the TypeScript types of its handler, the run-time check of its parameters, its entry in `rpc.discover` and in
 * docs/rpc.md, and the arguments that `ringhost rpc METHOD` takes.
 *
 * Names, parameters, defaults, results and command-line flags are those of SPDK's rpc.py, so that its clients work
 * unchanged. What Ringhost adds is marked in the text of the field.
 */
import { z } from 'zod';
import type { ErrnoName } from '../base/errors.ts';

/**
 * When a method may be called: `startup` is before the subsystems are initialised (the daemon waits for
 * `framework_start_init`), `runtime` is afterwards.
 */
export type RpcState = 'startup' | 'runtime';

/**
 * How an errno becomes a JSON-RPC error code. SPDK has three habits and its clients rely on each:
 * `errno` puts the negative errno itself into `code` (bdev methods), `invalid_params` always says -32602 (vhost methods
 * that change something), `internal` always says -32603 (vhost_get_controllers). `message` is strerror(errno) in all.
 */
export type ErrorStyle = 'errno' | 'invalid_params' | 'internal';

/** A failure that an operator can meet, for the reference. */
interface ErrorCase {
  readonly code: ErrnoName;
  readonly when: string;
}

export type CliValue = string | number | boolean | readonly string[] | Readonly<Record<string, string>>;
export type CliValues = Readonly<Record<string, CliValue | undefined>>;

export interface CliPositional {
  /** Key in `CliValues`, and the parameter it becomes unless `toParams` says otherwise. */
  readonly name: string;
  /** `pairs`, only the last one, is `KEY=VALUE`, any number of times. */
  readonly kind: 'string' | 'int' | 'float' | 'pairs';
  readonly help: string;
  readonly choices?: readonly string[];
  /** May be left out. Only the last ones are. */
  readonly isOptional?: true;
}

export interface CliFlag {
  /** Spellings, short ones first: `['-b', '--name']`. */
  readonly names: readonly string[];
  /** Key in `CliValues`, and the parameter it becomes unless `toParams` says otherwise. */
  readonly dest: string;
  /**
   * `switch` is false unless given; `yesno` is `--x` / `--no-x`; `list` is comma separated; `pairs` is `KEY=VALUE`, any
   * number of times.
   */
  readonly kind: 'string' | 'int' | 'float' | 'switch' | 'yesno' | 'list' | 'pairs';
  readonly help: string;
  readonly choices?: readonly (string | number)[];
  /** Sent when the flag is absent. Default: nothing is sent (`switch` and `yesno`: false). */
  readonly fallback?: CliValue;
  /** For the command alone: it is not sent. */
  readonly isLocal?: true;
  /** Not a flag of rpc.py: a `switch` is sent only when it is given, for daemons that do not know it. */
  readonly isAddition?: true;
}

/** The command line of one method, as rpc.py has it. */
export interface CliSpec {
  /** Whatever is given is taken, and nothing of it is sent. */
  readonly takesAnything?: true;
  readonly positionals?: readonly CliPositional[];
  readonly flags?: readonly CliFlag[];
  /** Turns what was typed into the request's parameters. Default: the values under their own names. */
  readonly toParams?: (values: CliValues) => Readonly<Record<string, unknown>>;
  /** These members of a JSON object, read from the file that the flag names or from standard input, are sent too. */
  readonly input?: { readonly flag: string; readonly members: readonly string[] };
  /**
   * What rpc.py prints of the result: `json` with an indent of 2, `text` the same without the quotes around a plain
   * string, `words` a list of strings in one line, or `nothing`.
   */
  readonly print: 'nothing' | 'json' | 'text' | 'words';
}

/** An older name of a method. It behaves as the method does, but for what is stated here. */
export interface MethodAlias<Result = unknown> {
  readonly name: string;
  /** From the parameters of the old name to those of the method. They are checked after this. */
  toParams?(params: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
  /** From the result of the method to the shape that the old name had. */
  toResult?(result: Result): unknown;
  /** When the old command line differs. Default: the method's own. */
  readonly cli?: CliSpec;
  /** One line for the reference when the old name differs. */
  readonly note?: string;
}

interface MethodExample {
  readonly params: Readonly<Record<string, unknown>>;
  readonly result: unknown;
}

export interface MethodSpec<P extends z.ZodObject = z.ZodObject, R extends z.ZodType = z.ZodType> {
  /** One line, imperative, without a full stop. */
  readonly summary: string;
  /** Markdown paragraphs for the reference. */
  readonly details?: string;
  /** Strict: an unknown parameter is an error. Or `anyParams`. */
  readonly params: P;
  /** Parameters that SPDK's clients send and that change nothing here. Who gives one is told so in the log. */
  readonly ignored: readonly (keyof z.output<P> & string)[];
  /** Rewrites values that older clients send under this name, before they are checked. */
  normalize?(params: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
  /** The shape that SPDK's clients read. Not checked at run time in production; tests check it. */
  readonly result: R;
  /** It changes nothing, whatever it is called with: SPDK's clients and configurations call it. */
  readonly hasNoEffect?: true;
  /** Parameters whose value no error repeats. */
  readonly secrets?: readonly string[];
  readonly states: readonly RpcState[];
  readonly errorStyle: ErrorStyle;
  readonly errors: readonly ErrorCase[];
  /**
   * Whether a call with these (checked) parameters may wait long for something that another request brings about: then
   * later requests of the same connection do not wait for it. All others of a connection run one after another.
   * Default: never.
   */
  waits?(params: Readonly<Record<string, unknown>>): boolean;
  readonly aliases: readonly MethodAlias<z.output<R>>[];
  readonly cli: CliSpec;
  readonly example: MethodExample;
}

type Optional = 'states' | 'errorStyle' | 'errors' | 'aliases' | 'ignored';

/**
 * Makes a row of the method table. Defaults: callable at run time only, errors in the `errno` style, no aliases.
 */
export function defineMethod<P extends z.ZodObject, R extends z.ZodType>(
  spec: Omit<MethodSpec<P, R>, Optional> & Partial<Pick<MethodSpec<P, R>, Optional>>,
): MethodSpec<P, R> {
  return { states: ['runtime'], errorStyle: 'errno', errors: [], aliases: [], ignored: [], ...spec };
}

/** Parameters of a method that takes none. */
export const noParams = z.strictObject({});

/** Of a method whose parameters mean nothing here, whichever they are. */
export const anyParams = z.looseObject({});

/** A 32-bit count or size. */
export const uint32 = z.int().min(0).max(0xffff_ffff);

/** A 64-bit count in SPDK; here up to 2^53 - 1, beyond which a JSON number has no exact value in most clients. */
export const uint53 = z.int().min(0);

/** A UUID in its usual text form, of any version. */
export const uuid = z.guid();

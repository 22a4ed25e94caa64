/** The OpenRPC 1.3 document (spec.open-rpc.org) of the method table: what `rpc.discover` answers. */
import { z } from 'zod';
import { Errno } from '../base/errors.ts';
import type { MethodSpec } from './define.ts';
import { errnoError } from './errors.ts';
import { METHODS } from './methods.ts';

const OPENRPC_VERSION = '1.3.2';

export type JsonSchema = Readonly<Record<string, unknown>>;

export interface ParamDescription {
  readonly name: string;
  readonly required: boolean;
  readonly description: string;
  readonly schema: JsonSchema;
}

/** JSON Schema (2020-12) of a zod schema, without the members that OpenRPC has elsewhere. */
export function jsonSchema(schema: z.ZodType, side: 'input' | 'output'): JsonSchema {
  const { $schema: _, '~standard': __, ...rest } = z.toJSONSchema(schema, { io: side, unrepresentable: 'any' });
  return rest;
}

/** Parameters of a method in the order of the table. */
export function describeParams(spec: MethodSpec): readonly ParamDescription[] {
  const whole = jsonSchema(spec.params, 'input');
  const required = (whole.required ?? []) as readonly string[];
  const properties = (whole.properties ?? {}) as Readonly<Record<string, JsonSchema>>;
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name,
    required: required.includes(name),
    description: typeof description === 'string' ? description : '',
    schema,
  }));
}

function describeMethod(name: string, spec: MethodSpec): JsonSchema {
  return {
    name,
    summary: spec.summary,
    ...(spec.details === undefined ? {} : { description: spec.details }),
    paramStructure: 'by-name',
    params: describeParams(spec),
    result: { name: 'result', schema: jsonSchema(spec.result, 'output') },
    errors: spec.errors.map(({ code, when }) => {
      const { code: number, message } = errnoError(Errno[code], spec.errorStyle, when);
      return { code: number, message, data: { errno: code, detail: when } };
    }),
    examples: [
      {
        name: `${name} example`,
        params: Object.entries(spec.example.params).map(([param, value]) => ({ name: param, value })),
        result: { name: 'result', value: spec.example.result },
      },
    ],
    'x-states': spec.states,
    'x-aliases': spec.aliases.map((alias) => alias.name),
  };
}

export function openRpcDocument(version: string): Record<string, unknown> {
  return {
    openrpc: OPENRPC_VERSION,
    info: {
      title: 'Ringhost',
      description: 'Control of a Ringhost daemon: JSON-RPC 2.0 over a Unix socket, compatible with SPDK.',
      license: { name: 'Apache-2.0' },
      version,
    },
    methods: Object.entries(METHODS)
      .toSorted(([left], [right]) => (left < right ? -1 : 1))
      .map(([name, spec]) => describeMethod(name, spec)),
  };
}

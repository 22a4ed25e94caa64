/** Checks the parameters of a request against the method table and says in a sentence what is wrong with them. */
import type { z } from 'zod';
import type { MethodSpec } from './define.ts';
import { type ErrorObject, invalidArgument, RpcCode, standardError } from './errors.ts';
import { writeBigInt } from './framing.ts';
import { nearest } from './lookup.ts';

export type CheckedParams =
  | { readonly ok: true; readonly params: Readonly<Record<string, unknown>> }
  | { readonly ok: false; readonly error: ErrorObject };

/** Longest piece of a wrong value that an error repeats. */
const SHOWN_MAX_CHARS = 60;

export function checkParams(spec: MethodSpec, given: Readonly<Record<string, unknown>>): CheckedParams {
  const checked = spec.params.safeParse(given);
  if (checked.success) return { ok: true, params: checked.data };
  const { issues } = checked.error;
  const detail = issues.map((issue) => describeIssue(issue, spec, given)).join('; ');
  // SPDK decodes first and looks at the values later, with other codes; its vhost methods say EINVAL for both.
  const isAboutValue = issues.every((issue) => isValueIssue(issue, given));
  const asErrno = spec.errorStyle === 'invalid_params' || (isAboutValue && spec.errorStyle === 'errno');
  const error = asErrno ? invalidArgument(spec.errorStyle, detail) : standardError(RpcCode.invalidParams, detail);
  return { ok: false, error };
}

function isValueIssue(issue: z.core.$ZodIssue, given: unknown): boolean {
  if (issue.code === 'invalid_value') return typeof valueAt(issue.path, given) === 'number';
  return issue.code === 'too_small' || issue.code === 'too_big' || issue.code === 'custom';
}

function describeIssue(issue: z.core.$ZodIssue, spec: MethodSpec, given: unknown): string {
  const isSecret = spec.secrets?.includes(String(issue.path[0])) === true;
  const known = Object.keys(spec.params.shape);
  if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => describeUnknown(key, known)).join('; ');
  const path = issue.path.map(String).join('.');
  const value = valueAt(issue.path, given);
  const field = path === '' ? 'params' : path;
  if (value === undefined) return `${field} is missing`;
  if (typeof value === 'bigint' && !isSecret)
    return `${field} must be at most ${Number.MAX_SAFE_INTEGER}, but it is ${show(value)}`;
  if (issue.code === 'invalid_value') return `${field} must be ${oneOf(issue.values)}, but it is ${show(value)}`;
  const complaint = issue.message.replace(/^Invalid input: /, '').replace(/, received .*$/, '');
  const sentence = complaint.startsWith(field) ? complaint : `${field}: ${lowerFirst(complaint)}`;
  return isSecret ? sentence : `${sentence}, but it is ${show(value)}`;
}

function oneOf(values: readonly unknown[]): string {
  const [last, ...others] = values.map(String).toReversed();
  return others.length === 0 ? String(last) : `${others.toReversed().join(', ')} or ${last}`;
}

function describeUnknown(key: string, known: readonly string[]): string {
  const shown = show(key);
  if (known.length === 0) return `unknown parameter ${shown}: this method takes none`;
  const like = nearest(key, known);
  const hint = like === null ? `known are ${known.join(', ')}` : `did you mean ${like}?`;
  return `unknown parameter ${shown}: ${hint}`;
}

function valueAt(path: readonly PropertyKey[], given: unknown): unknown {
  let value = given;
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Readonly<Record<PropertyKey, unknown>>)[key];
  }
  return value;
}

function show(value: unknown): string {
  const text = JSON.stringify(value, writeBigInt) ?? String(value);
  return text.length > SHOWN_MAX_CHARS ? `${text.slice(0, SHOWN_MAX_CHARS)}…` : text;
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** What is wrong with a configuration file, and how its writer is told: file, line, key, expectation, cure. */
import type * as v from 'valibot';
import { ServerError } from '../errors.js';
import { nearest } from './nearest.js';
import { type configSchema, tables } from './schema.js';
import { indexLines } from './toml-lines.js';

/** One thing that is wrong with the key at `path`. */
export interface Problem {
  path: string[];
  /** A sentence that names the key and what was expected. */
  text: string;
  /** The cure, where `text` does not say it. */
  hint?: string;
}

/** How many problems one error tells. */
const maxTold = 20;

/** All problems of the file `file`, whose content is `source`, as one error: a line for each, in the file's order. */
export function problemsError(file: string, source: string, problems: Problem[]): ServerError {
  const lineOf = indexLines(source);
  const told = problems
    .map(({ path, text, hint }) => ({ line: lineOf(path), text, hint }))
    .sort((a, b) => a.line - b.line)
    .slice(0, maxTold)
    .map(({ line, text, hint }) => ({ message: `${file}:${line}: ${text}`, hint }));
  const [first] = told;
  if (told.length === 1 && first?.hint !== undefined) {
    return new ServerError('CONFIG', first.message, { hint: first.hint });
  }
  const lines = told.map(({ message, hint }) => (hint ? `${message}; ${hint}` : message));
  if (problems.length > maxTold) lines.push(`${file}: and ${problems.length - maxTold} more`);
  return new ServerError('CONFIG', lines.join('\n'));
}

/** What the schema found. @param mirrorPaths where in the file each mirror stands */
export function problemOf(
  issue: v.InferIssue<typeof configSchema>,
  mirrorPaths: string[][],
): Problem {
  const path = pathInFile(issue.path?.map(({ key }) => key) ?? [], mirrorPaths);
  const name = dotted(path);
  if (issue.received === 'undefined') {
    return { path, text: `${name} is missing`, hint: 'every mirror needs url and key_path' };
  }
  return { path, text: `${name} must be ${issue.message}, not ${shown(issue.input)}` };
}

function pathInFile(path: unknown[], mirrorPaths: string[][]): string[] {
  const mirror = path[0] === 'mirrors' ? mirrorPaths[Number(path[1])] : undefined;
  const keys = mirror === undefined ? path : [...mirror, ...path.slice(2)];
  return keys.filter((key) => typeof key === 'string');
}

/** What the writer of an unknown key may have meant: a key like it beside it, or the same in another table. */
export function keyHint(path: string[], known: string[]): string {
  const key = path.at(-1) ?? '';
  const beside = nearest(key, known);
  if (beside !== undefined) return `did you mean "${dotted([...path.slice(0, -1), beside])}"?`;
  const elsewhere = Object.entries(tables).find(([, { entries }]) => Object.hasOwn(entries, key));
  if (elsewhere !== undefined) return `did you mean "${elsewhere[0]}.${key}"?`;
  return `known here: ${known.join(', ')}`;
}

/** A key path as TOML writes it. */
export function dotted(path: readonly string[]): string {
  return path.map((key) => (/^[\w-]{1,60}$/.test(key) ? key : shown(key))).join('.');
}

/** A value as a message names it. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (value instanceof Date) return 'a date';
  if (typeof value !== 'string') return isTable(value) ? 'a table' : String(value);
  return value.length > 60 ? `${JSON.stringify(value.slice(0, 60))}…` : JSON.stringify(value);
}

/** A TOML table as its parser gives it. */
export type Table = Record<string, unknown>;

export function isTable(value: unknown): value is Table {
  if (typeof value !== 'object' || value === null) return false;
  return !Array.isArray(value) && !(value instanceof Date);
}

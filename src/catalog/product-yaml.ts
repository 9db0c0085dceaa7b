/**
 * Changes the aliases in the text of a `product.yaml` and leaves all else as an administrator wrote it:
 * comments, order, further keys. Pure.
 */
import {
  dump,
  EVENT_ID,
  type Event,
  getScalarValue,
  loadAll,
  type MappingEvent,
  parseEvents,
  type ScalarEvent,
  type SequenceEvent,
} from 'js-yaml';
import { type Reading, readProductYaml, yamlSchema } from './metadata.js';

/** One change. A name that is there already is not added twice; one that is not there changes nothing. */
export type AliasChange = { add: string } | { remove: string } | { rename: string; to: string };

/**
 * `text` after `change`.
 *
 * @param text of a product.yaml; '' where there is none.
 * @returns a fault where `text` cannot be read, or could not afterwards: a name that can be no alias, too many.
 */
export function changeAliases(text: string, change: AliasChange): Reading<string> {
  const hasOtherLines = /\r\n/.test(text) && !/(?<!\r)\n/.test(text);
  if (!hasOtherLines) return changeIn(text, change);
  const result = changeIn(text.replaceAll('\r\n', '\n'), change);
  return 'fault' in result ? result : { value: result.value.replaceAll('\n', '\r\n') };
}

/** {@link changeAliases} of lines that end as ours do. */
function changeIn(text: string, change: AliasChange): Reading<string> {
  const before = readProductYaml(text);
  if ('fault' in before) return before;
  const { aliases: present = [], ...others } = before.value;
  const wanted = changed(present, change);
  if (isSame(wanted, present)) return { value: text };
  const fits = (edited: string | undefined): edited is string => {
    const after = edited === undefined ? undefined : readProductYaml(edited);
    if (after === undefined || 'fault' in after) return false;
    const { aliases = [], ...rest } = after.value;
    return isSame(aliases, wanted) && isSame(rest, others);
  };
  const edited = edit(text, { change, wanted });
  if (fits(edited)) return { value: edited };
  const rewritten = rewrite(text, wanted);
  const after = readProductYaml(rewritten);
  return 'fault' in after ? after : { value: rewritten };
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function changed(aliases: readonly string[], change: AliasChange): string[] {
  if ('add' in change) return [...new Set([...aliases, change.add])];
  if ('remove' in change) return aliases.filter((alias) => alias !== change.remove);
  const renamed = aliases.map((alias) => (alias === change.rename ? change.to : alias));
  return [...new Set(renamed)];
}

interface Wish {
  change: AliasChange;
  wanted: readonly string[];
}

/** The change made in place, as far as the text has one of the forms that people write. */
function edit(text: string, { change, wanted }: Wish): string | undefined {
  const place = findAliases(text);
  if (place === undefined) return undefined;
  const { key, value, indent } = place;
  if (key === undefined) return withKey(text, indent, wanted);
  if (value === undefined) {
    const lines = wanted.map((alias) => `${indent}  - ${quoted(alias)}\n`);
    return insertLines(text, key.valueEnd, lines.join(''));
  }
  if (value.type === EVENT_ID.SCALAR) {
    const [start, end] = rangeOf(value);
    return splice(text, [start, end], flowList(wanted));
  }
  if (value.style === 2) return inFlowList(text, value, wanted);
  return inBlockList(text, value, change);
}

interface Value {
  type: typeof EVENT_ID.SEQUENCE;
  style: number;
  start: number;
  entries: ScalarEvent[];
}

interface AliasesPlace {
  /** Absent where the file has no aliases. */
  key?: ScalarEvent;
  value?: ScalarEvent | Value | undefined;
  /** What stands before each key of the document. */
  indent: string;
}

/** Where the aliases of the document stand; `undefined` where that is too involved. */
function findAliases(text: string): AliasesPlace | undefined {
  const [first, root, ...rest] = parseEvents(text, {});
  if (first === undefined || root === undefined) return { indent: '' };
  if (first.type !== EVENT_ID.DOCUMENT || first.explicitEnd) return undefined;
  if (root.type === EVENT_ID.SCALAR && root.valueStart === -1) return { indent: '' };
  if (root.type !== EVENT_ID.MAPPING || root.style !== 1) return undefined;
  const indent = text.slice(text.lastIndexOf('\n', root.start) + 1, root.start);
  if (!/^ *$/.test(indent)) return undefined;
  return { indent, ...pairIn(rest, text) };
}

/** The key `aliases` among the events of a mapping, and what stands there. */
function pairIn(events: readonly Event[], text: string): Omit<AliasesPlace, 'indent'> {
  let depth = 0;
  let isKey = true;
  for (const [at, event] of events.entries()) {
    if (event.type === EVENT_ID.POP) depth--;
    if (depth < 0) break;
    if (depth === 0 && event.type !== EVENT_ID.POP) {
      const isAliases =
        isKey && event.type === EVENT_ID.SCALAR && getScalarValue(text, event) === 'aliases';
      if (isAliases) return { key: event, value: valueAt(events, at + 1) };
    }
    if (isCollection(event)) depth++;
    if (depth === 0) isKey = !isKey;
  }
  return {};
}

function isCollection(event: Event): event is MappingEvent | SequenceEvent {
  return event.type === EVENT_ID.MAPPING || event.type === EVENT_ID.SEQUENCE;
}

function valueAt(events: readonly Event[], at: number): AliasesPlace['value'] {
  const event = events[at];
  if (event?.type === EVENT_ID.SCALAR) return event.valueStart === -1 ? undefined : event;
  if (event?.type !== EVENT_ID.SEQUENCE) return undefined;
  const entries: ScalarEvent[] = [];
  for (const entry of events.slice(at + 1)) {
    if (entry.type !== EVENT_ID.SCALAR) break;
    entries.push(entry);
  }
  return { type: event.type, style: event.style, start: event.start, entries };
}

function withKey(text: string, indent: string, wanted: readonly string[]): string {
  const start = text === '' || text.endsWith('\n') ? text : `${text}\n`;
  const lines = wanted.map((alias) => `${indent}  - ${quoted(alias)}\n`);
  return `${start}${indent}aliases:\n${lines.join('')}`;
}

function inFlowList(text: string, { start, entries }: Value, wanted: readonly string[]) {
  const last = entries.at(-1);
  const end = text.indexOf(']', last === undefined ? start : rangeOf(last)[1]) + 1;
  // What is said of single names would be lost.
  if (end === 0 || text.slice(start, end).includes('#')) return undefined;
  return splice(text, [start, end], flowList(wanted));
}

function inBlockList(text: string, { entries }: Value, change: AliasChange): string | undefined {
  if ('add' in change) {
    const last = entries.at(-1);
    if (last === undefined) return undefined;
    const [start, end] = rangeOf(last);
    const dash = /^ *- +(?=\S)/.exec(text.slice(text.lastIndexOf('\n', start) + 1))?.[0];
    return dash && insertLines(text, end, `${dash}${quoted(change.add)}\n`);
  }
  const name = 'remove' in change ? change.remove : change.rename;
  const found = entries.filter((entry) => getScalarValue(text, entry).trim() === name);
  const [only, ...more] = found;
  if (only === undefined || more.length > 0) return undefined;
  const [start, end] = rangeOf(only);
  if ('rename' in change) return splice(text, [start, end], quoted(change.to));
  const lineStart = text.lastIndexOf('\n', start) + 1;
  const lineEnd = text.indexOf('\n', end) + 1 || text.length;
  const line = text.slice(lineStart, lineEnd);
  return /^ *- +\S+[ \t]*(?:#.*)?\n?$/.test(line)
    ? splice(text, [lineStart, lineEnd], '')
    : undefined;
}

/** Where a scalar stands, with its quotes. */
function rangeOf({ valueStart, valueEnd, style }: ScalarEvent): [number, number] {
  const isQuoted = style === 2 || style === 3;
  return isQuoted ? [valueStart - 1, valueEnd + 1] : [valueStart, valueEnd];
}

function splice(text: string, [start, end]: [number, number], replacement: string): string {
  return text.slice(0, start) + replacement + text.slice(end);
}

/** `lines` after the line that `at` is in. */
function insertLines(text: string, at: number, lines: string): string {
  const end = text.indexOf('\n', at);
  if (end === -1) return `${text}\n${lines}`;
  return splice(text, [end + 1, end + 1], lines);
}

function flowList(aliases: readonly string[]): string {
  return `[${aliases.map(quoted).join(', ')}]`;
}

/** Words that YAML does not read as text. */
const words = /^(?:null|true|false|yes|no|on|off|y|n)$/i;

function quoted(alias: string): string {
  const isPlain = /^[A-Za-z][A-Za-z0-9._+@/-]*$/.test(alias) && !words.test(alias);
  return isPlain ? alias : `'${alias}'`;
}

/** The document written anew, below the comments that stood on lines of their own. */
function rewrite(text: string, wanted: readonly string[]): string {
  const [document] = loadAll(text, { schema: yamlSchema }) as (object | null | undefined)[];
  const comments = text.split('\n').filter((line) => /^\s*#/.test(line));
  const { aliases: _old, ...others } = { aliases: [], ...document };
  const values = wanted.length > 0 ? { ...others, aliases: wanted } : others;
  const body = Object.keys(values).length > 0 ? dump(values, { lineWidth: -1 }) : '';
  return [...comments, body].join('\n');
}

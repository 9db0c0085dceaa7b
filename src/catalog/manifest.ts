/**
 * The manifest: what a mirror is known to hold. It lies beside the tree, in `.lxd-image-server/manifest.json`. Pure.
 *
 * It is small, so that a look at a mirror costs one short read: changes stand in it only while they are few, all
 * else in lists of their own that it names by their SHA-256, so that whoever has a list need not read it again.
 * Each list has the changes to those before it; read in order, and the recent changes last, they give the entries.
 *
 *     manifest.json     format, master, generation, documents, lists: [[sha256, size], …], recent: [entry, …]
 *     files-SHA256.json [entry, …]
 *
 * An entry is `[path, size, sha256]`; `sha256` is "" where the content is not known, and a fourth value tells since
 * when no document names the file. `[path]` is a file that is there no more.
 *
 * What is read here was written by another host, and may be anything: it is taken as a whole or not at all.
 */
import * as v from 'valibot';
import type { DocumentFacts } from './generation.js';
import { isPrintable } from './tree.js';

/** A file on a mirror, whole and under its own name. */
export interface Entry {
  /** Bytes. */
  size: number;
  /** Absent: the file was found there, and nobody has read it yet. */
  sha256?: string;
  /** Since when no document has named it, in milliseconds since 1970. Absent: one may. */
  since?: number;
}

export type Entries = ReadonlyMap<string, Entry>;

/** Entries that are new or other than before, and `undefined` for those that are gone. */
export type Changes = ReadonlyMap<string, Entry | undefined>;

/** Who publishes to a mirror. */
export interface Master {
  /** What tells it from others. */
  id: string;
  /** For people. */
  host: string;
}

/** What a manifest says, lists and all. */
export interface Manifest {
  /** The generation that the documents were last known to be of: SHA-256 of its `images.json`. */
  generation: string | undefined;
  /** The documents as they are; none while they are being replaced. */
  documents: readonly DocumentFacts[];
  entries: Entries;
}

/** `manifest.json` itself. */
export interface ManifestHead extends Omit<Manifest, 'entries'> {
  master: Master;
  /** Oldest first. */
  lists: readonly ListName[];
  recent: Changes;
}

export interface ListName {
  sha256: string;
  /** Bytes. */
  size: number;
}

/** The largest `manifest.json` that is read, in bytes. */
export const largestHead = 2 ** 20;
/** The largest list that is read, in bytes: some 800,000 files. */
export const largestList = 128 * 2 ** 20;
const mostEntries = 1_000_000;
const mostLists = 64;
const format = 1;

/** Why a manifest does not fit, as the end of the sentence "The manifest …". */
export class ManifestError extends Error {}

/** Whether `path` is one of a file below `folder`, and cannot lead anywhere else. */
export function isBelow(folder: string, path: string): boolean {
  if (folder === '' || path.length > 4096 || !path.startsWith(`${folder}/`)) return false;
  return path.split('/').every(isPart);
}

/** Whether `name` can be one part of a path on any mirror. */
function isPart(name: string): boolean {
  return name !== '' && name !== '.' && name !== '..' && name.length <= 255 && !name.includes('\0');
}

const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, 'not a SHA-256 digest'));
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const line = v.pipe(v.string(), v.minLength(1), v.maxLength(255), v.check(isPrintable));
const anyPath = v.pipe(
  v.string(),
  v.check((path) => isBelow('root', `root/${path}`), 'not a path below the root'),
);

const entryTuple = v.union([
  v.strictTuple([v.string()]),
  v.strictTuple([v.string(), count, v.union([sha256, v.literal('')])]),
  v.strictTuple([v.string(), count, v.union([sha256, v.literal('')]), count]),
]);

const head = v.object({
  format: v.literal(format),
  master: v.object({ id: line, host: line }),
  generation: v.optional(sha256),
  documents: v.pipe(v.array(v.strictTuple([anyPath, count, sha256])), v.maxLength(100)),
  lists: v.pipe(
    v.array(v.strictTuple([sha256, v.pipe(count, v.maxValue(largestList))])),
    v.maxLength(mostLists),
  ),
  recent: v.array(entryTuple),
});

const list = v.pipe(v.array(entryTuple), v.maxLength(mostEntries));

/**
 * Reads `manifest.json`.
 *
 * @param options.images the folder of the images: every file has to be below it.
 * @throws ManifestError
 */
export function parseHead(text: string, { images }: { images: string }): ManifestHead {
  const { master, generation, documents, lists, recent } = parse(head, text);
  return {
    master,
    generation,
    documents: documents.map(([path, size, hash]) => ({ path, size, sha256: hash })),
    lists: lists.map(([hash, size]) => ({ sha256: hash, size })),
    recent: changesOf(recent, images),
  };
}

/** Reads a list. @throws ManifestError */
export function parseList(text: string, { images }: { images: string }): Changes {
  return changesOf(parse(list, text), images);
}

function parse<T extends v.GenericSchema>(schema: T, text: string): v.InferOutput<T> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ManifestError('is not JSON, or was cut short');
  }
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new ManifestError(`is not one of ours: ${v.getDotPath(issue) ?? 'it'}: ${issue.message}`);
}

function changesOf(
  tuples: readonly v.InferOutput<typeof entryTuple>[],
  images: string,
): Map<string, Entry | undefined> {
  const changes = new Map<string, Entry | undefined>();
  for (const [path, size, hash, since] of tuples) {
    if (!isBelow(images, path)) throw new ManifestError(`names a file that is not below ${images}`);
    if (changes.has(path)) throw new ManifestError('names a file twice');
    changes.set(path, size === undefined ? undefined : entryOf(size, hash, since));
  }
  return changes;
}

function entryOf(size: number, hash: string | undefined, since: number | undefined): Entry {
  return {
    size,
    ...(hash === undefined || hash === '' ? {} : { sha256: hash }),
    ...(since === undefined ? {} : { since }),
  };
}

/** What `manifest.json` has to say. */
export function headText({ master, lists, recent, ...manifest }: ManifestHead): string {
  const { generation, documents } = manifest;
  return `${JSON.stringify({
    format,
    master,
    generation,
    documents: documents.map((document) => [document.path, document.size, document.sha256]),
    lists: lists.map(({ sha256: hash, size }) => [hash, size]),
    recent: [...recent].map(tupleOf),
  })}\n`;
}

export function listText(changes: Changes): string {
  return `[\n${[...changes].map((change) => JSON.stringify(tupleOf(change))).join(',\n')}\n]\n`;
}

function tupleOf([path, entry]: [string, Entry | undefined]): unknown[] {
  if (entry === undefined) return [path];
  const tuple = [path, entry.size, entry.sha256 ?? ''];
  return entry.since === undefined ? tuple : [...tuple, entry.since];
}

/** What `lists` say together, the oldest first. @throws ManifestError where that is absurdly much. */
export function entriesOf(lists: readonly Changes[]): Map<string, Entry> {
  const entries = new Map<string, Entry>();
  for (const changes of lists) {
    for (const [path, entry] of changes) {
      if (entry === undefined) entries.delete(path);
      else entries.set(path, entry);
    }
    if (entries.size > mostEntries) throw new ManifestError('names too many files');
  }
  return entries;
}

/** What to say to someone who knows `before` so that they know `after`. */
export function changesBetween(before: Entries, after: Entries): Changes {
  const changes = new Map<string, Entry | undefined>();
  for (const [path, entry] of after) {
    if (!isSameEntry(before.get(path), entry)) changes.set(path, entry);
  }
  for (const path of before.keys()) {
    if (!after.has(path)) changes.set(path, undefined);
  }
  return changes;
}

/** Whether both say the same; the first may be unknown. */
export function isSameEntry(a: Entry | undefined, b: Entry): boolean {
  if (a === b) return true;
  return a !== undefined && a.size === b.size && a.sha256 === b.sha256 && a.since === b.since;
}

/** Lists and the changes since, as a manifest has them. */
export interface Layers<List extends { changes: Changes }> {
  lists: readonly List[];
  recent: Changes;
}

/** How many changes stand in `manifest.json` itself. */
const mostRecent = 200;

/**
 * How to say `changes` after `layers`: among the recent ones while these are few, otherwise in a new list.
 * A new list takes in those before it that are no longer than itself; so there are few, each several times as
 * long as the next, and an entry is sent anew no more often than the lists double.
 */
export function withChanges<List extends { changes: Changes }>(
  { lists, recent }: Layers<List>,
  changes: Changes,
): { lists: List[]; added: Changes | undefined; recent: Changes } {
  const all = new Map([...recent, ...changes]);
  if (all.size <= mostRecent) return { lists: [...lists], added: undefined, recent: all };
  const kept = [...lists];
  let added = all;
  while ((kept.at(-1)?.changes.size ?? Number.POSITIVE_INFINITY) <= added.size) {
    added = new Map([...(kept.pop()?.changes ?? []), ...added]);
  }
  // Nothing comes before the first list, so in it nothing is gone.
  if (kept.length === 0) added = new Map([...added].filter(([, entry]) => entry !== undefined));
  return { lists: kept, added, recent: new Map() };
}

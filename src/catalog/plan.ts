/**
 * How a mirror becomes what it should be. Pure.
 *
 * {@link nextStage} looks at what is wanted and at what the mirror has, and gives the one thing to do next. Whoever
 * carries it out notes what came of it in {@link Present}, and asks again, until nothing is left. There is no plan
 * that could become out of date: when a newer generation comes, or something fails, the next question is simply
 * asked about what is there by then.
 *
 * The order of the stages keeps the rule that the documents on a mirror never name what is not there, whole and
 * with that content, wherever the work is cut, and whatever of a stage has been done:
 *
 *  1. **check**: read files whose content is not known. They are used only once it is.
 *  2. **retract**: where the documents name what is lost or damaged, replace them at once by ones that name only
 *     what is whole. Mending takes its time; the lie should not.
 *  3. **send** what is missing. A name that the documents use is left as it is, and its new content held ready.
 *  4. **retract** what is about to change under its name; then (3) gives the held content its name. That takes
 *     moments, for all else is there by now.
 *  5. **publish** the documents, `images.json` before `index.json`.
 *  6. **record** it in the manifest: what is there, and what no document names from now on.
 *  7. **remove** what no document has named for the grace time: clients keep an index for an hour. Of a generation
 *     without any files nothing is removed.
 *
 * A mirror that is full could wait for ever like that: old versions would go only after new ones have found room.
 * There the documents are brought to what is whole by now before (3), and what is due is removed; so the grace time
 * of what nobody wants any more begins.
 *
 * The manifest may at no moment claim too much either, as the next one to come believes it. So it takes back that
 * it knows the documents before they change, it stops a file's grace time before the file is named again, and it
 * forgets a file before that is removed or gets other content.
 */
import type { DocumentFacts, FileFacts, Files, Wanted } from './generation.js';
import { type Entries, type Entry, isBelow, isSameEntry, type Manifest } from './manifest.js';
import type { Present } from './present.js';
import { compareNames } from './tree.js';

/** A file to be brought about. */
export interface Sending extends FileFacts {
  path: string;
  /** Where the mirror has the same content already: no need to send it. */
  from?: string;
  /** The name is in use: only hold the content ready. */
  hold: boolean;
}

/** What to do next; the parts of a stage may be done in any order, and at the same time. */
export type Stage =
  /** Read each file; note its SHA-256 where it is as given here, and otherwise that nothing of use is there. */
  | { do: 'check'; files: ({ path: string } & FileFacts)[] }
  /** Replace the documents by ones without the versions that have a file in `missing`: see {@link nextDocuments}. */
  | { do: 'retract'; missing: ReadonlySet<string> }
  /** The record can be written meanwhile. */
  | { do: 'send'; files: Sending[]; record?: Manifest }
  | { do: 'record'; record: Manifest }
  | DocumentStage
  /** The record first; then the files. */
  | { do: 'remove'; files: string[]; record: Manifest };

export type DocumentStage =
  /** Remove documents. */
  | { do: 'withdraw'; documents: string[] }
  /** Give documents their names. */
  | { do: 'publish'; documents: DocumentFacts[] };

export interface PlanOptions {
  /** Milliseconds since 1970. */
  now: number;
  /** For how long a file outlives the last document that named it, in milliseconds. */
  grace: number;
  /** The folder of the images, relative to the root. Nothing outside it is ever removed. */
  images: string;
  /** The name of the generation, for the record. */
  generation: string;
  /** The mirror has run out of room: what may go goes first. Default: no. */
  isFull?: boolean;
}

/** What is to be done next so that the mirror becomes as wanted; `undefined` where it is. */
export function nextStage(
  wanted: Wanted,
  present: Present,
  options: PlanOptions,
): Stage | undefined {
  const missing = missingFiles(wanted.files, present.entries);
  return (
    check(missing, present) ??
    retractIf(hasLost(present), missing, wanted, present) ??
    makeRoom(missing, wanted, present, options) ??
    send(missing, wanted, present) ??
    retractIf(missing.size > 0, missing, wanted, present) ??
    publish(wanted, present) ??
    record(wanted, present, options) ??
    (mayRemove(wanted) ? remove(present, options) : undefined)
  );
}

/**
 * Where nothing at all is wanted, more likely the file system of the images is not mounted than that all of them
 * were removed: what a mirror has goes once something is published again.
 */
function mayRemove({ files }: Pick<Wanted, 'files'>): boolean {
  return files.size > 0;
}

/** Whether there is, or will be, something to remove before anything is sent. */
export function canMakeRoom(
  { files }: Pick<Wanted, 'files'>,
  { entries }: Pick<Present, 'entries'>,
  { now, grace }: Pick<PlanOptions, 'now' | 'grace'>,
): boolean {
  for (const [path, { since }] of entries) {
    if (!files.has(path) && (since === undefined || now - since >= grace)) return true;
  }
  return false;
}

/** The next step towards documents that may name only what is there; `undefined` where they are in place. */
export function nextDocuments(
  documents: readonly DocumentFacts[],
  present: Pick<Present, 'documents'>,
): DocumentStage | undefined {
  const paths = new Set(documents.map(({ path }) => path));
  const others = [...present.documents.keys()].filter((path) => !paths.has(path));
  if (others.length > 0) return { do: 'withdraw', documents: others };
  const isDue = ({ path, sha256 }: DocumentFacts) => present.documents.get(path) !== sha256;
  const first = documents.find(isDue);
  if (first === undefined) return undefined;
  const group = documents.filter(({ path }) => plainName(path) === plainName(first.path));
  return { do: 'publish', documents: group.filter(isDue) };
}

/** When the next file is due to be removed, in milliseconds since 1970. */
export function nextRemoval(
  wanted: Pick<Wanted, 'files'>,
  { entries }: Pick<Present, 'entries'>,
  { grace }: { grace: number },
): number | undefined {
  if (!mayRemove(wanted)) return undefined;
  let earliest: number | undefined;
  for (const { since } of entries.values()) {
    if (since !== undefined) earliest = Math.min(earliest ?? since, since);
  }
  return earliest === undefined ? undefined : earliest + grace;
}

/** `images.json` and `images.json.gz` say the same: they are replaced at the same time. */
function plainName(path: string): string {
  return path.replace(/\.gz$/, '');
}

/** What is wanted and not there, or not with that content. */
export function missingFiles(files: Files, entries: Entries): Map<string, FileFacts> {
  const missing = new Map<string, FileFacts>();
  for (const [path, facts] of files) {
    if (!isWhole(entries.get(path), facts)) missing.set(path, facts);
  }
  return missing;
}

/** Whether `entry` is known to be what `facts` want. */
export function isWhole(entry: Entry | undefined, facts: FileFacts): boolean {
  return entry?.sha256 === facts.sha256 && entry.size === facts.size;
}

function check(missing: Files, { entries }: Present): Stage | undefined {
  const files = [...missing].flatMap(([path, facts]) => {
    const entry = entries.get(path);
    return entry !== undefined && entry.sha256 === undefined ? [{ path, ...facts }] : [];
  });
  return files.length > 0 ? { do: 'check', files } : undefined;
}

function hasLost({ named, entries }: Present): boolean {
  for (const path of named) if (!entries.has(path)) return true;
  return false;
}

function retractIf(
  condition: boolean,
  missing: Files,
  wanted: Wanted,
  present: Present,
): Stage | undefined {
  if (!condition) return undefined;
  return takeBack(wanted, present) ?? { do: 'retract', missing: new Set(missing.keys()) };
}

function makeRoom(
  missing: Files,
  wanted: Wanted,
  present: Present,
  options: PlanOptions,
): Stage | undefined {
  if (options.isFull !== true || missing.size === 0) return undefined;
  if (!canMakeRoom(wanted, present, options)) return undefined;
  const { files } = wanted;
  const { entries, named, recorded } = present;
  const isUnwanted = (path: string) => !files.has(path);
  const retracted = retractIf([...named].some(isUnwanted), missing, wanted, present);
  if (retracted !== undefined) return retracted;
  if ([...entries].some(([path, { since }]) => since === undefined && isUnwanted(path))) {
    const open = openRecord(files, { recorded, entries });
    const all = new Map(open.entries);
    for (const [path, entry] of all) {
      if (isUnwanted(path)) all.set(path, unnamed(entry, options.now));
    }
    return { do: 'record', record: { ...open, entries: all } };
  }
  const sought = new Set([...missing.values()].map(({ sha256 }) => sha256));
  const isSpared = (path: string, { sha256 = '' }: Entry) => files.has(path) || sought.has(sha256);
  return remove(present, options, { isSpared });
}

/**
 * Sends the newest versions first: where retention takes old ones away meanwhile, they need not be sent at all.
 * Of files with one content the first is sent; when it is there, the others come from it.
 */
function send(missing: Files, wanted: Wanted, present: Present): Stage | undefined {
  if (missing.size === 0) return undefined;
  const sources = sourcesOf(missing, wanted.files, present.entries);
  const files = new Map<string, Sending>();
  for (const [path, { size, sha256 }] of newestFirst(missing)) {
    const hold = present.named.has(path) && present.entries.has(path);
    if (files.has(sha256) || (hold && present.held.has(sha256))) continue;
    const from = sources.get(`${sha256} ${size}`);
    files.set(sha256, { path, size, sha256, hold, ...(from === undefined ? {} : { from }) });
  }
  if (files.size === 0) return undefined;
  const due = takeBack(wanted, present);
  if (due !== undefined && [...files.values()].some((file) => isOverwriting(file, present))) {
    return due;
  }
  const isDue = due !== undefined && nextDocuments(wanted.documents, present) !== undefined;
  return { do: 'send', files: [...files.values()], ...(isDue && { record: due.record }) };
}

/** Whether the manifest speaks of what was at the file's path before. */
function isOverwriting({ path, hold }: Sending, { recorded }: Present): boolean {
  return !hold && recorded?.entries.has(path) === true;
}

/** Where the mirror has content that is missing elsewhere, in files that keep it while others are sent. */
function sourcesOf(missing: Files, files: Files, entries: Entries): Map<string, string> {
  const sought = new Set([...missing.values()].map(({ sha256 }) => sha256));
  const sources = new Map<string, string>();
  for (const [path, { size, sha256 }] of entries) {
    if (sha256 === undefined || !sought.has(sha256)) continue;
    const becomes = files.get(path);
    if (becomes !== undefined && becomes.sha256 !== sha256) continue;
    sources.set(`${sha256} ${size}`, path);
  }
  return sources;
}

/** The name of a version begins with its date, and is the folder of its files. */
function newestFirst(files: Files): [string, FileFacts][] {
  const version = (path: string) => path.split('/').at(-2) ?? '';
  return [...files]
    .map((file) => ({ file, version: version(file[0]) }))
    .sort((a, b) => compareNames(b.version, a.version) || compareNames(a.file[0], b.file[0]))
    .map(({ file }) => file);
}

function publish(wanted: Wanted, present: Present): Stage | undefined {
  const next = nextDocuments(wanted.documents, present);
  return next && (takeBack(wanted, present) ?? next);
}

/**
 * Takes back what the manifest says and will not hold: the documents, the grace time of files that are named again,
 * and the content of files that get another.
 */
function takeBack({ files }: Wanted, { recorded, entries }: Present): RecordStage | undefined {
  if (recorded === undefined) return undefined;
  let isDue = recorded.documents.length > 0;
  for (const [path, entry] of recorded.entries) {
    isDue ||= isOther(files.get(path), entry) || (entry.since !== undefined && files.has(path));
  }
  if (!isDue) return undefined;
  return { do: 'record', record: openRecord(files, { recorded, entries }) };
}

/** Whether a file has to become something else. */
function isOther(facts: FileFacts | undefined, { sha256 }: Entry): boolean {
  return facts !== undefined && sha256 !== undefined && sha256 !== facts.sha256;
}

type RecordStage = Extract<Stage, { do: 'record' }>;

/** What the manifest should say while the work goes on. */
export function openRecord(
  files: Files,
  { recorded, entries }: Pick<Present, 'recorded' | 'entries'>,
): Manifest {
  const all = new Map<string, Entry>();
  for (const [path, entry] of entries) {
    const facts = files.get(path);
    if (!isOther(facts, entry)) all.set(path, facts ? named(entry) : entry);
  }
  return { generation: recorded?.generation, documents: [], entries: all };
}

/** What the manifest should say when all is done: what nothing names has been so since now, if not for longer. */
function record(
  { files, documents }: Wanted,
  { entries, recorded }: Present,
  { now, generation }: PlanOptions,
): Stage | undefined {
  const entryOf = (path: string, entry: Entry) =>
    files.has(path) ? named(entry) : unnamed(entry, now);
  const head = { generation, documents };
  if (recorded !== undefined && isSameHead(head, recorded)) {
    // Mostly so: there is nothing to be done.
    const isSame = (path: string, entry: Entry) =>
      isSameEntry(recorded.entries.get(path), entryOf(path, entry));
    if (recorded.entries.size === entries.size && everyEntry(entries, isSame)) return undefined;
  }
  const all = new Map<string, Entry>();
  for (const [path, entry] of entries) all.set(path, entryOf(path, entry));
  return { do: 'record', record: { ...head, entries: all } };
}

function everyEntry(entries: Entries, test: (path: string, entry: Entry) => boolean): boolean {
  for (const [path, entry] of entries) if (!test(path, entry)) return false;
  return true;
}

function isSameHead(a: Omit<Manifest, 'entries'>, b: Omit<Manifest, 'entries'>): boolean {
  const [one, other] = [a, b].map(({ generation, documents }) =>
    [generation, ...documents.map(({ path, sha256 }) => `${path} ${sha256}`)].join('\n'),
  );
  return one === other;
}

function named(entry: Entry): Entry {
  if (entry.since === undefined) return entry;
  const { since, ...rest } = entry;
  return rest;
}

/** A time to come is from before the clock was set back. */
function unnamed(entry: Entry, now: number): Entry {
  const { since = now } = entry;
  return since === entry.since && since <= now ? entry : { ...entry, since: Math.min(since, now) };
}

function remove(
  { recorded, entries }: Present,
  { now, grace, images }: PlanOptions,
  { isSpared = () => false }: { isSpared?: (path: string, entry: Entry) => boolean } = {},
): Stage | undefined {
  const files: string[] = [];
  for (const [path, entry] of entries) {
    const { since } = entry;
    const isDue = since !== undefined && now - since >= grace && !isSpared(path, entry);
    if (isDue && isBelow(images, path)) files.push(path);
  }
  if (files.length === 0 || recorded === undefined) return undefined;
  const kept = new Map(entries);
  for (const path of files) kept.delete(path);
  return { do: 'remove', files, record: { ...recorded, entries: kept } };
}

/** What is known of a mirror: recalled from its manifest, and held against what was found there. Pure. */
import type { Files } from './generation.js';
import type { Entries, Entry, Manifest } from './manifest.js';

/** What is known of a mirror. Kept up to date by whoever works on it. */
export interface Present {
  /** Files, whole and under their own names. */
  entries: Map<string, Entry>;
  /** Every path that the documents there may name. */
  named: Set<string>;
  /** SHA-256 of the documents by path; '' where the content is not known. */
  documents: Map<string, string>;
  /** Content, by its SHA-256, that is held ready to get a name. */
  held: Set<string>;
  /** What the manifest there says; absent: there is none that fits. */
  recorded: Manifest | undefined;
}

/** A file that was found. */
export interface Found {
  size: number;
  /** Whole seconds since 1970. */
  mtime: number;
  /** Whether a symbolic link led to it. */
  linked: boolean;
}

/** What a look at a mirror gave. */
export interface Look {
  /** Absent: there is none that fits. */
  manifest: Manifest | undefined;
  /** What was known before, by those who wrote that manifest: they know more than it says. */
  known?: Present | undefined;
  /** The documents that are there, with their sizes. */
  documents: ReadonlyMap<string, number>;
  /** Files that they name, as far as they could be read. */
  names?: ReadonlySet<string>;
  /** The files of the images. Absent: nobody has looked. */
  found?: ReadonlyMap<string, Found>;
  /** When the manifest was written, in seconds since 1970 by the mirror's clock. */
  mtime?: number;
  wanted: Files;
}

/**
 * What is known after a look. Where it is not known what the documents name, they may name every file that is
 * there or was.
 */
export function recall({ manifest, known, documents, names, found, mtime, wanted }: Look): Present {
  const before = known?.entries ?? manifest?.entries ?? new Map<string, Entry>();
  const entries = found ? reconcile(before, found, { wanted, mtime }) : new Map(before);
  const named = new Set<string>();
  if (documents.size > 0) {
    for (const each of [manifest?.entries ?? [], entries]) {
      for (const [path, { since }] of each) if (since === undefined) named.add(path);
    }
    for (const path of [...(known?.named ?? []), ...(names ?? [])]) named.add(path);
  }
  return {
    entries,
    named,
    documents: known ? stillKnown(documents, known) : knownDocuments(documents, manifest),
    held: new Set(),
    recorded: manifest,
  };
}

/** The documents that are there now; their content is known where it was, and the size is as recorded. */
export function stillKnown(
  found: ReadonlyMap<string, number>,
  { documents, recorded }: Pick<Present, 'documents' | 'recorded'>,
): Map<string, string> {
  const sizes = new Map(recorded?.documents.map(({ path, size }) => [path, size]));
  return new Map(
    [...found].map(([path, size]) => {
      const isAsRecorded = (sizes.get(path) ?? size) === size;
      return [path, (isAsRecorded && documents.get(path)) || ''];
    }),
  );
}

/** The documents that are there; their content is known where the manifest knows it and the size is that. */
export function knownDocuments(
  found: ReadonlyMap<string, number>,
  manifest: Manifest | undefined,
): Map<string, string> {
  const recorded = new Map(manifest?.documents.map((document) => [document.path, document]));
  return new Map(
    [...found].map(([path, size]) => {
      const known = recorded.get(path);
      return [path, known?.size === size ? known.sha256 : ''];
    }),
  );
}

/** Notes that documents may name `files` from now on: none of these waits to be removed any more. */
export function noteNames({ entries, named }: Present, files: Files): void {
  for (const path of files.keys()) {
    named.add(path);
    const entry = entries.get(path);
    if (entry?.since === undefined) continue;
    const { since, ...rest } = entry;
    entries.set(path, rest);
  }
}

/** Notes that the manifest now says `record`. */
export function noteRecord(present: Present, record: Manifest): void {
  present.recorded = record;
  for (const [path, entry] of record.entries) {
    const known = present.entries.get(path);
    if (known?.size === entry.size && known.sha256 === entry.sha256) {
      present.entries.set(path, entry);
    }
    if (entry.since !== undefined) present.named.delete(path);
  }
}

/**
 * What may be relied on of `entries`, now that `found` is known: the content of what is there no more, has
 * another size, or was changed after the manifest was written, is not.
 *
 * What only a link leads to may be of use, but is not ours to remove.
 *
 * @param options.mtime of the manifest, in seconds since 1970 by the mirror's clock; absent: there is none.
 */
function reconcile(
  entries: Entries,
  found: ReadonlyMap<string, Found>,
  { wanted, mtime = Number.NEGATIVE_INFINITY }: { wanted: Files; mtime?: number | undefined },
): Map<string, Entry> {
  const all = new Map<string, Entry>();
  for (const [path, file] of found) {
    const entry = entries.get(path);
    if (entry?.size === file.size && file.mtime <= mtime) all.set(path, entry);
    else if (!file.linked || wanted.has(path)) {
      all.set(path, { size: file.size, ...(entry?.since !== undefined && { since: entry.since }) });
    }
  }
  return all;
}

/** The manifest on a mirror: reads it whole or not at all, and writes no more of it than has changed. */
import { createHash } from 'node:crypto';
import {
  type Changes,
  changesBetween,
  entriesOf,
  headText,
  type ListName,
  largestHead,
  largestList,
  listText,
  type Manifest,
  ManifestError,
  type Master,
  parseHead,
  parseList,
  withChanges,
} from '../catalog/manifest.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Mirror, MirrorOptions } from './mirror.js';
import { claimPath, listPath, manifestPath } from './names.js';
import { allDone } from './together.js';

/** Keeps lists by their SHA-256, so that they are not read from mirrors again. May forget any. */
export interface ListCache {
  get(sha256: string): Promise<Buffer | undefined>;
  set(sha256: string, bytes: Buffer): Promise<void>;
}

export interface LoadOptions extends MirrorOptions {
  /** Take a manifest of another master for ours. Default: no. */
  takeOver?: boolean;
}

export interface ManifestStore {
  /**
   * Reads the manifest. Costs one short read where it is the one that was read or written last.
   *
   * @returns `isOurs` where it is just that; `undefined` where there is none that fits.
   * @throws ServerError MIRROR_TAKEN where it is of another master.
   */
  load(options?: LoadOptions): Promise<{ manifest: Manifest; isOurs: boolean } | undefined>;
  /** Writes a manifest, and removes the lists that it no longer needs. The folder must be there. */
  write(manifest: Manifest, options?: MirrorOptions): Promise<void>;
  /**
   * Writes a first manifest, which says nothing, where there is none that fits: of several masters that find the
   * mirror empty at the same moment, one succeeds where it has links. The folder must be there.
   *
   * @throws ServerError MIRROR_TAKEN where another was sooner.
   */
  claim(options?: LoadOptions): Promise<Manifest>;
  /** Lists that the manifest names; others are of no use. */
  lists(): string[];
}

export interface ManifestStoreOptions {
  mirror: Mirror;
  master: Master;
  /** The folder of the images, relative to the root. */
  images: string;
  cache: ListCache;
  log: Logger;
}

interface List extends ListName {
  changes: Changes;
}

/** A manifest as it stands on the mirror. */
interface Written {
  text: string;
  /** The ID of the master that wrote it. */
  master: string;
  manifest: Manifest;
  lists: readonly List[];
  recent: Changes;
}

export function createManifestStore(options: ManifestStoreOptions): ManifestStore {
  const { mirror, master, images, cache, log } = options;
  /** What is there; `maybe` where a write has failed, and nobody knows whether that is there in its place. */
  let current: Written | undefined;
  let maybe: Written | undefined;

  return {
    async load({ takeOver = false, ...settings } = {}) {
      const text = await read(manifestPath, { ...settings, maxBytes: largestHead });
      const known = [current, maybe].find(
        (each) => each?.text === text?.toString() && (takeOver || each?.master === master.id),
      );
      maybe = undefined;
      if (known !== undefined) {
        current = known;
        return { manifest: known.manifest, isOurs: true };
      }
      current = undefined;
      try {
        current = text && (await interpret(text.toString(), { takeOver, ...settings }));
      } catch (error) {
        if (!(error instanceof ManifestError)) throw error;
        log.warn({ reason: error.message }, 'the manifest of the mirror is of no use');
      }
      return current && { manifest: current.manifest, isOurs: false };
    },
    async write(manifest, settings = {}) {
      const before = maybe === undefined ? current : undefined;
      const changes = changesBetween(before?.manifest.entries ?? new Map(), manifest.entries);
      const layers = withChanges(before ?? { lists: [] as List[], recent: new Map() }, changes);
      const lists = [...layers.lists];
      if (layers.added !== undefined) lists.push(await writeList(layers.added, settings));
      const head = { ...manifest, master, lists, recent: layers.recent };
      const next = {
        text: headText(head),
        master: master.id,
        manifest,
        lists,
        recent: layers.recent,
      };
      const old = [...(current?.lists ?? []), ...(maybe?.lists ?? [])];
      maybe = next;
      await mirror.write(manifestPath, [Buffer.from(next.text)], settings);
      maybe = undefined;
      current = next;
      const names = new Set(lists.map(({ sha256 }) => sha256));
      const useless = old.filter(({ sha256 }) => !names.has(sha256));
      await allDone(useless.map(({ sha256 }) => mirror.remove(listPath(sha256), settings)));
    },
    async claim(settings = {}) {
      const manifest: Manifest = { generation: undefined, documents: [], entries: new Map() };
      const first = { manifest, lists: [], recent: new Map() };
      const text = headText({ ...manifest, master, lists: [], recent: new Map() });
      const bytes = [Buffer.from(text)];
      await mirror.write(claimPath(master.id), bytes, settings);
      await mirror.link(claimPath(master.id), manifestPath, settings);
      await mirror.remove(claimPath(master.id), settings);
      const there = await read(manifestPath, { ...settings, maxBytes: largestHead });
      if (there?.toString() !== text) {
        if (there !== undefined) await refuseOther(there.toString(), settings);
        await mirror.write(manifestPath, bytes, settings);
      }
      current = { ...first, text, master: master.id };
      maybe = undefined;
      return manifest;
    },
    lists: () => [...(current?.lists ?? []), ...(maybe?.lists ?? [])].map(({ sha256 }) => sha256),
  };

  /** @throws ServerError MIRROR_TAKEN where `text` is a manifest of another master */
  async function refuseOther(text: string, settings: LoadOptions): Promise<void> {
    try {
      await interpret(text, settings);
    } catch (error) {
      if (!(error instanceof ManifestError)) throw error;
    }
  }

  async function interpret(text: string, { takeOver, ...settings }: LoadOptions): Promise<Written> {
    const head = parseHead(text, { images });
    if (head.master.id !== master.id && !takeOver) {
      throw new ServerError(
        'MIRROR_TAKEN',
        `The mirror belongs to another master, ${head.master.host} (${head.master.id})`,
        { hint: 'give each master folders of its own on the mirror, or let this one take it over' },
      );
    }
    const lists = await allDone(head.lists.map((name) => readList(name, settings)));
    const entries = entriesOf([...lists.map(({ changes }) => changes), head.recent]);
    const { generation, documents, recent } = head;
    const manifest = { generation, documents, entries };
    return { text, master: head.master.id, manifest, lists, recent };
  }

  async function readList({ sha256, size }: ListName, settings: MirrorOptions): Promise<List> {
    const kept = await cache.get(sha256);
    const isKept = kept !== undefined && digest(kept) === sha256;
    const bytes = isKept ? kept : await read(listPath(sha256), { ...settings, maxBytes: size });
    if (bytes === undefined) throw new ManifestError('names a list that is not there');
    if (!isKept && digest(bytes) !== sha256) throw new ManifestError('names a list that differs');
    const changes = parseList(bytes.toString(), { images });
    if (!isKept) await cache.set(sha256, bytes);
    return { sha256, size: bytes.length, changes };
  }

  async function writeList(changes: Changes, settings: MirrorOptions): Promise<List> {
    const bytes = Buffer.from(listText(changes));
    if (bytes.length > largestList) throw new Error('the list of files has outgrown its limit');
    const sha256 = digest(bytes);
    await mirror.write(listPath(sha256), [bytes], settings);
    await cache.set(sha256, bytes);
    return { sha256, size: bytes.length, changes };
  }

  /** What is too large, or no file, does not fit. */
  async function read(path: string, settings: Parameters<Mirror['read']>[1]) {
    try {
      return await mirror.read(path, settings);
    } catch (error) {
      if (error instanceof ServerError && error.code === 'MIRROR_DAMAGED') return undefined;
      throw error;
    }
  }
}

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/**
 * The folders of the tree with a watch on each, kept in line with what is there.
 *
 * Nothing falls between, because a folder is watched before it is listed, and an entry of which its folder
 * told that it came, went or was replaced is watched anew, even if it looks the same: inode numbers are used
 * again. Events only say what to look at; one loop looks, one folder after the other.
 */
import { readdirSync } from 'node:fs';
import { basename } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isHidden, isName, isTemporary } from '../catalog/tree.js';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import {
  createFolderWatches,
  type FolderEvent,
  type FolderWatch,
  type Identity,
  identityOf,
  isSame,
  type WatchFolder,
} from './folder-watches.js';
import { isExhausted, type Obstacle, obstacleOf, queuedEventsLimit } from './watch-limits.js';

/** A watch that can be ended. */
export interface Watch {
  close(): void | Promise<void>;
}

export type OnFolderEvent = (event: FolderEvent, entry: string | null) => void;

export interface WatchedTreeOptions {
  /** Absolute, without symbolic links. */
  imagesDir: string;
  /** As `TreeWatcherOptions` in watch.ts says. */
  onChange: (folder: string) => void;
  log: Logger;
  /** Watches one folder, down to {@link topDepth}; resolves when the watch is there. Rejects with the system error. */
  watchTop: (path: string, onEvent: OnFolderEvent) => Promise<Watch>;
}

/** The images folder is at depth 0, a product at 4. The images folder and the environments are watched as `watchTop` does. */
const topDepth = 1;
const productDepth = 4;

/** After so many milliseconds of work other things have their turn. */
const sliceMs = 10;

/** `missing`: there is a folder, and it could not be watched. `closed`: it cannot even be listed, or is gone. */
type Unwatched = 'missing' | 'closed';

type Version = FolderWatch<Folder> | Unwatched;

/** A folder from the images folder down to a product. */
interface Folder {
  /** Relative to the images folder. */
  path: string;
  /** By which the kernel tells of it, and of itself in its own events. */
  name: string;
  depth: number;
  /** None for the images folder. */
  parent: Folder | undefined;
  watch: Watch | Unwatched;
  /** Of the folder that is watched. */
  identity: Identity | undefined;
  /** The folders in it, down to the products. */
  children: Map<string, Folder>;
  /** A product's versions, without those that are links. */
  versions: Map<string, Version>;
  /** Entries that came, went or were replaced since it was last listed. */
  suspects: Set<string>;
  /** True where the last attempt to list it failed for a reason that no event will tell the end of. */
  unlisted: boolean;
  /** True once it is no longer looked after. */
  dropped: boolean;
}

export interface TreeState {
  /** How many folders are watched. */
  folders: number;
  /** Why not all are, if so. */
  obstacle: Obstacle | undefined;
}

const absent: Obstacle = {
  reason: 'the images folder is not there',
  cure: 'mount the file system that holds it, or make it with "lxd-image-server init"',
};

export class WatchedTree {
  readonly #options: WatchedTreeOptions;
  readonly #watchFolder: WatchFolder<Folder>;
  readonly #watchVersion: WatchFolder<Folder>;
  /** So many events in one turn of the event loop: some may have been dropped, of which nobody tells. */
  readonly #tooManyEvents = Math.max(1, Math.floor(queuedEventsLimit() / 4));
  /** A watch that is ended makes an event, too. */
  readonly #mostClosed = Math.max(1, Math.floor(queuedEventsLimit() / 16));

  #root: Folder;
  /** Folders to be listed again. */
  readonly #queue = new Set<Folder>();
  /** Products in which something has changed in this turn of the event loop. */
  readonly #touched = new Set<Folder>();
  #events = 0;
  #turn: NodeJS.Immediate | undefined;
  /** Everything is to be watched anew. */
  #renewal = false;
  readonly #resyncs: (() => void)[] = [];
  #working: Promise<void> | undefined;
  #telling = false;
  #closed = false;

  #watched = 0;
  #missing = 0;
  #absent = false;
  /** No further watch will succeed in this piece of work. */
  #exhausted = false;
  #failure: unknown;
  /** The reason last complained of. */
  #complaint: string | undefined;

  #sliceStart = 0;
  #closedInSlice = 0;

  constructor(options: WatchedTreeOptions) {
    this.#options = options;
    this.#root = newFolder(basename(options.imagesDir));
    this.#watchFolder = createFolderWatches(({ owner }, event, entry) =>
      this.#noticed(owner, event, entry),
    );
    this.#watchVersion = createFolderWatches(({ owner, name }, event, entry) =>
      this.#noticedInVersion(owner, name, event === 'rename' && entry === name),
    );
  }

  /** Watches what is there. From then on changes are told. */
  async start(): Promise<void> {
    await this.resync();
    this.#telling = true;
  }

  /** As `TreeWatcher` in watch.ts says. */
  resync(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    return new Promise((resolve) => {
      this.#resyncs.push(resolve);
      this.#wake();
    });
  }

  state(): TreeState {
    return { folders: this.#watched, obstacle: this.#obstacle() };
  }

  /** Whether what is watched as the images folder is what is there under its name now, if anything is. */
  isInPlace(): boolean {
    return !this.#isOther(this.#root);
  }

  /** Ends all watches. Nothing is told afterwards. */
  async close(): Promise<void> {
    this.#closed = true;
    clearImmediate(this.#turn);
    await this.#working;
    for (const resolve of this.#resyncs.splice(0)) resolve();
    await this.#drop(this.#root);
  }

  // Events: they come in the middle of anything, and only leave word of what is to be done.

  #noticed(folder: Folder, event: FolderEvent, entry: string | null): void {
    this.#count();
    if (entry === null) this.#renewal = true;
    else if (event === 'rename') this.#noticedRename(folder, entry);
    else this.#noticedChange(folder, entry);
  }

  #noticedRename(folder: Folder, entry: string): void {
    if (entry === folder.name) {
      // It has gone itself, or its file system has; or an entry has its name.
      if (folder.parent === undefined) this.#renewal = true;
      else this.#suspect(folder.parent, entry);
    }
    if (!isHidden(entry)) this.#suspect(folder, entry);
  }

  /** Of folders libuv tells whatever happens to them as `rename`: this is about a file. */
  #noticedChange(folder: Folder, entry: string): void {
    if (folder.depth === productDepth && !isHidden(entry)) this.#touched.add(folder);
  }

  /** Comes many times a second while something is uploaded. */
  #noticedInVersion(product: Folder, name: string, isAboutItself: boolean): void {
    this.#count();
    if (isAboutItself) this.#suspect(product, name);
    else this.#touched.add(product);
  }

  #suspect(folder: Folder, entry: string): void {
    folder.suspects.add(entry);
    this.#queue.add(folder);
  }

  #count(): void {
    if (this.#closed) return;
    this.#events += 1;
    this.#turn ??= setImmediate(() => this.#endTurn());
  }

  /** libuv hands over all that the kernel has kept in one turn, which ends here. */
  #endTurn(): void {
    this.#turn = undefined;
    if (this.#events >= this.#tooManyEvents) this.#renewal = true;
    this.#events = 0;
    const touched = [...this.#touched];
    this.#touched.clear();
    for (const product of touched) if (!this.#queue.has(product)) this.#tell(product.path);
    this.#wake();
  }

  #tell(folder: string): void {
    if (!this.#telling || this.#closed) return;
    this.#options.onChange(folder);
  }

  // Work: one loop that does all that there is to do, piece by piece.

  #wake(): void {
    if (this.#hasWork()) this.#working ??= this.#work();
  }

  async #work(): Promise<void> {
    this.#sliceStart = performance.now();
    while (!this.#closed && this.#hasWork()) {
      const awaited = await this.#workOnce();
      this.#complain();
      for (const resolve of awaited) resolve();
    }
    this.#working = undefined;
  }

  #hasWork(): boolean {
    return this.#renewal || this.#resyncs.length > 0 || this.#queue.size > 0;
  }

  /** Does one piece of work. @returns who waits for it. */
  async #workOnce(): Promise<(() => void)[]> {
    this.#exhausted = false;
    const awaited = this.#renewal ? [] : this.#resyncs.splice(0);
    const [next] = this.#queue;
    if (this.#renewal) await this.#renew();
    else if (awaited.length > 0) await this.#check();
    else if (next !== undefined) {
      this.#queue.delete(next);
      await this.#align(next, { deep: false });
    }
    return awaited;
  }

  /** Watches everything anew. */
  async #renew(): Promise<void> {
    this.#renewal = false;
    await this.#drop(this.#root);
    this.#root = newFolder(basename(this.#options.imagesDir));
    await this.#watch(this.#root);
    this.#absent = this.#root.identity === undefined;
    await this.#fill(this.#root);
    // There is no folder above that would tell of this.
    if (this.#isOther(this.#root)) this.#renewal = true;
    this.#tell('');
  }

  /** Compares everything with what is there. */
  async #check(): Promise<void> {
    if (this.#absent && !this.#isOther(this.#root)) return;
    if (isWatch(this.#root.watch) && !this.#isOther(this.#root)) {
      await this.#align(this.#root, { deep: true });
    } else {
      do await this.#renew();
      while (this.#renewal && !this.#closed);
    }
  }

  /**
   * Lists a folder again, and watches or drops what has come or gone.
   *
   * @param deep whether to look at everything below it, and to try again what could not be watched.
   */
  async #align(folder: Folder, { deep }: { deep: boolean }): Promise<void> {
    const suspects = folder.suspects;
    folder.suspects = new Set();
    const folders = this.#list(folder);
    const options = { suspects, deep };
    const own =
      folders === undefined
        ? suspects.size > 0
        : folder.depth === productDepth
          ? await this.#alignVersions(folder, folders, options)
          : await this.#alignChildren(folder, folders, options);
    if (!own) return;
    this.#tell(folder.path);
  }

  /** Tells of folders that came and went by themselves. @returns whether there is something else to tell. */
  async #alignChildren(folder: Folder, folders: ReadonlySet<string>, options: AlignOptions) {
    const { suspects, deep } = options;
    const changed = new Set<string>();
    for (const child of [...folder.children.values()]) {
      const isKept = folders.has(child.name) && !suspects.has(child.name);
      if (isKept && !(deep && this.#isOther(child))) continue;
      await this.#drop(child);
      folder.children.delete(child.name);
      changed.add(child.name);
    }
    const known = [...folder.children.values()];
    for (const child of await this.#addChildren(folder, folders)) changed.add(child.name);
    for (const name of changed) {
      this.#tell(pathIn(folder, name));
    }
    if (deep) for (const child of known) await this.#checkChild(child);
    return [...suspects].some((name) => !changed.has(name));
  }

  async #checkChild(child: Folder): Promise<void> {
    await this.#pauseIfDue();
    if (this.#closed) return;
    const before = child.watch;
    if (!isWatch(before)) {
      this.#account(before, -1);
      await this.#watch(child);
    }
    await this.#align(child, { deep: true });
    if (!isWatch(before) && isWatch(child.watch)) this.#tell(child.path);
  }

  /** @returns whether something has changed. */
  async #alignVersions(product: Folder, folders: ReadonlySet<string>, options: AlignOptions) {
    const { suspects, deep } = options;
    const { versions } = product;
    let changed = suspects.size > 0;
    for (const [name, version] of versions) {
      const isKept = folders.has(name) && !suspects.has(name);
      if (isKept && !(deep && this.#isOtherVersion(product, version))) continue;
      this.#end(version);
      versions.delete(name);
      changed = true;
      await this.#pauseIfDue();
    }
    for (const name of folders) {
      const before = versions.get(name);
      if (before !== undefined && (isWatch(before) || !deep)) continue;
      if (this.#closed) break;
      const version = this.#tryVersion(product, name);
      if (before !== undefined) this.#account(before, -1);
      this.#account(version, 1);
      versions.set(name, version);
      if (before === undefined || isWatch(version)) changed = true;
      await this.#pauseIfDue();
    }
    return changed;
  }

  /** Watches the folders in `folder` that are not yet, with all below them. @returns these. */
  async #addChildren(folder: Folder, names: ReadonlySet<string>): Promise<Folder[]> {
    const fresh = [...names]
      .filter((name) => !folder.children.has(name))
      .map((name) => newFolder(name, folder));
    for (const child of fresh) folder.children.set(child.name, child);
    if (folder.depth < topDepth) await Promise.all(fresh.map((child) => this.#watch(child)));
    for (const child of fresh) {
      if (this.#closed) break;
      if (child.depth > topDepth) await this.#watch(child);
      await this.#fill(child);
      await this.#pauseIfDue();
    }
    return fresh;
  }

  /** Watches all below a folder that is watched, and has not been listed since. */
  async #fill(folder: Folder): Promise<void> {
    const folders = this.#list(folder);
    if (folders === undefined) return;
    if (folder.depth < productDepth) await this.#addChildren(folder, folders);
    else await this.#alignVersions(folder, folders, { suspects: new Set(), deep: false });
  }

  async #watch(folder: Folder): Promise<void> {
    const path = this.#absolute(folder.path);
    folder.identity = identityOf(path);
    try {
      if (folder.identity === undefined) folder.watch = 'closed';
      else if (this.#exhausted) folder.watch = 'missing';
      else if (folder.depth > topDepth) {
        folder.watch = this.#watchFolder(path, { owner: folder, name: folder.name });
      } else {
        folder.watch = await this.#options.watchTop(path, (event, entry) => {
          if (!folder.dropped) this.#noticed(folder, event, entry);
        });
      }
    } catch (error) {
      folder.watch = this.#unwatched(error);
    }
    this.#account(folder.watch, 1);
  }

  #tryVersion(product: Folder, name: string): Version {
    if (this.#exhausted) return 'missing';
    try {
      return this.#watchVersion(this.#absolute(pathIn(product, name)), { owner: product, name });
    } catch (error) {
      return this.#unwatched(error);
    }
  }

  #unwatched(error: unknown): Unwatched {
    const code = systemCode(error);
    if (code === undefined) throw error;
    if (closedCodes.includes(code)) return 'closed';
    this.#failure = error;
    this.#exhausted ||= isExhausted(error);
    return 'missing';
  }

  /** Ends the watches on a folder and on all below it. */
  async #drop(folder: Folder): Promise<void> {
    folder.dropped = true;
    this.#queue.delete(folder);
    this.#touched.delete(folder);
    for (const version of folder.versions.values()) {
      this.#end(version);
      await this.#pauseIfDue();
    }
    for (const child of folder.children.values()) await this.#drop(child);
    folder.versions.clear();
    folder.children.clear();
    this.#setUnlisted(folder, false);
    this.#account(folder.watch, -1);
    if (isWatch(folder.watch)) await folder.watch.close();
    folder.watch = 'closed';
    // Events came as long as there were watches.
    this.#queue.delete(folder);
    this.#touched.delete(folder);
  }

  #end(version: Version): void {
    this.#account(version, -1);
    if (!isWatch(version)) return;
    version.close();
    this.#closedInSlice += 1;
  }

  #account(watch: Watch | Unwatched, change: 1 | -1): void {
    if (isWatch(watch)) this.#watched += change;
    else if (watch === 'missing') this.#missing += change;
  }

  /** What is in a folder, or `undefined` where it cannot be listed. */
  #list(folder: Folder): ReadonlySet<string> | undefined {
    const folders = new Set<string>();
    try {
      const entries = readdirSync(this.#absolute(folder.path), { withFileTypes: true });
      for (const entry of entries) {
        if (!isName(entry.name) || isTemporary(entry.name)) continue;
        if (entry.isDirectory()) folders.add(entry.name);
      }
    } catch (error) {
      this.#setUnlisted(folder, this.#unwatched(error) === 'missing');
      return undefined;
    }
    this.#setUnlisted(folder, false);
    return folders;
  }

  #setUnlisted(folder: Folder, unlisted: boolean): void {
    this.#missing += Number(unlisted) - Number(folder.unlisted);
    folder.unlisted = unlisted;
  }

  #isOther(folder: Folder): boolean {
    const now = identityOf(this.#absolute(folder.path));
    return folder.identity === undefined ? now !== undefined : !isSame(folder.identity, now);
  }

  #isOtherVersion(product: Folder, version: Version): boolean {
    if (!isWatch(version)) return false;
    return !isSame(version, identityOf(this.#absolute(pathIn(product, version.name))));
  }

  #obstacle(): Obstacle | undefined {
    if (this.#absent) return absent;
    if (this.#missing === 0) return undefined;
    return obstacleOf(this.#failure, this.#watched + this.#missing);
  }

  /** Says once what is wrong, and once that it is over. */
  #complain(): void {
    const obstacle = this.#obstacle();
    if (obstacle?.reason === this.#complaint) return;
    this.#complaint = obstacle?.reason;
    const { log } = this.#options;
    if (obstacle === undefined)
      log.info({ folders: this.#watched }, 'all folders are watched again');
    else {
      const counts = { watched: this.#watched, unwatched: this.#missing };
      log.warn({ ...obstacle, ...counts }, 'not all folders can be watched');
    }
  }

  /** Lets others have their turn after a while. */
  async #pauseIfDue(): Promise<void> {
    const isOver = performance.now() - this.#sliceStart > sliceMs;
    if (!isOver && this.#closedInSlice < this.#mostClosed) return;
    await nextTurn();
    this.#sliceStart = performance.now();
    this.#closedInSlice = 0;
  }

  #absolute(path: string): string {
    return path === '' ? this.#options.imagesDir : `${this.#options.imagesDir}/${path}`;
  }
}

interface AlignOptions {
  suspects: ReadonlySet<string>;
  deep: boolean;
}

/** What the folder above tells the end of: it has gone, or may not be looked into. */
const closedCodes = ['ENOENT', 'ENOTDIR', 'EACCES', 'EPERM', 'ELOOP'];

function newFolder(name: string, parent?: Folder): Folder {
  return {
    path: parent === undefined ? '' : pathIn(parent, name),
    name,
    depth: parent === undefined ? 0 : parent.depth + 1,
    parent,
    watch: 'closed',
    identity: undefined,
    children: new Map(),
    versions: new Map(),
    suspects: new Set(),
    unlisted: false,
    dropped: false,
  };
}

function pathIn(folder: Folder, name: string): string {
  return folder.path === '' ? name : `${folder.path}/${name}`;
}

function isWatch<T extends object>(watch: T | Unwatched): watch is T {
  return typeof watch === 'object';
}

/**
 * The contract for a mirror: what replication asks of the far side, whatever carries it there.
 * `sftp.ts` implements it; wrappers with the same interface add to it, and one suite of tests runs against all.
 *
 * Paths are relative to the mirror's root, with `/` between their parts: `streams/v1/index.json`. '' is the root
 * itself. A path that would leave the root is refused before anything is sent.
 *
 * Operations may run at the same time, many of them: they share the mirror's connections. Every one
 * - takes an AbortSignal, and rejects with its reason soon after it aborts; what it had begun may be there in part
 *   at a staging path, never at a path that is read by others;
 * - ends on its own where the mirror does not answer;
 * - throws a ServerError of one of these codes, each with a hint, for all that network and mirror can cause:
 *
 * | code | what it means | what to do |
 * | --- | --- | --- |
 * | MIRROR_AUTH | login refused, host key unknown or changed, our key unusable | wait for a new configuration |
 * | MIRROR_DOWN | not reachable, connection lost, no answer in time | try again, later and later |
 * | MIRROR_FULL | no space, no inodes, or a quota used up | try again, rarely |
 * | MIRROR_DENIED | no such root, no permission, read-only, not an SFTP server | try again, rarely |
 * | MIRROR_MISSING | a file or folder that the operation needs is not there (any more) | look again, plan again |
 * | MIRROR_DAMAGED | what is there is not what it has to be: a path that leaves the root, a file in place of a folder | look again, plan again |
 */

/** What every operation takes. */
export interface MirrorOptions {
  /** Ends the operation, which then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface Mirror {
  /**
   * How many small operations at once keep the mirror busy, also over a long way; more than that wait in a queue
   * of its own. Of large files it sends or reads back only two at once, to bound memory.
   */
  readonly parallel: number;

  /** What the far side can do. Logs in where that has not been done. */
  capabilities(options?: MirrorOptions): Promise<MirrorCapabilities>;

  /** What stands at `path`, symbolic links followed; `undefined` where there is nothing. */
  stat(path: string, options?: MirrorOptions): Promise<MirrorEntry | undefined>;

  /**
   * What stands in the folder `path`, in no particular order, links not followed; `undefined` where there is no
   * such folder. @throws ServerError MIRROR_DAMAGED where something else stands there.
   */
  list(path: string, options?: MirrorOptions): Promise<ListedEntry[] | undefined>;

  /**
   * The content of a small file; `undefined` where there is none.
   * @throws ServerError MIRROR_DAMAGED where it is larger than `options.maxBytes`.
   */
  read(path: string, options: ReadOptions): Promise<Buffer | undefined>;

  /**
   * The size and SHA-256 of the file at `path`, read back in full, or told by the far side where it can;
   * `undefined` where there is no such file. A file that changes meanwhile gives a hash of neither state.
   */
  hash(path: string, options?: HashOptions): Promise<RemoteHash | undefined>;

  /**
   * Sends the content of `source` to the staging path `path`, whose folder must be there.
   *
   * What an earlier try left at `path` is continued (see {@link PutOptions.resume}), without any note of that try:
   * no byte is ever sent that lies more than {@link resumeWindow} after the first one that is not acknowledged, so
   * whatever cut it, all but the last {@link resumeWindow} bytes of what is there has been written. A new try
   * starts that far before the end. Whether what was there belonged to the same content is **not** known: give
   * content of its own a name of its own, and compare {@link Mirror.hash} before the file gets its final name.
   *
   * When this resolves, the file has exactly `source.size` bytes, synced where {@link MirrorCapabilities.sync}.
   * Memory stays within {@link resumeWindow}, whatever the size. What `source.read` throws ends it, as it is.
   */
  put(source: PutSource, path: string, options?: PutOptions): Promise<PutResult>;

  /**
   * Writes a small file whole: under a temporary name beside it (hidden, ending in `.tmp`), synced, then renamed
   * over what is there as {@link Mirror.rename} does, and its folder synced. Its folder must be there.
   */
  write(path: string, pieces: readonly Uint8Array[], options?: MirrorOptions): Promise<void>;

  /**
   * Gives the file or folder `from` the name `to`; a file replaces the file that is there.
   *
   * With {@link MirrorCapabilities.atomicReplace} a reader sees the old file or the new one at every instant.
   * Without it the protocol has no such step. Then the old file is moved aside to a hidden name, the new one gets
   * the name, both in requests sent together, and the old one is removed; if the second fails the old one is put
   * back. A reader may find no file for the moment between two requests, but never a wrong or half one, and a
   * connection cut in that moment leaves both contents on the mirror. (To write over the old file in place would
   * show a mixture of both instead, which a client takes for good.)
   *
   * @throws ServerError MIRROR_MISSING where `from` or the folder of `to` is not there.
   */
  rename(from: string, to: string, options?: RenameOptions): Promise<void>;

  /**
   * Gives files their names, each as {@link Mirror.rename} does, and has their folders synced. It goes step by step:
   * a step begins when all files of the one before have their names, so that a reader never sees the second without
   * the first; nor does who comes after a crash, where the mirror can sync. Of a step that fails, any may be done.
   */
  renameInOrder(steps: readonly (readonly Renaming[])[], options?: MirrorOptions): Promise<void>;

  /**
   * Gives the file `from` a second name, `to`, which must be free: of several who try at once, one succeeds.
   * @returns false, with nothing done, where `to` is taken, or the mirror cannot: no such extension, or its file
   *   system has no links.
   * @throws ServerError MIRROR_MISSING where `from` or the folder of `to` is not there.
   */
  link(from: string, to: string, options?: MirrorOptions): Promise<boolean>;

  /**
   * Copies the file `from` to the staging path `to` on the far side, replacing what is there, and syncs it.
   * @returns false, with nothing done, where the mirror has no such extension.
   * @throws ServerError MIRROR_MISSING where `from` or the folder of `to` is not there.
   */
  copy(from: string, to: string, options?: MirrorOptions): Promise<boolean>;

  /** Removes a file or a symbolic link. Fine where nothing is there. */
  remove(path: string, options?: MirrorOptions): Promise<void>;

  /** Makes the folder `path` and those above it, below the root. Fine where they are there. */
  makeFolder(path: string, options?: MirrorOptions): Promise<void>;

  /**
   * Removes an empty folder. Fine where nothing is there.
   * @returns false where it is not empty.
   */
  removeFolder(path: string, options?: MirrorOptions): Promise<boolean>;

  /** Has a file, or the names in a folder, written to the far disk. Does nothing where the mirror cannot. */
  sync(path: string, options?: MirrorOptions): Promise<void>;

  /** How much room there is; `undefined` where the mirror does not tell. Quotas are not in it. */
  space(options?: MirrorOptions): Promise<MirrorSpace | undefined>;

  /** Ends all connections; operations under way reject with MIRROR_DOWN. Resolves when nothing is left running. */
  close(): Promise<void>;
}

/**
 * Bytes that may be under way for one file, over all connections. It is the same for all configurations and must
 * never shrink from one release to the next: an upload that was cut is continued by it.
 */
export const resumeWindow = 16 * 2 ** 20;

export interface MirrorCapabilities {
  /** A file can replace another without a moment in which neither is there. */
  atomicReplace: boolean;
  /** Files and folders can be written through to the disk. */
  sync: boolean;
  /** A file can get a second name. */
  link: boolean;
  /** A file can be copied without sending it. */
  copy: boolean;
  /** What the server calls itself: `OpenSSH_9.2p1 Debian-2`. */
  software: string;
}

export type EntryKind = 'file' | 'folder' | 'link' | 'other';

export interface MirrorEntry {
  /** `link` only in lists. */
  kind: EntryKind;
  /** Bytes. */
  size: number;
  /** Whole seconds since 1970. */
  mtime: number;
}

export interface ListedEntry extends MirrorEntry {
  name: string;
}

export interface ReadOptions extends MirrorOptions {
  /** The largest file that is read. */
  maxBytes: number;
}

export interface HashOptions extends MirrorOptions {
  /**
   * Called with the number of bytes that have been read since the last call; with a negative one where they have to
   * be read again.
   */
  onBytes?(count: number): void;
}

/** A file to be given another name. */
export interface Renaming {
  from: string;
  to: string;
}

export interface RenameOptions extends MirrorOptions {
  /** Have the folder of `to` synced as well, in less time than {@link Mirror.sync} takes after it. Default: no. */
  sync?: boolean;
}

export interface RemoteHash {
  size: number;
  /** 64 lower-case hexadecimal digits. */
  sha256: string;
}

/** Content to send. Several mirrors may read from one source at the same time. */
export interface PutSource {
  /** Bytes in all. */
  size: number;
  /**
   * Gives `length` bytes from `offset`, never fewer: it throws where the content has changed or ends before. It is
   * asked in rising order, with a few calls under way at once; the Buffer is not changed, nor kept once it is sent.
   * What was under way when a connection was lost is asked for again.
   */
  read(offset: number, length: number): Promise<Buffer>;
}

export interface PutOptions extends MirrorOptions {
  /** Continue what is at the path already. Default: true. `false` starts anew. */
  resume?: boolean;
  /** Have the file synced at its end. Default: true. */
  sync?: boolean;
  /** Called once, before anything is sent, with the offset at which it starts. */
  onStart?(offset: number): void;
  /**
   * Called with the number of bytes that the mirror has acknowledged since the last call; with a negative one where
   * some of them are sent again. With the offset of `onStart` they always come to how far it is.
   */
  onBytes?(count: number): void;
}

export interface PutResult {
  /** Where it started: 0, or what was there less {@link resumeWindow}; the last time, if that was several times. */
  start: number;
  /** Bytes sent: `source.size - start`, and those that were sent before that. */
  sent: number;
}

export interface MirrorSpace {
  /** Bytes that the account may still fill. */
  free: number;
  /** Files that it may still make; `undefined` where the file system has no such limit. */
  freeFiles: number | undefined;
  readOnly: boolean;
}

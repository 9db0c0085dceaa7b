/** A mirror in memory that keeps to the contract, and fails where a test wants it to. */
import { createHash } from 'node:crypto';
import { ServerError } from '../../src/errors.js';
import { type ListedEntry, type Mirror, resumeWindow } from '../../src/mirror/mirror.js';

export interface MemoryFile {
  content: Buffer;
  mtime: number;
}

export interface MemoryMirror extends Mirror {
  /** By path. */
  files: Map<string, MemoryFile>;
  folders: Set<string>;
  /** Operations that have been asked for, and bytes that have been put. */
  counts: { operations: number; put: number; hashed: number };
  /** The clock of the mirror, in seconds. */
  clock: number;
}

export interface MemoryMirrorOptions {
  /**
   * Called before each operation that changes something, and again after it; what it throws is what the operation
   * rejects with. So a failure comes before the change, or in place of its acknowledgement.
   */
  fault?: (when: 'before' | 'after', operation: string, path: string) => void;
  /** Called before each operation of whatever kind; what it throws is what the operation rejects with. */
  begin?: (operation: string) => void;
  /** Called after each change. */
  changed?: () => void;
  link?: boolean;
  copy?: boolean;
  parallel?: number;
}

export function memoryMirror(options: MemoryMirrorOptions = {}): MemoryMirror {
  const { fault = () => {}, changed = () => {}, begin = () => {} } = options;
  const { link = true, copy = true } = options;
  const files = new Map<string, MemoryFile>();
  const folders = new Set<string>(['']);
  const counts = { operations: 0, put: 0, hashed: 0 };
  const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('/')));
  const missing = (path: string) =>
    new ServerError('MIRROR_MISSING', `${path} is not there`, { hint: 'look again' });
  const needFolder = (path: string) => {
    if (!folders.has(parentOf(path))) throw missing(parentOf(path));
  };
  const need = (path: string): MemoryFile => {
    const file = files.get(path);
    if (file === undefined) throw missing(path);
    return file;
  };
  const start = async (operation: string, signal: AbortSignal | undefined) => {
    counts.operations += 1;
    begin(operation);
    signal?.throwIfAborted();
    await new Promise(setImmediate);
    signal?.throwIfAborted();
  };
  /** A change, before and after which there can be a fault. */
  const change = <T>(operation: string, path: string, act: () => T): T => {
    fault('before', operation, path);
    const result = act();
    changed();
    fault('after', operation, path);
    return result;
  };

  const mirror: MemoryMirror = {
    files,
    folders,
    counts,
    clock: 1_000_000,
    parallel: options.parallel ?? 8,
    async capabilities() {
      return { atomicReplace: true, sync: true, link, copy, software: 'memory' };
    },
    async stat(path, { signal } = {}) {
      await start('stat', signal);
      const file = files.get(path);
      if (file) return { kind: 'file', size: file.content.length, mtime: file.mtime };
      return folders.has(path) ? { kind: 'folder', size: 0, mtime: 0 } : undefined;
    },
    async list(path, { signal } = {}) {
      await start('list', signal);
      if (!folders.has(path)) return undefined;
      const inside = (each: string) => each !== '' && parentOf(each) === path;
      const name = (each: string) => each.slice(path === '' ? 0 : path.length + 1);
      const entries: ListedEntry[] = [];
      for (const [each, { content, mtime }] of files) {
        if (inside(each)) {
          entries.push({ name: name(each), kind: 'file', size: content.length, mtime });
        }
      }
      for (const each of folders) {
        if (inside(each)) entries.push({ name: name(each), kind: 'folder', size: 0, mtime: 0 });
      }
      return entries;
    },
    async read(path, { signal, maxBytes }) {
      await start('read', signal);
      const file = files.get(path);
      if (file && file.content.length > maxBytes) {
        throw new ServerError('MIRROR_DAMAGED', `${path} is too large`, { hint: 'look again' });
      }
      return file && Buffer.from(file.content);
    },
    async hash(path, { signal, onBytes } = {}) {
      await start('hash', signal);
      const file = files.get(path);
      if (file === undefined) return undefined;
      counts.hashed += file.content.length;
      onBytes?.(file.content.length);
      const sha256 = createHash('sha256').update(file.content).digest('hex');
      return { size: file.content.length, sha256 };
    },
    async put(source, path, { signal, resume = true, onStart, onBytes } = {}) {
      await start('put', signal);
      needFolder(path);
      const there = resume ? files.get(path)?.content : undefined;
      const first = Math.max(0, Math.min(there?.length ?? 0, source.size) - resumeWindow);
      onStart?.(first);
      // In place: whatever other names the file has show it, too.
      const file = files.get(path) ?? { content: Buffer.alloc(0), mtime: mirror.clock };
      let written = Buffer.from(there?.subarray(0, first) ?? []);
      const piece = Math.max(1, Math.ceil(source.size / 3));
      let at = first;
      do {
        const length = Math.min(piece, source.size - at);
        const bytes = length > 0 ? await source.read(at, length) : Buffer.alloc(0);
        signal?.throwIfAborted();
        change('put', path, () => {
          written = Buffer.concat([written, bytes]);
          // A file is cut to nothing when it is written from its start, and otherwise keeps its end until it is over.
          file.content = Buffer.concat([
            written,
            first > 0 ? file.content.subarray(written.length) : Buffer.alloc(0),
          ]);
          file.mtime = mirror.clock;
          files.set(path, file);
        });
        counts.put += bytes.length;
        onBytes?.(bytes.length);
        at += length;
      } while (at < source.size);
      return { start: first, sent: source.size - first };
    },
    async write(path, pieces, { signal } = {}) {
      await start('write', signal);
      needFolder(path);
      change('write', path, () => {
        files.set(path, { content: Buffer.concat(pieces), mtime: mirror.clock });
      });
    },
    async rename(from, to, { signal, sync = false } = {}) {
      await start('rename', signal);
      const file = need(from);
      needFolder(to);
      change('rename', to, () => {
        // As rename(2) has it: nothing is done to two names of one file.
        if (files.get(to) === file) return;
        files.delete(from);
        files.set(to, file);
      });
      if (sync) await mirror.sync(parentOf(to), { signal });
    },
    async renameInOrder(steps, given) {
      for (const step of steps) {
        const all = await Promise.allSettled(
          step.map(({ from, to }) => mirror.rename(from, to, { ...given, sync: true })),
        );
        for (const each of all) if (each.status === 'rejected') throw each.reason;
      }
    },
    async link(from, to, { signal } = {}) {
      await start('link', signal);
      if (!link) return false;
      const file = need(from);
      needFolder(to);
      if (files.has(to)) return false;
      change('link', to, () => files.set(to, file));
      return true;
    },
    async copy(from, to, { signal } = {}) {
      await start('copy', signal);
      if (!copy) return false;
      const { content } = need(from);
      needFolder(to);
      change('copy', to, () => files.set(to, { content, mtime: mirror.clock }));
      return true;
    },
    async remove(path, { signal } = {}) {
      await start('remove', signal);
      change('remove', path, () => files.delete(path));
    },
    async makeFolder(path, { signal } = {}) {
      await start('makeFolder', signal);
      change('makeFolder', path, () => {
        for (let each = path; each !== ''; each = parentOf(each)) folders.add(each);
      });
    },
    async removeFolder(path, { signal } = {}) {
      await start('removeFolder', signal);
      if ([...files.keys(), ...folders].some((each) => each.startsWith(`${path}/`))) return false;
      change('removeFolder', path, () => folders.delete(path));
      return true;
    },
    async sync(_path, { signal } = {}) {
      await start('sync', signal);
    },
    async space() {
      return undefined;
    },
    async close() {},
  };
  return mirror;
}

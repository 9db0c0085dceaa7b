/** What every implementation of the mirror contract has to do, as one suite that each runs. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmod,
  mkdir,
  readdir,
  readFile,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { ServerError } from '../../src/errors.js';
import { type Mirror, type PutSource, resumeWindow } from '../../src/mirror/mirror.js';
import { stagingFolder, stagingPath } from '../../src/mirror/names.js';

/** A mirror under test. */
export interface MirrorUnderTest {
  /** Closed by whoever made it. */
  mirror: Mirror;
  /** Its root, empty, as this machine's file system has it. */
  folder: string;
}

export interface ConformanceOptions {
  /** A mirror for one test. */
  setUp(t: TestContext): Promise<MirrorUnderTest>;
  /** Why the suite is skipped, or `false`. */
  skip: string | false;
  /** Whether it does what only OpenSSH's own extensions make possible. Default: true. */
  extensions?: boolean;
  /** What the server calls itself. Default: OpenSSH. */
  software?: RegExp;
  /** Whether it tells how much room there is. Default: true. */
  space?: boolean;
  /** Whether the way to it is cut now and then, so that what was sent may have to be sent again. Default: false. */
  interrupted?: boolean;
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** `bytes` as a source that notes what was asked of it. */
export function sourceOf(
  bytes: Buffer,
): PutSource & { asked: { offset: number; length: number }[] } {
  const asked: { offset: number; length: number }[] = [];
  return {
    size: bytes.length,
    asked,
    read: async (offset, length) => {
      asked.push({ offset, length });
      assert.ok(offset + length <= bytes.length, 'asked for more than there is');
      return bytes.subarray(offset, offset + length);
    },
  };
}

/** A check for `assert.rejects`: a ServerError of this code, with a hint. */
export function failsWith(code: ServerError['code'], message: RegExp = /./) {
  return (error: unknown) => {
    assert.ok(error instanceof ServerError, `${error}`);
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.ok(error.hint, 'a hint');
    return true;
  };
}

const piece = 64 * 1024;
const sizes = [0, 1, piece - 1, piece, piece + 1, 2 ** 20, 2 ** 20 + 1, 9 * 2 ** 20 + 12_345];

export function conformance(name: string, options: ConformanceOptions): void {
  const { setUp, skip, extensions = true, space = true, interrupted = false } = options;
  const { software: itsName = /^OpenSSH/ } = options;
  describe(`a mirror ${name}`, { skip }, () => {
    test('tells what stands at a path, and that nothing does', async (t) => {
      const { mirror, folder } = await setUp(t);
      await writeFile(join(folder, 'file'), 'twelve bytes');
      await utimes(join(folder, 'file'), 1_500_000_000, 1_500_000_000);
      assert.deepEqual(await mirror.stat('file'), {
        kind: 'file',
        size: 12,
        mtime: 1_500_000_000,
      });
      assert.equal((await mirror.stat(''))?.kind, 'folder');
      assert.equal(await mirror.stat('none'), undefined);
      assert.equal(await mirror.stat('none/below'), undefined);
      await symlink('file', join(folder, 'link'));
      assert.equal((await mirror.stat('link'))?.size, 12);
    });

    test('lists a folder of any size, and what each entry is', async (t) => {
      const { mirror, folder } = await setUp(t);
      assert.deepEqual(await mirror.list(''), []);
      await mkdir(join(folder, 'many/folder'), { recursive: true });
      await symlink('folder', join(folder, 'many/link'));
      const names = Array.from({ length: 1234 }, (_, index) => `file-${index}`);
      for (const each of names) await writeFile(join(folder, 'many', each), each);
      const found = await mirror.list('many');
      assert.deepEqual(
        found?.map((entry) => entry.name).sort(),
        [...names, 'folder', 'link'].sort(),
      );
      const kinds = new Map(found?.map((entry) => [entry.name, entry.kind]));
      assert.equal(kinds.get('folder'), 'folder');
      assert.equal(kinds.get('link'), 'link');
      assert.equal(kinds.get('file-7'), 'file');
      assert.equal(found?.find((entry) => entry.name === 'file-1000')?.size, 9);
      assert.equal(await mirror.list('none'), undefined);
      await assert.rejects(mirror.list('many/file-1'), failsWith('MIRROR_DAMAGED'));
    });

    test('reads small files whole, and refuses large ones', async (t) => {
      const { mirror, folder } = await setUp(t);
      const content = randomBytes(200_000);
      await writeFile(join(folder, 'file'), content);
      assert.deepEqual(await mirror.read('file', { maxBytes: 200_000 }), content);
      await assert.rejects(mirror.read('file', { maxBytes: 199_999 }), failsWith('MIRROR_DAMAGED'));
      assert.equal(await mirror.read('none', { maxBytes: 10 }), undefined);
      await mkdir(join(folder, 'folder'));
      await assert.rejects(mirror.read('folder', { maxBytes: 10 }), failsWith('MIRROR_DAMAGED'));
    });

    for (const size of sizes) {
      test(`sends ${size} bytes and reads the same back`, async (t) => {
        const { mirror, folder } = await setUp(t);
        const content = randomBytes(size);
        let sent = 0;
        const result = await mirror.put(sourceOf(content), 'file', {
          onBytes: (count) => {
            sent += count;
          },
        });
        if (interrupted) assert.ok(result.start === 0 && result.sent >= size, `${result.sent}`);
        else assert.deepEqual(result, { start: 0, sent: size });
        assert.equal(sent, size);
        assert.ok((await readFile(join(folder, 'file'))).equals(content));
        let read = 0;
        const hash = await mirror.hash('file', {
          onBytes: (count) => {
            read += count;
          },
        });
        assert.deepEqual(hash, { size, sha256: sha256(content) });
        assert.equal(read, size);
      });
    }

    test('leaves files and folders that everyone may read', async (t) => {
      const { mirror, folder } = await setUp(t);
      await mirror.makeFolder('a/b');
      await mirror.put(sourceOf(Buffer.from('x')), 'a/b/file');
      assert.equal((await stat(join(folder, 'a'))).mode & 0o777, 0o755);
      assert.equal((await stat(join(folder, 'a/b'))).mode & 0o777, 0o755);
      assert.equal((await stat(join(folder, 'a/b/file'))).mode & 0o777, 0o644);
    });

    test('has no hash for a file that is not there', async (t) => {
      const { mirror } = await setUp(t);
      assert.equal(await mirror.hash('none'), undefined);
    });

    test('continues an upload a window before the end of what is there', async (t) => {
      const { mirror, folder } = await setUp(t);
      const content = randomBytes(resumeWindow * 2 + 777);
      const there = resumeWindow + 5 * 2 ** 20 + 3;
      await writeFile(join(folder, 'file'), content.subarray(0, there));
      const source = sourceOf(content);
      const starts: number[] = [];
      let acknowledged = 0;
      const result = await mirror.put(source, 'file', {
        onStart: (at) => starts.push(at),
        onBytes: (count) => {
          acknowledged += count;
        },
      });
      const [start = 0] = starts;
      assert.equal(starts.length, 1);
      assert.ok(start > 0 && there - start <= resumeWindow, `${start}`);
      assert.equal(source.asked[0]?.offset, start);
      assert.equal(start + acknowledged, content.length);
      if (interrupted) {
        assert.ok(result.start > 0, `${result.start}`);
        assert.ok(result.sent >= content.length - Math.max(start, result.start));
      } else assert.deepEqual(result, { start, sent: content.length - start });
      assert.equal((await mirror.hash('file'))?.sha256, sha256(content));
    });

    test('starts anew where told to, and where there is more than the content', async (t) => {
      const { mirror, folder } = await setUp(t);
      const content = randomBytes(resumeWindow + 2 ** 21);
      await writeFile(join(folder, 'file'), content);
      assert.equal((await mirror.put(sourceOf(content), 'file', { resume: false })).start, 0);
      await truncate(join(folder, 'file'), content.length + 1);
      assert.equal((await mirror.put(sourceOf(content), 'file')).start, 0);
      assert.equal((await mirror.hash('file'))?.sha256, sha256(content));
    });

    test('ends an upload with what its source throws', async (t) => {
      const { mirror } = await setUp(t);
      const changed = new Error('the file has changed');
      for (const size of [100, 30 * 2 ** 20]) {
        const source: PutSource = {
          size,
          read: async (offset, length) => {
            if (offset >= size / 2 || size === 100) throw changed;
            return Buffer.alloc(length);
          },
        };
        await assert.rejects(mirror.put(source, 'file'), (error) => error === changed);
      }
      assert.equal((await mirror.put(sourceOf(Buffer.from('next')), 'next')).sent, 4);
    });

    test('needs the folder that a file goes to', async (t) => {
      const { mirror } = await setUp(t);
      const source = sourceOf(Buffer.from('x'));
      await assert.rejects(mirror.put(source, 'none/file'), failsWith('MIRROR_MISSING'));
      await assert.rejects(
        mirror.write('none/file', [Buffer.from('x')]),
        failsWith('MIRROR_MISSING'),
      );
    });

    test('does not send over a folder', async (t) => {
      const { mirror } = await setUp(t);
      await mirror.makeFolder('folder');
      const source = sourceOf(Buffer.from('x'));
      await assert.rejects(mirror.put(source, 'folder'), failsWith('MIRROR_DAMAGED'));
    });

    test('writes a small file whole, over what is there, and leaves nothing beside it', async (t) => {
      const { mirror, folder } = await setUp(t);
      await mirror.makeFolder('streams/v1');
      for (const text of ['first', 'the second, longer', '3', '']) {
        await mirror.write('streams/v1/index.json', [Buffer.from(text), Buffer.from('.')]);
        assert.equal(await readFile(join(folder, 'streams/v1/index.json'), 'utf8'), `${text}.`);
        assert.deepEqual(await readdir(join(folder, 'streams/v1')), ['index.json']);
      }
      await mirror.write('top', [Buffer.from('in the root')]);
      assert.equal(await readFile(join(folder, 'top'), 'utf8'), 'in the root');
    });

    test('renames files over others, and folders', async (t) => {
      const { mirror, folder } = await setUp(t);
      await writeFile(join(folder, 'old'), 'old');
      await writeFile(join(folder, 'new'), 'new');
      await mirror.rename('new', 'old');
      assert.equal(await readFile(join(folder, 'old'), 'utf8'), 'new');
      await mirror.rename('old', 'new', { sync: true });
      await mirror.rename('new', 'old', { sync: true });
      await mirror.makeFolder('folder/below');
      await mirror.rename('folder', 'other');
      assert.deepEqual((await readdir(folder)).sort(), ['old', 'other']);
      await assert.rejects(mirror.rename('none', 'old'), failsWith('MIRROR_MISSING'));
      assert.equal(await readFile(join(folder, 'old'), 'utf8'), 'new');
      await assert.rejects(mirror.rename('old', 'none/old'), failsWith('MIRROR_MISSING'));
      assert.deepEqual((await readdir(folder)).sort(), ['old', 'other']);
    });

    test('renames in order, and nothing of a step when one before it fails', async (t) => {
      const { mirror, folder } = await setUp(t);
      await mirror.makeFolder(stagingFolder);
      await mirror.makeFolder('streams/v1');
      const stage = async (text: string) => {
        const from = stagingPath(createHash('sha256').update(text).digest('hex'));
        await mirror.put(sourceOf(Buffer.from(text)), from);
        return from;
      };
      const at = (name: string) => `streams/v1/${name}`;
      const read = (name: string) => readFile(join(folder, at(name)), 'utf8');
      for (const round of ['first', 'second']) {
        await mirror.renameInOrder([
          [
            { from: await stage(`${round} a`), to: at('a') },
            { from: await stage(`${round} b`), to: at('b') },
          ],
          [],
          [{ from: await stage(`${round} c`), to: at('c') }],
        ]);
        const found = [await read('a'), await read('b'), await read('c')];
        assert.deepEqual(found, [`${round} a`, `${round} b`, `${round} c`]);
      }
      const failing = mirror.renameInOrder([
        [{ from: stagingPath('0'.repeat(64)), to: at('a') }],
        [{ from: await stage('third'), to: at('c') }],
      ]);
      await assert.rejects(failing, failsWith('MIRROR_MISSING'));
      assert.deepEqual([await read('a'), await read('c')], ['second a', 'second c']);
      const astray = mirror.renameInOrder([[{ from: await stage('x'), to: 'none/x' }]]);
      await assert.rejects(astray, failsWith('MIRROR_MISSING'));
      await mirror.renameInOrder([]);
    });

    test('what was left unreadable becomes readable with new content', async (t) => {
      const { mirror, folder } = await setUp(t);
      await mirror.makeFolder('a');
      await mirror.makeFolder('a/b');
      const modeOf = async (name: string) => (await stat(join(folder, name))).mode & 0o777;
      await mirror.put(sourceOf(Buffer.from('old')), 'a/file');
      await chmod(join(folder, 'a/file'), 0o600);
      await mirror.put(sourceOf(Buffer.from('new')), 'a/file');
      assert.equal(await readFile(join(folder, 'a/file'), 'utf8'), 'new');
      assert.deepEqual([await modeOf('a'), await modeOf('a/b')], [0o755, 0o755]);
      assert.equal(await modeOf('a/file'), 0o644);
    });

    test('makes folders beside each other at the same time, and none through a file', async (t) => {
      const { mirror, folder } = await setUp(t);
      const names = Array.from({ length: 20 }, (_, index) => `a/b/c${index % 3}/d${index}`);
      await Promise.all(names.map((name) => mirror.makeFolder(name)));
      for (const name of names) assert.ok((await stat(join(folder, name))).isDirectory());
      await mirror.put(sourceOf(Buffer.from('x')), 'a/file');
      await assert.rejects(mirror.makeFolder('a/file/b/c'), failsWith('MIRROR_DAMAGED'));
    });

    test('makes folders with those above them, and removes empty ones', async (t) => {
      const { mirror, folder } = await setUp(t);
      await mirror.makeFolder('');
      await mirror.makeFolder('a/b/c');
      await mirror.makeFolder('a/b/c');
      await writeFile(join(folder, 'a/file'), '');
      await assert.rejects(mirror.makeFolder('a/file'), failsWith('MIRROR_DAMAGED'));
      assert.equal(await mirror.removeFolder('a/b'), false);
      assert.equal(await mirror.removeFolder('a/b/c'), true);
      assert.equal(await mirror.removeFolder('a/b'), true);
      assert.equal(await mirror.removeFolder('a/b'), true);
      assert.deepEqual(await readdir(join(folder, 'a')), ['file']);
      await assert.rejects(mirror.removeFolder('a/file'), failsWith('MIRROR_DAMAGED'));
    });

    test('removes files, and is content where there is none', async (t) => {
      const { mirror, folder } = await setUp(t);
      await writeFile(join(folder, 'file'), '');
      await mirror.remove('file');
      await mirror.remove('file');
      assert.deepEqual(await readdir(folder), []);
    });

    test('refuses paths that leave the root, before anything is sent', async (t) => {
      const { mirror } = await setUp(t);
      const source = sourceOf(Buffer.from('x'));
      for (const path of ['../x', 'a/../../x', '/x', 'a//b', './a', 'a/', '..', 'a\0b']) {
        for (const attempt of [
          () => mirror.stat(path),
          () => mirror.list(path),
          () => mirror.read(path, { maxBytes: 1 }),
          () => mirror.hash(path),
          () => mirror.put(source, path),
          () => mirror.write(path, []),
          () => mirror.rename(path, 'a'),
          () => mirror.rename('a', path),
          () => mirror.link(path, 'a'),
          () => mirror.link('a', path),
          () => mirror.copy(path, 'a'),
          () => mirror.copy('a', path),
          () => mirror.remove(path),
          () => mirror.makeFolder(path),
          () => mirror.removeFolder(path),
          () => mirror.sync(path),
        ]) {
          await assert.rejects(attempt, failsWith('MIRROR_DAMAGED', /leaves the mirror/));
        }
      }
    });

    test('runs many operations at once', async (t) => {
      const { mirror, folder } = await setUp(t);
      const names = Array.from({ length: 1500 }, (_, index) => `file-${index}`);
      await Promise.all(names.map((each) => mirror.put(sourceOf(Buffer.from(each)), each)));
      assert.deepEqual((await readdir(folder)).sort(), [...names].sort());
      const hashes = await Promise.all(names.map((each) => mirror.hash(each)));
      assert.deepEqual(
        hashes.map((hash) => hash?.sha256),
        names.map((each) => sha256(Buffer.from(each))),
      );
    });

    test('ends operations with the reason of their signal', async (t) => {
      const { mirror } = await setUp(t);
      const reason = new Error('superseded');
      const signal = AbortSignal.abort(reason);
      const isReason = (error: unknown) => error === reason;
      await assert.rejects(mirror.stat('', { signal }), isReason);
      for (const when of ['reading', 'acknowledged']) {
        const stop = new AbortController();
        const source: PutSource = {
          size: 2 ** 40,
          read: async (offset, length) => {
            if (when === 'reading' && offset > 0) stop.abort(reason);
            return Buffer.alloc(length);
          },
        };
        const onBytes = () => {
          if (when === 'acknowledged') stop.abort(reason);
        };
        const put = mirror.put(source, 'endless', { signal: stop.signal, onBytes });
        await assert.rejects(put, isReason);
      }
      assert.equal((await mirror.stat(''))?.kind, 'folder');
    });

    test('syncs files and folders', async (t) => {
      const { mirror, folder } = await setUp(t);
      await writeFile(join(folder, 'file'), 'x');
      await mirror.sync('file');
      await mirror.sync('');
      if (extensions) await assert.rejects(mirror.sync('none'), failsWith('MIRROR_MISSING'));
    });

    test('tells what it can do', async (t) => {
      const { mirror } = await setUp(t);
      const { software, ...can } = await mirror.capabilities();
      assert.match(software, itsName);
      const all = { atomicReplace: true, sync: true, link: true, copy: true };
      const none = { atomicReplace: false, sync: false, link: false, copy: false };
      assert.deepEqual(can, extensions ? all : none);
      const room = await mirror.space();
      if (space) assert.ok(room !== undefined && room.free > 0 && !room.readOnly);
      else assert.equal(room, undefined);
    });

    test('links and copies on the far side, or says that it cannot', async (t) => {
      const { mirror, folder } = await setUp(t);
      const content = randomBytes(35 * 2 ** 20 + 5);
      await writeFile(join(folder, 'file'), content);
      await writeFile(join(folder, 'copy'), randomBytes(40 * 2 ** 20));
      assert.equal(await mirror.link('file', 'link'), extensions);
      assert.equal(await mirror.copy('file', 'copy'), extensions);
      if (!extensions) {
        assert.deepEqual((await readdir(folder)).sort(), ['copy', 'file']);
        return;
      }
      assert.equal((await stat(join(folder, 'file'))).nlink, 2);
      assert.ok((await readFile(join(folder, 'link'))).equals(content));
      assert.ok((await readFile(join(folder, 'copy'))).equals(content));
      await assert.rejects(mirror.link('none', 'other'), failsWith('MIRROR_MISSING'));
      await assert.rejects(mirror.copy('none', 'other'), failsWith('MIRROR_MISSING'));
    });

    test('refuses everything once it is closed', async (t) => {
      const { mirror } = await setUp(t);
      await mirror.stat('');
      await mirror.close();
      await mirror.close();
      await assert.rejects(mirror.stat(''), failsWith('MIRROR_DOWN'));
    });
  });
}

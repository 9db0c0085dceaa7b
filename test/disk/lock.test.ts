import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { acquireLock } from '../../src/disk/lock.js';
import { kill, said, startChild } from '../support/children.js';
import { temporaryFolder } from '../support/temporary.js';

/** What is in the lock folder of `root`. */
async function namesIn(root: string): Promise<string[]> {
  return (await readdir(join(root, '.lxd-image-server'))).sort();
}

/** A root in which `lock.<number>` has `content`. */
async function rootWith(t: TestContext, content: string, number = 7): Promise<string> {
  const root = await temporaryFolder(t);
  await mkdir(join(root, '.lxd-image-server'));
  await writeFile(join(root, `.lxd-image-server/lock.${number}`), content);
  return root;
}

/** How this process stands in a lock that it holds. */
async function ownHolder(t: TestContext): Promise<Record<string, unknown>> {
  const root = await temporaryFolder(t);
  const lock = await acquireLock(root);
  const text = await readFile(join(root, '.lxd-image-server/lock.1'), 'utf8');
  await lock.release();
  return JSON.parse(text) as Record<string, unknown>;
}

function busy(pid: number | undefined) {
  return {
    name: 'ServerError',
    code: 'BUSY',
    message: `Another lxd-image-server (process ${pid}) is at work here`,
  };
}

/** A process that holds the lock of `root`, and is killed after the test if not before. */
async function startHolder(t: TestContext, root: string): Promise<ChildProcess> {
  const holder = startChild('hold', root);
  t.after(() => kill(holder));
  await said(holder);
  return holder;
}

describe('a lock', () => {
  test('is refused to another process, which is told who has it', async (t) => {
    const root = await temporaryFolder(t);
    const holder = await startHolder(t, root);
    await assert.rejects(acquireLock(root), busy(holder.pid));
    assert.deepEqual(await namesIn(root), ['lock.1']);
  });

  test('is refused to the process that has it already', async (t) => {
    const root = await temporaryFolder(t);
    const lock = await acquireLock(root);
    await assert.rejects(acquireLock(root), busy(process.pid));
    await lock.release();
  });

  test('is free once it is released; numbers grow, and old files go', async (t) => {
    const root = await temporaryFolder(t);
    for (const number of [1, 2, 3]) {
      const lock = await acquireLock(root);
      assert.deepEqual(await namesIn(root), [`lock.${number}`]);
      await lock.release();
      assert.deepEqual(await namesIn(root), [`lock.${number}`]);
    }
  });

  test('that is released twice does not free that of a later holder', async (t) => {
    const root = await temporaryFolder(t);
    const first = await acquireLock(root);
    await first.release();
    const second = await acquireLock(root);
    await first.release();
    await assert.rejects(acquireLock(root), busy(process.pid));
    await second.release();
  });

  test('can be released though its folder is gone', async (t) => {
    const root = await temporaryFolder(t);
    const lock = await acquireLock(root);
    await rm(join(root, '.lxd-image-server'), { recursive: true });
    await lock.release();
  });

  test('of a killed process is free', async (t) => {
    const root = await temporaryFolder(t);
    await kill(await startHolder(t, root));
    const lock = await acquireLock(root);
    assert.deepEqual(await namesIn(root), ['lock.2']);
    await lock.release();
  });

  test('of a killed process is free though no one has taken note of its end', async (t) => {
    const root = await temporaryFolder(t);
    const { parent, pid } = await startUnattendedHolder(root);
    t.after(() => kill(parent));
    process.kill(pid, 'SIGKILL');
    await untilZombie(pid);
    const lock = await acquireLock(root);
    await lock.release();
  });

  test('of one root is nothing to another root', async (t) => {
    const locks = [
      await acquireLock(await temporaryFolder(t)),
      await acquireLock(await temporaryFolder(t)),
    ];
    for (const lock of locks) await lock.release();
  });
});

/** A holder whose parent never asks what has become of it: the parent turns into `sleep`. */
async function startUnattendedHolder(root: string): Promise<{ parent: ChildProcess; pid: number }> {
  const code = `
    const { acquireLock } = await import(process.argv[1]);
    await acquireLock(process.argv[2]);
    console.log(process.pid);
    setInterval(() => {}, 1000);`;
  const script = '"$@" & exec sleep 600';
  const module = new URL('../../src/disk/lock.js', import.meta.url).href;
  const holder = [process.execPath, '--input-type=module', '-e', code, module, root];
  const parent = spawn('sh', ['-c', script, 'sh', ...holder], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [pid] = (await once(parent.stdout, 'data')) as [Buffer];
  return { parent, pid: Number(pid.toString()) };
}

/** Waits until all threads of a process have ended, of which its first is the last to be seen. */
async function untilZombie(pid: number): Promise<void> {
  const isOver = async () => {
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    return /^State:\s+Z/m.test(status) && /^Threads:\s+1$/m.test(status);
  };
  while (!(await isOver())) await new Promise(setImmediate);
}

describe('a lock file', () => {
  test('that names this very process holds', async (t) => {
    const root = await rootWith(t, JSON.stringify(await ownHolder(t)));
    await assert.rejects(acquireLock(root), busy(process.pid));
  });

  const others = [
    {
      what: 'an earlier boot of the host',
      change: { boot: '01234567-89ab-cdef-0123-456789abcdef' },
    },
    { what: 'an earlier process of the same number', change: { started: '1' } },
    { what: 'a process that is no more', change: { pid: 2 ** 22 + 1 } },
  ];
  for (const { what, change } of others) {
    test(`of ${what} holds nothing`, async (t) => {
      const root = await rootWith(t, JSON.stringify({ ...(await ownHolder(t)), ...change }));
      const lock = await acquireLock(root);
      assert.deepEqual(await namesIn(root), ['lock.8']);
      await lock.release();
    });
  }

  const garbage = [
    '',
    'x',
    '\0\0\0\0',
    '{"pid":',
    '{}',
    'null',
    '5',
    '[]',
    '"gone"',
    '"free"',
    '{"pid":1}',
  ];
  for (const content of garbage) {
    test(`of ${JSON.stringify(content)} holds nothing`, async (t) => {
      const root = await rootWith(t, content);
      const lock = await acquireLock(root);
      assert.deepEqual(await namesIn(root), ['lock.8']);
      await lock.release();
    });
  }

  test('of the highest number counts, by value and not by spelling', async (t) => {
    const root = await rootWith(t, JSON.stringify(await ownHolder(t)), 9);
    await writeFile(join(root, '.lxd-image-server/lock.10'), '');
    const lock = await acquireLock(root);
    assert.deepEqual(await namesIn(root), ['lock.11']);
    await lock.release();
  });

  test('is told from other things in the folder, which stay', async (t) => {
    const root = await rootWith(t, '');
    const others = ['lock.99.bak', 'manifest.json', 'xlock.50'];
    for (const name of others) await writeFile(join(root, '.lxd-image-server', name), '');
    const lock = await acquireLock(root);
    assert.deepEqual(await namesIn(root), [...others, 'lock.8'].sort());
    await lock.release();
  });
});

test('a root that is missing is not made', async (t) => {
  const root = join(await temporaryFolder(t), 'root');
  await assert.rejects(acquireLock(root), { name: 'ServerError', code: 'NOT_INITIALISED' });
  await assert.rejects(stat(root), { code: 'ENOENT' });
});

test('a root that is a file is said to be one', async (t) => {
  const root = join(await temporaryFolder(t), 'root');
  await writeFile(root, '');
  await assert.rejects(acquireLock(root), { name: 'ServerError', code: 'CONFIG' });
});

test('many processes at once never hold it together', async (t) => {
  const root = await temporaryFolder(t);
  const counter = join(root, 'counter');
  await writeFile(counter, '0');
  const [processes, turns] = [20, 10];
  const children = Array.from({ length: processes }, () =>
    startChild('count', root, counter, String(turns)),
  );
  t.after(() => Promise.all(children.map(kill)));
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0]));
  assert.deepEqual(codes, Array(processes).fill(0));
  assert.equal(await readFile(counter, 'utf8'), String(processes * turns));
  assert.deepEqual(await namesIn(root), [`lock.${processes * turns}`]);
});

test('a draft that a kill has left is swept after a minute', async (t) => {
  const root = await temporaryFolder(t);
  const folder = join(root, '.lxd-image-server');
  await mkdir(folder);
  const now = Date.now() / 1000;
  for (const [name, age] of [
    ['.draft.old', 61],
    ['.draft.new', 5],
  ] as const) {
    await writeFile(join(folder, name), '');
    await utimes(join(folder, name), now - age, now - age);
  }
  const lock = await acquireLock(root);
  t.after(() => lock.release());
  assert.deepEqual((await readdir(folder)).sort(), ['.draft.new', 'lock.1']);
});

test('a file with a number that is none locks nobody out', async (t) => {
  const root = await rootWith(t, '');
  await writeFile(join(root, '.lxd-image-server/lock.99999999999999999999999'), '');
  const lock = await acquireLock(root);
  await lock.release();
});

test('a lock folder is for all to read, whatever the umask', async (t) => {
  const root = await temporaryFolder(t);
  const before = process.umask(0o077);
  t.after(() => process.umask(before));
  await (await acquireLock(root)).release();
  assert.equal((await stat(join(root, '.lxd-image-server'))).mode & 0o777, 0o755);
});

/** Whatever happens to the tree, the disk and the clock while the daemon runs, it ends in the right documents. */
import assert from 'node:assert/strict';
import { utimesSync } from 'node:fs';
import { appendFile, cp, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { findProgram, outcome, run } from '../support/command.js';
import {
  assertAsRebuilt,
  type Daemon,
  type DaemonOptions,
  daemonConfig,
  emptyRoot,
  shows,
  startDaemon,
} from '../support/daemon.js';
import { addVersion, splitImage, squashfs, writeFiles } from '../support/image-tree.js';
import { needs, needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';
import { needsUserNamespaces } from '../support/watching.js';

const userNamespaces = await needsUserNamespaces();
const options = { concurrency: 6, timeout: 120_000 };

/** As pino counts levels. */
const warning = 40;

interface Site {
  root: string;
  images: string;
  daemon: Daemon;
  /** Waits until these are published, `one/20260101` for that version of `demo/one/amd64/default`. */
  published(...names: string[]): Promise<void>;
  add(name: string): Promise<string>;
  /** Ends the daemon in good order, and sees that nothing is left to publish. */
  end(): Promise<void>;
}

async function startSite(t: TestContext, daemonOptions: DaemonOptions = {}): Promise<Site> {
  return await siteAt(t, await emptyRoot(t), daemonOptions);
}

async function siteAt(t: TestContext, root: string, daemonOptions: DaemonOptions): Promise<Site> {
  const daemon = await startDaemon(t, root, daemonOptions);
  return {
    root,
    images: join(root, 'images'),
    daemon,
    published: (...names) => daemon.until(shows(root, ...names.map(idOf))),
    add: (name) => addVersion(root, pathOf(name)),
    async end() {
      assert.equal(await daemon.end(), 0);
      await assertAsRebuilt(root, daemonOptions.home);
    },
  };
}

/** `two/20260101` stands for `demo/two/amd64/default/20260101`; so does that with its environment. */
function pathOf(name: string): string {
  const [release = '', version = '', env = 'demo'] = name.split('/');
  return `${env}/${release}/amd64/default/${version}`;
}

function idOf(name: string): string {
  const [env, release, arch, type, version] = pathOf(name).split('/');
  return `${[env, release, arch, type].join(':')}/${version}`;
}

/** Waits for a failure to publish, and gives what the status says of it. */
async function waiting(daemon: Daemon): Promise<string> {
  await daemon.event('cannot publish; it is tried again');
  const { activity } = await daemon.status();
  assert.equal(activity.doing, 'waiting');
  return activity.detail ?? '';
}

describe('what is published is taken up again', options, () => {
  test('when a file of it grows, comes to it, or is replaced', async (t) => {
    const { root, daemon, published, add, end } = await startSite(t);
    await add('one/20251231');
    const folder = await add('one/20260101');
    const names = ['one/20251231', 'one/20260101'];
    await published(...names);
    /** Waits until `images.json` has `text`, and is right. */
    const says = async (text: string) => {
      const read = () => readFile(join(root, 'streams/v1/images.json'), 'utf8');
      await daemon.until(async () => (await read()).includes(text));
      await published(...names);
    };
    await writeFiles(folder, { 'notes.txt': 'x'.repeat(321) });
    await says('"size":321}');
    await appendFile(join(folder, 'notes.txt'), 'more');
    await says('"size":325}');
    await writeFiles(folder, { 'rootfs.20251231.vcdiff': 'd'.repeat(777) });
    await says('"size":777}');
    const source = await temporaryFolder(t);
    await cp(folder, source, { recursive: true });
    await writeFiles(source, { 'rootfs.squashfs': squashfs('other', 2000) });
    await run('rsync', ['-a', `${source}/`, `${folder}/`]);
    await says('"size":2000}');
    await end();
  });

  test('when the version that it links to changes, moves away and comes back', async (t) => {
    const { root, images, daemon, published, add, end } = await startSite(t);
    const target = await add('one/20260101');
    await mkdir(join(images, 'demo/two/amd64/default'), { recursive: true });
    await symlink('../../../one/amd64/default/20260101', join(images, pathOf('two/20260101')));
    await published('one/20260101', 'two/20260101');
    const { 'rootfs.squashfs': other = '' } = await splitImage('another');
    await writeFiles(target, { 'rootfs.squashfs': other });
    await daemon.event('published');
    await published('one/20260101', 'two/20260101');
    await writeFiles(target, { 'notes.txt': 'new' });
    const count = async () => {
      const text = await readFile(join(root, 'streams/v1/images.json'), 'utf8');
      return (text.match(/notes\.txt"/g) ?? []).length;
    };
    await daemon.until(async () => (await count()) >= 4);
    await rename(target, `${target}.part`);
    await published();
    await rename(`${target}.part`, target);
    await published('one/20260101', 'two/20260101');
    await end();
  });

  test('under the name to which a product, a release or an environment was moved, and back', async (t) => {
    const { images, published, add, end } = await startSite(t);
    await add('one/20260101');
    await add('two/20260101');
    await published('one/20260101', 'two/20260101');
    const move = (from: string, to: string) => rename(join(images, from), join(images, to));
    await mkdir(join(images, 'demo/three/amd64'), { recursive: true });
    const products = ['demo/one/amd64/default', 'demo/three/amd64/default'] as const;
    await move(...products);
    await published('three/20260101', 'two/20260101');
    await move(products[1], products[0]);
    await published('one/20260101', 'two/20260101');
    await move('demo/one', 'demo/four');
    await published('four/20260101', 'two/20260101');
    await move('demo/four', 'demo/one');
    await published('one/20260101', 'two/20260101');
    await move('demo', 'other');
    await published('one/20260101/other', 'two/20260101/other');
    await move('other', 'demo');
    await published('one/20260101', 'two/20260101');
    await end();
  });

  test('when two products swap their names', async (t) => {
    const { images, daemon, published, add, end } = await startSite(t);
    await add('one/20260101');
    await add('two/20260102');
    await published('one/20260101', 'two/20260102');
    const [one, two] = ['one', 'two'].map((name) => join(images, `demo/${name}/amd64/default`));
    await rename(one as string, join(images, '.aside'));
    await rename(two as string, one as string);
    await rename(join(images, '.aside'), two as string);
    await daemon.until(shows(join(images, '..'), idOf('one/20260102'), idOf('two/20260101')));
    await end();
  });

  test('where the images folder is a link, and leads elsewhere', async (t) => {
    const root = await emptyRoot(t);
    const lead = async (name: string) => {
      await mkdir(join(root, name), { recursive: true });
      await symlink(name, join(root, 'link'));
      await rename(join(root, 'link'), join(root, 'images'));
    };
    await rm(join(root, 'images'), { recursive: true });
    await lead('some');
    const { published, add, end } = await siteAt(t, root, {});
    await add('one/20260101');
    await published('one/20260101');
    await lead('others');
    await published();
    await add('two/20260101');
    await published('two/20260101');
    await lead('some');
    await published('one/20260101');
    await add('one/20260102');
    await published('one/20260101', 'one/20260102');
    await end();
  });

  test('when it is deleted and made anew at once, again and again', async (t) => {
    const { images, daemon, published, add, root, end } = await startSite(t);
    await add('one/20260101');
    await published('one/20260101');
    for (let time = 1; time <= 20; time += 1) {
      await rm(join(images, pathOf('one/20260101')), { recursive: true });
      const image = await splitImage(`time ${time}`);
      await addVersion(root, pathOf('one/20260101'), { ...image, [`notes-${time}`]: 'x' });
    }
    await daemon.until(async () =>
      (await readFile(join(root, 'streams/v1/images.json'), 'utf8')).includes('notes-20'),
    );
    await published('one/20260101');
    await end();
  });

  test('but for what is removed with its environment while others are uploaded', async (t) => {
    const { root, images, published, add, end } = await startSite(t);
    const numbers = Array.from({ length: 30 }, (_, number) => `r${number}/20260101`);
    await Promise.all(numbers.map((name) => add(`${name}/gone`)));
    await published(...numbers.map((name) => `${name}/gone`));
    const removing = run('rm', ['-rf', join(images, 'gone')]);
    const adding = numbers.map((name) => addVersion(root, pathOf(`${name}/kept`)));
    await Promise.all([removing, ...adding]);
    await published(...numbers.map((name) => `${name}/kept`));
    await end();
  });
});

describe('the daemon catches up', options, () => {
  test('with what changed while it was down', async (t) => {
    const { root, images, published, add, end } = await startSite(t);
    await add('one/20260101');
    await add('two/20260101');
    await add('three/20260101');
    await published('one/20260101', 'two/20260101', 'three/20260101');
    await end();
    await rm(join(images, 'demo/one'), { recursive: true });
    await rename(join(images, 'demo/two'), join(images, 'demo/four'));
    await writeFile(join(images, pathOf('three/20260101'), 'rootfs.squashfs'), squashfs('new'));
    await add('five/20260101');
    const later = await siteAt(t, root, {});
    await later.published('four/20260101', 'three/20260101', 'five/20260101');
    await later.end();
  });

  test('when more has changed than the kernel told of', async (t) => {
    const { images, daemon, published, add, end } = await startSite(t);
    const folder = await add('one/20260101');
    await published('one/20260101');
    const most = Number(await readFile('/proc/sys/fs/inotify/max_queued_events', 'utf8'));
    daemon.signal('SIGSTOP');
    const names = ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => join(folder, name));
    for (let event = 0; event <= most + 100; event += 1) {
      utimesSync(names[event % 2] as string, 1, event);
    }
    await add('two/20260101');
    await rm(join(images, 'demo/one'), { recursive: true });
    daemon.signal('SIGCONT');
    await published('two/20260101');
    await add('two/20260102');
    await published('two/20260101', 'two/20260102');
    await end();
  });

  test('by itself where not everything can be watched, and says so once with the cure', {
    ...userNamespaces,
  }, async (t) => {
    const limit = 'echo 12 > /proc/sys/user/max_inotify_watches && exec "$@"';
    const runner = ['unshare', '--user', '--map-root-user', 'sh', '-c', limit, 'sh'];
    const { daemon, published, add, end } = await startSite(t, { runner });
    const names = Array.from({ length: 5 }, (_, number) => `r${number}/20260101`);
    for (const name of names) await add(name);
    await published(...names);
    const { watching } = await daemon.status();
    assert.equal(watching.mode, 'timer');
    assert.match(watching.reason ?? '', /fs\.inotify\.max_user_watches/);
    await add('r4/20260102');
    await published(...names, 'r4/20260102');
    const warnings = daemon.events.filter(({ level }) => level >= warning);
    assert.equal(warnings.length, 1, JSON.stringify(warnings));
    await end();
  });
});

describe('the daemon outlives', { ...options, ...needsRoot('mount', 'umount') }, () => {
  /** Mounts an empty file system at a folder until the test is over. */
  function mounts(t: TestContext) {
    const points: string[] = [];
    t.after(async () => {
      for (const point of points.reverse()) await outcome('umount', ['--lazy', point]);
    });
    return async (folder: string, ...args: string[]) => {
      await mkdir(folder, { recursive: true });
      points.push(folder);
      await run('mount', args.length > 0 ? [...args, folder] : ['-t', 'tmpfs', 'test', folder]);
    };
  }

  for (const place of ['images', '']) {
    const what = place === '' ? 'root' : 'images folder';
    test(`its ${what} being unmounted, and mounted again with something else in it`, async (t) => {
      const mount = mounts(t);
      const above = await temporaryFolder(t);
      const [root, home] = [join(above, 'root'), join(above, 'home')];
      const point = join(root, place);
      await mkdir(home);
      await mount(point);
      await mkdir(join(root, 'images'), { recursive: true });
      const { daemon, published, add, end } = await siteAt(t, root, { home });
      await add('one/20260101');
      await published('one/20260101');
      await run('umount', ['--lazy', point]);
      if (place === '') assert.match(await waiting(daemon), /no such file or folder.*mount/i);
      else await published();
      await mount(point);
      await mkdir(join(root, 'images'), { recursive: true });
      await add('two/20260101');
      await published('two/20260101');
      await add('two/20260102');
      await published('two/20260101', 'two/20260102');

      // Something else is mounted over it, without a word, and is gone again.
      const other = join(above, 'other');
      await addVersion(place === '' ? other : join(other, '..', 'tree'), pathOf('three/20260101'));
      await mount(point, '--bind', place === '' ? other : join(above, 'tree/images'));
      await published('three/20260101');
      await add('three/20260102');
      await published('three/20260101', 'three/20260102');
      await run('umount', ['--lazy', point]);
      await published('two/20260101', 'two/20260102');
      await add('four/20260101');
      await published('two/20260101', 'two/20260102', 'four/20260101');
      await end();
    });
  }

  test('an environment that is mounted, unmounted, and mounted again with something else', async (t) => {
    const mount = mounts(t);
    const { images, daemon, published, add, end } = await startSite(t);
    const noticed = () =>
      daemon.event('another file system or folder is in place; the tree is looked at again');
    await add('one/20260101');
    const disk = join(images, 'disk');
    await mount(disk);
    await noticed();
    await add('two/20260101/disk');
    await published('one/20260101', 'two/20260101/disk');
    await run('umount', ['--lazy', disk]);
    await published('one/20260101');
    await noticed();
    await mount(disk);
    await add('two/20260102/disk');
    await published('one/20260101', 'two/20260102/disk');
    await noticed();
    await add('two/20260103/disk');
    await published('one/20260101', 'two/20260102/disk', 'two/20260103/disk');
    await end();
  });

  test('its streams folder being gone, read-only and full', async (t) => {
    const mount = mounts(t);
    const root = await emptyRoot(t);
    const { daemon, published, add, end } = await siteAt(t, root, {});
    const streams = join(root, 'streams/v1');
    await add('one/20260101');
    await published('one/20260101');

    await rm(join(root, 'streams'), { recursive: true });
    await add('two/20260101');
    await published('one/20260101', 'two/20260101');

    await mount(streams, '-t', 'tmpfs', '-o', 'ro', 'test');
    await add('three/20260101');
    assert.match(await waiting(daemon), /read-only.*; /i);
    await run('umount', [streams]);
    await published('one/20260101', 'two/20260101', 'three/20260101');

    await mount(streams, '-t', 'tmpfs', '-o', 'size=64k', 'test');
    await writeFile(join(streams, 'ballast'), Buffer.alloc(64 * 1024)).catch(() => undefined);
    await add('four/20260101');
    assert.match(await waiting(daemon), /no space left.*; /i);
    await rm(join(streams, 'ballast'));
    await published('one/20260101', 'two/20260101', 'three/20260101', 'four/20260101');
    await run('umount', [streams]);
    await add('five/20260101');
    const names = ['one', 'two', 'three', 'four', 'five'].map((name) => `${name}/20260101`);
    await published(...names);
    await end();
  });

  test('its state folder being gone, read-only and full', async (t) => {
    const mount = mounts(t);
    const root = await emptyRoot(t);
    const site = await siteAt(t, root, {});
    const state = join(root, 'state');
    await site.add('one/20260101');
    await site.published('one/20260101');
    await rm(state, { recursive: true, force: true });
    await site.end();
    let names = ['one/20260101'];
    for (const [index, option] of ['ro', 'size=4k'].entries()) {
      await mount(state, '-t', 'tmpfs', '-o', option, 'test');
      if (option !== 'ro') {
        await writeFile(join(state, 'ballast'), Buffer.alloc(4096)).catch(() => undefined);
      }
      const later = await siteAt(t, root, {});
      names = [...names, `r${index}/20260101`];
      await later.add(`r${index}/20260101`);
      await later.published(...names);
      assert.equal(await later.daemon.end(), 0);
      const told = later.daemon.events.filter(({ level }) => level >= warning);
      assert.ok(told.length >= 1, 'a warning');
      assert.ok(
        told.every(({ cure }) => typeof cure === 'string' && cure !== ''),
        JSON.stringify(told),
      );
      await run('umount', [state]);
      await assertAsRebuilt(root);
    }
    const mended = await siteAt(t, root, {});
    await mended.add('last/20260101');
    await mended.published(...names, 'last/20260101');
    await mended.end();
    const told = mended.daemon.events.filter(({ level }) => level >= warning);
    assert.deepEqual(told, []);
  });
});

describe('a clock that jumps', { ...options, ...needs('faketime') }, () => {
  const library = '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1';

  for (const jump of ['+5h', '-5h']) {
    test(`by ${jump} and back keeps nothing from being published, even what is settling`, async (t) => {
      assert.ok(findProgram('faketime'));
      const root = await emptyRoot(t);
      const clock = join(root, 'clock');
      await writeFile(clock, '+0\n');
      const env = {
        LD_PRELOAD: library,
        FAKETIME_TIMESTAMP_FILE: clock,
        FAKETIME_NO_CACHE: '1',
        FAKETIME_DONT_FAKE_MONOTONIC: '1',
        DONT_FAKE_MONOTONIC: '1',
        NO_FAKE_STAT: '1',
      };
      const { daemon, published, add, end } = await siteAt(t, root, { env, settle: '1h' });
      const isSettling = async () =>
        (await daemon.status()).held.some((h) => h.code === 'settling');
      await add('one/20260101');
      await daemon.until(isSettling);
      await writeFile(clock, `${jump}\n`);
      const { seconds } = await daemon.event('the clock has jumped; the tree is looked at again');
      assert.ok(Math.abs(Number(seconds) - (jump.startsWith('+') ? 18_000 : -18_000)) < 60);
      await published('one/20260101');
      await add('two/20260101');
      await published('one/20260101', 'two/20260101');
      await writeFile(clock, '+0\n');
      await daemon.event('the clock has jumped; the tree is looked at again');
      await published('one/20260101', 'two/20260101');
      await daemonConfig(root, { settle: '0s' });
      await end();
    });
  }
});

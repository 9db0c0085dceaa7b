import assert from 'node:assert/strict';
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { listProducts, type ProductAddress, scanProduct } from '../../src/disk/scan.js';
import { createTreeWatcher } from '../../src/disk/watch.js';
import { fittingLimit } from '../../src/disk/watch-limits.js';
import { ServerError } from '../../src/errors.js';
import { run } from '../support/command.js';
import { memoryLog } from '../support/memory-log.js';
import { mounting } from '../support/mounting.js';
import { needsRoot } from '../support/programs.js';
import { outgrow, unsettle } from '../support/restless-tree.js';
import { temporaryFolder } from '../support/temporary.js';
import {
  needsUserNamespaces,
  put,
  type Said,
  soon,
  watchInProcess,
  watchTree,
} from '../support/watching.js';

const product = 'demo/noble/amd64/default';
const other = 'demo/noble/amd64/cloud';
const files = [
  `${product}/20260101/lxd.tar.xz`,
  `${product}/20260102/lxd.tar.xz`,
  `${other}/20260101/lxd.tar.xz`,
  'test/jammy/arm64/default/20260101/lxd.tar.xz',
];

async function imagesFolder(t: Pick<TestContext, 'after'>): Promise<string> {
  const images = join(await temporaryFolder(t), 'images');
  for (const file of files) put(join(images, file));
  return images;
}

type Step = (images: string) => void;

interface Case {
  name: string;
  /** What is there already when watching begins, on top of {@link files}. */
  before?: Step;
  change: Step;
  told: string[];
}

const remove = (path: string) => rmSync(path, { recursive: true });

const cases: Case[] = [
  {
    name: 'a new version',
    change: (images) => mkdirSync(join(images, product, '20260103')),
    told: [product],
  },
  {
    name: 'a new file in a version',
    change: (images) => put(join(images, product, '20260101/rootfs.squashfs')),
    told: [product],
  },
  {
    name: 'a file that grows',
    change: (images) => appendFileSync(join(images, files[0] as string), 'more'),
    told: [product],
  },
  {
    name: 'a file replaced by renaming',
    before: (images) => put(join(images, product, '20260101/lxd.tar.xz.part')),
    change(images) {
      const path = join(images, files[0] as string);
      renameSync(`${path}.part`, path);
    },
    told: [product],
  },
  {
    name: 'permissions of a file, of a version, of a product',
    change(images) {
      chmodSync(join(images, files[0] as string), 0o600);
      chmodSync(join(images, other, '20260101'), 0o700);
      chmodSync(join(images, 'test/jammy/arm64/default'), 0o700);
    },
    told: [other, product, 'test/jammy/arm64/default'],
  },
  {
    name: 'permissions of an environment',
    change: (images) => chmodSync(join(images, 'demo'), 0o700),
    told: ['demo'],
  },
  {
    name: 'a removed file',
    change: (images) => remove(join(images, files[0] as string)),
    told: [product],
  },
  {
    name: 'a removed version',
    change: (images) => remove(join(images, product, '20260101')),
    told: [product],
  },
  {
    name: 'product.yaml',
    change: (images) => put(join(images, product, 'product.yaml')),
    told: [product],
  },
  {
    name: 'a version that moves to another product',
    change: (images) =>
      renameSync(join(images, product, '20260101'), join(images, other, '20260109')),
    told: [other, product],
  },
  {
    name: 'a version that was hidden and gets its name',
    before: (images) => put(join(images, product, '.20260103/lxd.tar.xz')),
    change: (images) =>
      renameSync(join(images, product, '.20260103'), join(images, product, '20260103')),
    told: [product],
  },
  {
    name: 'a product that moves to another environment',
    change: (images) => renameSync(join(images, product), join(images, 'test/jammy/arm64/moved')),
    told: [product, 'test/jammy/arm64/moved'],
  },
  {
    name: 'an environment that is renamed',
    change: (images) => renameSync(join(images, 'test'), join(images, 'live')),
    told: ['live', 'test'],
  },
  {
    name: 'two environments that change places',
    change(images) {
      renameSync(join(images, 'test'), join(images, '.aside'));
      renameSync(join(images, 'demo'), join(images, 'test'));
      renameSync(join(images, '.aside'), join(images, 'demo'));
    },
    told: ['demo', 'test'],
  },
  {
    name: 'an environment that comes whole',
    before: (images) => put(join(images, '.new/noble/amd64/default/20260101/lxd.tar.xz')),
    change: (images) => renameSync(join(images, '.new'), join(images, 'new')),
    told: ['new'],
  },
  {
    name: 'an image file in the wrong place',
    change: (images) => put(join(images, 'demo/noble/lxd.tar.xz')),
    told: ['demo/noble'],
  },
  {
    name: 'nothing, where only hidden things change',
    before: (images) => put(join(images, product, '.hidden/file')),
    change(images) {
      put(join(images, product, '.hidden/other'));
      put(join(images, product, '.file'));
      put(join(images, '.env/release/file'));
      remove(join(images, product, '.hidden'));
    },
    told: [],
  },
];

suite('a watcher tells of', () => {
  for (const { name, before, change, told } of cases) {
    test(name, async (t) => {
      const images = await imagesFolder(t);
      before?.(images);
      const { settled } = await watchTree(t, images);
      assert.deepEqual(await settled(), [], 'before the change');
      change(images);
      assert.deepEqual(await settled(), told);
      assert.deepEqual(await settled(), [], 'later');
      await assertAllWatched(images, settled);
    });
  }
});

/** Every folder below the products is watched: a new file in each is told. */
async function assertAllWatched(images: string, settled: () => Promise<string[]>): Promise<void> {
  for (const { path, versions } of productsOf(images)) {
    for (const version of versions) {
      writeFileSync(join(images, path, version, 'probe'), '');
      assert.deepEqual(await settled(), [path], `${path}/${version}`);
    }
  }
}

function productsOf(images: string): { path: string; versions: string[] }[] {
  return listProducts(images)
    .products.filter(([env]) => env !== 'zz')
    .map((address) => ({
      path: address.join('/'),
      versions: scanProduct(images, address).versions.map(({ name }) => name),
    }));
}

test('a whole environment made with uploads at once is watched to its last version', async (t) => {
  const images = await imagesFolder(t);
  const { settled } = await watchTree(t, images);
  const versions = ['20260101', '20260102', '20260103'].flatMap((version) =>
    ['a/r/x/t', 'a/r/x/u', 'a/s/y/t'].map((path) => `${path}/${version}`),
  );
  for (const version of versions) put(join(images, version, 'lxd.tar.xz'));
  assert.ok((await settled()).includes('a'));
  await assertAllWatched(images, settled);
});

test('products that come as fast as the disk takes them are watched to the last version', async (t) => {
  const images = await imagesFolder(t);
  const { watcher, settled } = await watchTree(t, images);
  await outgrow({ imagesDir: images, products: 300 });
  await settled();
  assert.deepEqual(watcher.state(), { folders: folderCount(images), complete: true });
});

test('an environment removed is told, and its watches are given back', async (t) => {
  const images = await imagesFolder(t);
  const { watcher, settled } = await watchTree(t, images);
  const before = watcher.state().folders;
  assert.equal(before, folderCount(images));
  remove(join(images, 'demo'));
  assert.ok((await settled()).includes('demo'));
  assert.deepEqual(watcher.state(), { folders: folderCount(images), complete: true });
  assert.ok(watcher.state().folders < before);
});

function folderCount(images: string): number {
  const entries = readdirSync(images, { recursive: true, withFileTypes: true });
  return 1 + entries.filter((entry) => entry.isDirectory()).length;
}

test('a version deleted and made again, over and over, stays watched', async (t) => {
  const images = await imagesFolder(t);
  const { settled } = await watchTree(t, images);
  const version = join(images, product, '20260101');
  for (let round = 0; round < 50; round += 1) {
    for (let times = round % 4; times >= 0; times -= 1) {
      remove(version);
      mkdirSync(version);
    }
    assert.deepEqual(await settled(), [product]);
    put(join(version, 'lxd.tar.xz'));
    assert.deepEqual(await settled(), [product]);
  }
});

suite('what a scan finds when it is told', () => {
  for (let seed = 1; seed <= 12; seed += 1) {
    test(`is in the end what is there, after any changes in any order: seed ${seed}`, async (t) => {
      const images = await imagesFolder(t);
      const model = new Map<string, string>();
      const lookAt = (folder: string) => {
        for (const path of model.keys()) if (isWithin(path, folder)) model.delete(path);
        for (const [path, found] of scanWithin(images, folder)) model.set(path, found);
      };
      // As a run does: products with links to what has changed are looked at as well.
      const look = (folder: string) => {
        const linking = [...model].filter(([, found]) => leadsInto(found, folder));
        for (const path of [folder, ...linking.map(([product]) => product)]) lookAt(path);
      };
      const { watcher, settled, events } = await watchTree(t, images, look);
      look('');
      for (let round = 0; round < 4; round += 1) {
        await unsettle({ imagesDir: images, seed: seed * 100 + round, steps: 300 });
        await settled();
        assert.deepEqual(sorted(model), sorted(scanWithin(images, '')));
      }
      assert.deepEqual(events, []);
      await watcher.close();
    });
  }
});

/** Whether a product of which the scan found `text` has links into `folder`. */
function leadsInto(text: string, folder: string): boolean {
  const { links = [] } = JSON.parse(text) as { links?: string[] };
  return links.some((link) => isWithin(link, folder));
}

function isWithin(path: string, folder: string): boolean {
  return folder === '' || path === folder || path.startsWith(`${folder}/`);
}

function scanWithin(images: string, folder: string): Map<string, string> {
  const addresses =
    folder.split('/').length === 4
      ? [folder.split('/') as ProductAddress]
      : listProducts(images).products.filter((address) => isWithin(address.join('/'), folder));
  const found = addresses.map((address): [string, string] => {
    const { versions, yaml, problems, links } = scanProduct(images, address);
    return [address.join('/'), JSON.stringify({ versions, yaml, problems, links })];
  });
  // A product without anything is as good as none.
  return new Map(found.filter(([, text]) => text !== '{"versions":[],"problems":[]}'));
}

function sorted(map: ReadonlyMap<string, string>): [string, string][] {
  return [...map].sort(([one], [another]) => (one < another ? -1 : 1));
}

suite('resync', () => {
  test('tells nothing where nothing differs', async (t) => {
    const images = await imagesFolder(t);
    const { watcher, settled } = await watchTree(t, images);
    await watcher.resync();
    assert.deepEqual(await settled(), []);
    assert.deepEqual(watcher.state(), { folders: folderCount(images), complete: true });
  });

  test(
    'takes up a file system mounted over a folder, and its end',
    needsRoot('mount'),
    async (t) => {
      const mount = mounting(t);
      const images = await imagesFolder(t);
      const { watcher, settled } = await watchTree(t, images);
      await mount(join(images, product));
      await watcher.resync();
      assert.deepEqual(await settled(), [product]);
      put(join(images, product, '20260107/lxd.tar.xz'));
      assert.deepEqual(await settled(), [product]);
      await run('umount', [join(images, product)]);
      assert.deepEqual(await settled(), [product]);
      await assertAllWatched(images, settled);
    },
  );

  test(
    'takes up a file system mounted over all of it, and its end',
    needsRoot('mount'),
    async (t) => {
      const mount = mounting(t);
      const images = await imagesFolder(t);
      const { watcher, settled } = await watchTree(t, images);
      const before = watcher.state();
      assert.ok(watcher.isInPlace());
      await mount(images);
      assert.ok(!watcher.isInPlace());
      mkdirSync(join(images, 'zz/zz/zz'), { recursive: true });
      await watcher.resync();
      assert.ok(watcher.isInPlace());
      assert.deepEqual(await settled(), ['']);
      put(join(images, product, '20260107/lxd.tar.xz'));
      assert.deepEqual(await settled(), ['demo']);
      await run('umount', [images]);
      await watcher.resync();
      assert.deepEqual(watcher.state().complete, before.complete);
      assert.ok((await settled()).includes(''));
      await assertAllWatched(images, settled);
    },
  );

  test('goes on after it was asked for twice at a time', async (t) => {
    const images = await imagesFolder(t);
    const { watcher, settled } = await watchTree(t, images);
    await Promise.all([watcher.resync(), watcher.resync()]);
    await watcher.resync();
    assert.deepEqual(await settled(), []);
  });
});

suite('where the images folder itself', () => {
  const lost = {
    folders: 0,
    complete: false,
    reason: 'the images folder is not there',
    cure: 'mount the file system that holds it, or make it with "lxd-image-server init"',
  };

  /** A watcher, and a promise of the next time that it tells of everything. */
  async function watchRoot(t: TestContext, images: string) {
    let resolve = () => {};
    const all = () => new Promise<void>((tell) => (resolve = tell));
    const watched = await watchTree(t, images, (folder) => {
      if (folder === '') resolve();
    });
    return { ...watched, all };
  }

  test('goes and comes back, that is told and taken up again', async (t) => {
    const images = await imagesFolder(t);
    const { watcher, events, settled, all } = await watchRoot(t, images);
    const folders = watcher.state().folders;
    const gone = all();
    renameSync(images, `${images}-away`);
    await soon(gone, 'a change of everything');
    assert.deepEqual(watcher.state(), lost);
    await watcher.resync();
    assert.deepEqual(watcher.state(), lost);
    assert.deepEqual(
      events.map(({ reason }) => reason),
      [lost.reason],
    );
    const back = all();
    renameSync(`${images}-away`, images);
    await watcher.resync();
    await soon(back, 'a change of everything');
    assert.deepEqual(watcher.state(), { folders, complete: true });
    await settled();
    await assertAllWatched(images, settled);
  });

  test('is removed with all below it, the process lives on', async (t) => {
    const images = await imagesFolder(t);
    const { watcher, all } = await watchRoot(t, images);
    const gone = all();
    remove(images);
    await soon(gone, 'a change of everything');
    assert.deepEqual(watcher.state(), lost);
  });

  test('is replaced, the other one is watched', async (t) => {
    const images = await imagesFolder(t);
    const { watcher, settled, all } = await watchRoot(t, images);
    for (const file of files) put(join(`${images}-new`, file));
    mkdirSync(join(`${images}-new`, 'zz/zz/zz'), { recursive: true });
    const replaced = all();
    renameSync(images, `${images}-old`);
    renameSync(`${images}-new`, images);
    await soon(replaced, 'a change of everything');
    await watcher.resync();
    await settled();
    await assertAllWatched(images, settled);
  });

  test(
    'is unmounted, that is told, and taken up again after a mount',
    needsRoot('mount'),
    async (t) => {
      const mount = mounting(t);
      const images = join(await temporaryFolder(t), 'images');
      mkdirSync(images);
      await mount(images);
      for (const file of files) put(join(images, file));
      const { watcher, settled, all } = await watchRoot(t, images);
      const unmounted = all();
      await run('umount', [images]);
      await soon(unmounted, 'a change of everything');
      await watcher.resync();
      assert.deepEqual(watcher.state(), { folders: 1, complete: true });
      await mount(images);
      for (const file of [...files, 'zz/zz/zz/t/20260101/file']) put(join(images, file));
      const mounted = all();
      await watcher.resync();
      await soon(mounted, 'a change of everything');
      await settled();
      await assertAllWatched(images, settled);
    },
  );

  test('cannot be used at the start, that is refused with the cure', async (t) => {
    const root = await temporaryFolder(t);
    writeFileSync(join(root, 'file'), '');
    const { log } = memoryLog();
    const start = (imagesDir: string) => createTreeWatcher({ imagesDir, onChange: () => {}, log });
    const refusal = (code: string) => (error: unknown) =>
      error instanceof ServerError && error.code === code && error.hint !== undefined;
    await assert.rejects(start(join(root, 'none')), refusal('NOT_INITIALISED'));
    await assert.rejects(start(join(root, 'file')), refusal('CONFIG'));
    await assert.rejects(start(join(root, 'file/images')), refusal('CONFIG'));
  });
});

test('after more events than the kernel keeps, all is watched anew and told', async (t) => {
  const images = await imagesFolder(t);
  const watching = watchInProcess(t, images);
  await watching.started();
  watching.child.kill('SIGSTOP');
  floodEvents(join(images, other, '20260101'));
  // Of these the kernel tells nothing any more.
  put(join(images, 'late/noble/amd64/default/20260101/lxd.tar.xz'));
  remove(join(images, product, '20260101'));
  mkdirSync(join(images, product, '20260101'));
  watching.child.kill('SIGCONT');
  await watching.changed('');
  const state = await watching.resync();
  assert.deepEqual(state, { folders: folderCount(images), complete: true });
  for (const path of [product, 'late/noble/amd64/default']) {
    watching.said.length = 0;
    put(join(images, path, '20260101/probe'));
    await watching.changed(path);
  }
});

/** Makes as many events as the kernel keeps, in a folder with one file. */
function floodEvents(folder: string): void {
  const limit = Number(readFileSync('/proc/sys/fs/inotify/max_queued_events', 'utf8'));
  const [one, another] = [join(folder, 'lxd.tar.xz'), join(folder, 'rootfs.squashfs')];
  put(another);
  // Two in turn: the kernel merges an event with an equal one before it.
  for (let count = 0; count <= limit; count += 2) {
    utimesSync(one, count, count);
    utimesSync(another, count, count);
  }
}

const namespaces = await needsUserNamespaces();

suite('where a limit of the kernel is reached', () => {
  const isWarning = (said: Said) => 'warning' in said;

  test('watches: what is watched stays, with one warning and its cure', namespaces, async (t) => {
    const images = await imagesFolder(t);
    const folders = folderCount(images);
    const limit = { name: 'max_inotify_watches', value: folders - 3 } as const;
    const watching = watchInProcess(t, images, limit);
    const { cure, ...state } = await watching.started();
    const reason = 'the limit of inotify watches is reached';
    assert.deepEqual(state, { folders: folders - 3, complete: false, reason });
    const system = Number(readFileSync('/proc/sys/fs/inotify/max_user_watches', 'utf8'));
    const setting = `fs.inotify.max_user_watches=${fittingLimit(system, folders)}`;
    assert.ok(cure?.includes(`"sysctl ${setting}"`), cure);
    assert.match(cure ?? '', /\/etc\/sysctl\.d\//);

    put(join(images, product, '20260101/more'));
    await watching.changed(product);
    mkdirSync(join(images, product, '20260108'));
    const again = await watching.resync();
    assert.deepEqual(again, { cure, ...state });
    assert.equal(watching.said.filter(isWarning).length, 1);

    const raised = await watching.resync({ limit: folders + 10 });
    assert.deepEqual(raised, { folders: folders + 1, complete: true });
    for (const { path, versions } of productsOf(images)) {
      for (const version of versions) {
        watching.said.length = 0;
        put(join(images, path, version, 'probe'));
        await watching.changed(path);
      }
    }
  });

  test('watches: even the images folder cannot be watched', namespaces, async (t) => {
    const images = await imagesFolder(t);
    const limit = { name: 'max_inotify_watches', value: 0 } as const;
    const watching = watchInProcess(t, images, limit);
    const { folders, complete } = await watching.started();
    assert.deepEqual({ folders, complete }, { folders: 0, complete: false });
    const raised = await watching.resync({ limit: 1000 });
    assert.deepEqual(raised, { folders: folderCount(images), complete: true });
    await watching.changed('');
  });

  test('instances: nothing is watched, with one warning and its cure', namespaces, async (t) => {
    const images = await imagesFolder(t);
    const limit = { name: 'max_inotify_instances', value: 0 } as const;
    const watching = watchInProcess(t, images, limit);
    const state = await watching.started();
    assert.equal(state.folders, 0);
    assert.equal(state.complete, false);
    assert.match(state.cure ?? '', /"sysctl fs\.inotify\.max_user_instances=\d+"/);
    await watching.resync();
    assert.equal(watching.said.filter(isWarning).length, 1);
    const raised = await watching.resync({ limit: 10 });
    assert.deepEqual(raised, { folders: folderCount(images), complete: true });
  });
});

test('a fitting limit has room for twice the folders beside what is used', () => {
  assert.equal(fittingLimit(50, 111), 512);
  assert.equal(fittingLimit(8192, 11_000), 32_768);
  assert.equal(fittingLimit(192_536, 111_000), 524_288);
});

test('after close nothing is told, and no watch is left', async (t) => {
  const images = await imagesFolder(t);
  const { watcher, settled } = await watchTree(t, images, () => {
    assert.equal(closed, false, 'told after close');
  });
  let closed = false;
  await settled();
  put(join(images, product, '20260103/lxd.tar.xz'));
  const resync = watcher.resync();
  closed = true;
  await watcher.close();
  await resync;
  await watcher.resync();
  assert.equal(watcher.state().folders, 0);
});

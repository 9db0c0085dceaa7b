/**
 * A thread that changes a tree as fast as it can: everything that people and programs do to folders and
 * files, at every level, in an order that a seed decides.
 */
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { createDice } from './dice.js';

interface Growth {
  imagesDir: string;
  products: number;
}

interface Wish {
  imagesDir: string;
  seed: number;
  steps: number;
}

/** Changes the tree in `steps` steps; resolves when all are done. */
export function unsettle(wish: Wish): Promise<void> {
  return inThread(wish);
}

/** Adds products with twenty versions each, one after the other; resolves when there are as many as wished for. */
export function outgrow(wish: Growth): Promise<void> {
  return inThread(wish);
}

function inThread(wish: Wish | Growth): Promise<void> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: wish });
    worker.once('error', reject);
    worker.once('exit', () => resolve());
  });
}

/** Few names, so that they meet. */
const names = [
  ['a', 'b'],
  ['r', 's'],
  ['amd64'],
  ['t', 'u'],
  ['20260101', '20260102', '20260103'],
  ['lxd.tar.xz', 'rootfs.squashfs'],
];

function disturb({ imagesDir, seed, steps }: Wish): void {
  const { roll } = createDice(seed);
  const place = (depth: number) =>
    join(imagesDir, ...names.slice(0, depth).map((list) => list[roll(list.length)] as string));
  const hidden = (path: string) => join(dirname(path), `.${roll(3)}`);
  const put = (path: string) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, 'x'.repeat(roll(50)));
  };
  const move = (from: string, to: string) => {
    mkdirSync(dirname(to), { recursive: true });
    rmSync(to, { recursive: true, force: true });
    renameSync(from, to);
  };
  const actions: (() => void)[] = [
    () => put(place(6)),
    () => put(place(6)),
    () => put(join(place(4), 'product.yaml')),
    () => mkdirSync(place(1 + roll(5)), { recursive: true }),
    () => rmSync(place(1 + roll(6)), { recursive: true, force: true }),
    () => appendFileSync(place(6), 'more'),
    () => {
      const depth = 1 + roll(6);
      move(place(depth), place(depth));
    },
    () => {
      const path = place(1 + roll(6));
      const aside = hidden(path);
      move(path, aside);
      if (roll(2) === 0) mkdirSync(path);
      move(aside, path);
    },
    () => {
      const depth = 1 + roll(5);
      const [one, other] = [place(depth), place(depth)];
      const aside = hidden(one);
      move(one, aside);
      renameSync(other, one);
      renameSync(aside, other);
    },
    () => {
      const path = place(5);
      for (let times = 1 + roll(5); times > 0; times -= 1) {
        rmSync(path, { recursive: true, force: true });
        mkdirSync(path);
      }
      put(join(path, 'lxd.tar.xz'));
    },
    () => symlinkSync(place(5), place(5)),
    () => {
      const link = place(5);
      symlinkSync(place(5), `${link}~`);
      renameSync(`${link}~`, link);
    },
    () => chmodSync(place(1 + roll(6)), 0o700 + roll(0o100)),
    () => utimesSync(place(1 + roll(6)), roll(1000), roll(1000)),
    () => {
      const path = place(6);
      writeFileSync(`${path}.part`, 'new');
      renameSync(`${path}.part`, path);
    },
  ];
  for (let step = 0; step < steps; step += 1) attempt(actions[roll(actions.length)] as () => void);
}

/** Half of what is rolled cannot be done: nothing is there, or something else is. That is as in life. */
function attempt(action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error)) throw error;
  }
}

function grow({ imagesDir, products }: Growth): void {
  for (let count = 0; count < products; count += 1) {
    for (let day = 1; day <= 20; day += 1) {
      mkdirSync(join(imagesDir, 'a/r/x', `t${count}`, `202601${day + 10}`), { recursive: true });
    }
  }
}

if (!isMainThread && workerData !== null) {
  const wish = workerData as Wish | Growth;
  if ('seed' in wish) disturb(wish);
  else grow(wish);
}

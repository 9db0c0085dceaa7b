/**
 * What people and programs do to a tree of images while the daemon runs: uploads in every manner, whole ones
 * and ones that are given up, removals, replacements, moves. A seed decides what, and in which order.
 */
import { appendFile, mkdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from '../../src/errors.js';
import { createDice } from './dice.js';
import { type Files, metadataArchive, sha256, squashfs, writeFiles } from './image-tree.js';

/**
 * How a version is uploaded: `pieces` as cp and scp write, `renamed` into its place when it is whole, `rsync`
 * with a temporary name for each file; the others write pieces, and SHA256SUMS before or after them.
 */
export const manners = ['pieces', 'renamed', 'rsync', 'sums-first', 'sums-last'] as const;
export type Manner = (typeof manners)[number];

export interface TreeChangesOptions {
  root: string;
  /** The environment that all of it is in: nobody else may change that. */
  env: string;
  seed: number;
  /** Is told before what lies at `path` below the root is taken away or replaced. */
  onForce: (path: string) => Promise<void>;
  /** How many products there are. Default: 4. */
  products?: number;
  /** From so many versions on they are rather removed than added. Default: 10. */
  versions?: number;
  /** The longest pause between two pieces of an upload, in milliseconds. Default: 15. */
  pauseMs?: number;
  /** The most bytes of a root file. Default: 30,000. */
  mostBytes?: number;
  /** Gives one root file in fifteen this size, in bytes. Default: none. */
  large?: number;
}

export interface UploadOptions {
  /** Default: as the dice fall. */
  manner?: Manner;
  /** Of the root file, in bytes. Default: as the dice fall. */
  size?: number;
  /** Goes no further than the first piece of the root file. Default: no. */
  givenUp?: boolean;
}

export interface TreeChanges {
  /** Does one of all that can be done. @returns what, for a person to read. */
  step(): Promise<string>;
  /** Uploads a version that was never there before. @returns its path below the root. */
  upload(options?: UploadOptions): Promise<string>;
  /** Takes the oldest version away. */
  removeOldest(): Promise<void>;
  /** Gives a version another root file. */
  replace(): Promise<void>;
  /** How many versions there are, incomplete ones too. */
  count(): number;
}

export function createTreeChanges(options: TreeChangesOptions): TreeChanges {
  const { root, env, onForce, products = 4, pauseMs = 15, mostBytes = 30_000 } = options;
  const { roll, pick } = createDice(options.seed);
  /** Paths below the root, oldest first. */
  let versions: string[] = [];
  let serial = 0;

  const productPath = (number: number) =>
    `images/${env}/r${number % 2}/amd64/type${Math.floor(number / 2)}`;
  const productOf = (version: string) => version.slice(0, version.lastIndexOf('/'));
  const { large } = options;
  const anySize = () =>
    large !== undefined && roll(15) === 0 ? large : 1000 + roll(mostBytes - 999);
  const pause = () => sleep(roll(pauseMs + 1));

  const writeInPieces = async (file: string, content: Uint8Array, givenUp: boolean) => {
    const step = Math.ceil(content.length / (1 + roll(4)));
    for (let at = 0; at < content.length; at += step) {
      const last = givenUp ? Math.max(1, step - 1) : step;
      await appendFile(file, content.subarray(at, at + last));
      if (givenUp) return;
      await pause();
    }
  };

  const upload = async ({ manner = pick(manners), ...how }: UploadOptions = {}) => {
    const { size = anySize(), givenUp = false } = how;
    const number = serial++;
    const version = `${productPath(roll(products))}/${versionName(number)}`;
    const files = await imageOf(version, size);
    versions.push(version);
    const folder = join(root, version);
    const put = (name: string, content: Uint8Array) =>
      writeInPieces(join(folder, name), content, givenUp && name.startsWith('rootfs'));
    const sums = () => writeFile(join(folder, 'SHA256SUMS'), sumsOf(files));
    if (manner === 'renamed') {
      const hidden = join(root, productOf(version), `.incoming-${number}`);
      await writeFiles(hidden, { ...files, ...(roll(2) === 0 && { SHA256SUMS: sumsOf(files) }) });
      await pause();
      if (!givenUp) await rename(hidden, folder);
      return version;
    }
    await mkdir(folder, { recursive: true });
    if (manner === 'sums-first') await sums();
    for (const [name, content] of Object.entries(files)) {
      if (manner !== 'rsync') await put(name, content);
      else await putAsRsync(folder, name, () => put(temporaryOf(name), content), givenUp);
    }
    if (manner === 'sums-last' && !givenUp) await sums();
    return version;
  };

  /** rsync gives a file the time of its source before its name. */
  async function putAsRsync(
    folder: string,
    name: string,
    write: () => Promise<void>,
    givenUp: boolean,
  ): Promise<void> {
    await write();
    const time = new Date(1_700_000_000_000 + roll(1_000_000));
    await utimes(join(folder, temporaryOf(name)), time, time);
    if (!givenUp || !name.startsWith('rootfs')) {
      await rename(join(folder, temporaryOf(name)), join(folder, name));
    }
  }

  const force = async (path: string, work: () => Promise<void>) => {
    await onForce(path);
    await work();
  };
  const isIn = (version: string, path: string) =>
    version === path || version.startsWith(`${path}/`);
  const removePath = async (path: string) => {
    await force(path, () => rm(join(root, path), { recursive: true, force: true }));
    versions = versions.filter((version) => !isIn(version, path));
  };
  const removeOldest = async () => {
    const [version] = versions;
    if (version !== undefined) await removePath(version);
  };
  const replace = async () => {
    const version = pick(versions);
    const folder = join(root, version);
    const files = await imageOf(`${version} ${serial++}`, anySize());
    await force(version, async () => {
      await rm(join(folder, 'SHA256SUMS'), { force: true });
      const content = files['rootfs.squashfs'] as Uint8Array;
      if (roll(2) === 0) {
        await rm(join(folder, 'rootfs.squashfs'), { force: true });
        await writeInPieces(join(folder, 'rootfs.squashfs'), content, false);
      } else {
        await writeFile(join(folder, '.new'), content);
        await rename(join(folder, '.new'), join(folder, 'rootfs.squashfs'));
      }
    });
  };
  /** Where `from` is a folder above versions, all of them are elsewhere then. */
  const move = async (from: string, to: string) => {
    await removePath(to);
    await force(from, async () => {
      await mkdir(join(root, to, '..'), { recursive: true });
      await rename(join(root, from), join(root, to));
    });
    versions = versions.map((version) =>
      isIn(version, from) ? to + version.slice(from.length) : version,
    );
  };
  const describe = async () => {
    const file = join(root, productPath(roll(products)), 'product.yaml');
    const texts = [`os: Name ${serial++}\n`, `aliases: [some/${roll(3)}]\n`, 'os: [\n'];
    await writeFile(`${file}.tmp`, pick(texts));
    await rename(`${file}.tmp`, file);
  };
  /** Does what makes a version one that must not be published. */
  const spoil = async () => {
    const version = pick(versions);
    const folder = join(root, version);
    const ways = [
      () => rm(join(folder, 'lxd.tar.xz'), { force: true }),
      () => writeFile(join(folder, 'rootfs.squashfs'), squashfs('cut', 2000).subarray(0, 900)),
      () => writeFile(join(folder, 'SHA256SUMS'), `${'0'.repeat(64)}  rootfs.squashfs\n`),
      () => writeFile(join(folder, '.rootfs.squashfs.Ab12Cd'), 'begun'),
      () => writeFile(join(folder, 'disk.qcow2'), ''),
      () => rename(folder, join(folder, '..', `latest-${serial++}`)),
    ];
    await force(version, async () => void (await pick(ways)()));
  };
  /** What the content is stays; what a look at it shows does not. */
  const touch = async () => {
    const file = `${pick(versions)}/lxd.tar.xz`;
    await force(file, async () => {
      const content = await readFile(join(root, file));
      const time = new Date(1_600_000_000_000 + roll(1_000_000));
      if (roll(2) === 0) await utimes(join(root, file), time, time);
      else await writeFile(join(root, file), content);
    });
  };

  const steps: Record<string, { weight: number; work: () => Promise<unknown> }> = {
    upload: { weight: 9, work: () => upload() },
    'upload that is given up': { weight: 2, work: () => upload({ givenUp: true }) },
    removal: { weight: 2, work: removeOldest },
    replacement: { weight: 3, work: replace },
    'move of a product': {
      weight: 2,
      work: () => move(productPath(roll(products)), productPath(roll(products))),
    },
    'move of a release': {
      weight: 1,
      work: () => move(`images/${env}/r${roll(2)}`, `images/${env}/r${roll(2)}`),
    },
    'removal of a product': { weight: 1, work: () => removePath(productPath(roll(products))) },
    'product.yaml': { weight: 2, work: describe },
    'broken version': { weight: 2, work: spoil },
    'version touched': { weight: 1, work: touch },
  };
  const most = options.versions ?? 10;
  const deck = Object.entries(steps).flatMap(([name, { weight }]) => Array(weight).fill(name));

  return {
    async step() {
      const forced =
        versions.length > most ? 'removal' : versions.length === 0 ? 'upload' : undefined;
      const name = forced ?? (pick(deck) as string);
      await attempt(() => (steps[name] as (typeof steps)[string]).work());
      return name;
    },
    upload,
    removeOldest,
    replace: () => attempt(replace),
    count: () => versions.length,
  };
}

/** Metadata and a root file, in the order in which they are uploaded. */
async function imageOf(seed: string, size: number): Promise<Record<string, Uint8Array>> {
  return {
    'lxd.tar.xz': await metadataArchive({ os: 'Demo', serial: seed }),
    'rootfs.squashfs': squashfs(seed, size),
  };
}

function sumsOf(files: Files): string {
  const lines = Object.entries(files).map(([name, bytes]) => `${sha256(bytes)}  ${name}\n`);
  return lines.join('');
}

/** Never the same twice. */
function versionName(serial: number): string {
  return `20260101_${String(serial).padStart(6, '0')}`;
}

function temporaryOf(name: string): string {
  return `.${name}.Xy34Zw`;
}

/** What is not there can neither be moved nor be replaced, and so be it. */
async function attempt(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (systemCode(error) === undefined) throw error;
  }
}

/**
 * One writer per root. A lock is a file that names its holder: `<root>/.lxd-image-server/lock.<n>`.
 * The highest number counts; a holder that no longer lives holds nothing, so a crash locks no one out.
 */
import { randomBytes } from 'node:crypto';
import {
  chmod,
  link,
  mkdir,
  readdir,
  readFile,
  stat,
  truncate,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { ServerError, systemCode } from '../errors.js';
import { leaveToOwner, writeError } from './files.js';

export interface Lock {
  release(): Promise<void>;
}

/** Who holds a lock. A process is the same only with the same number, start and boot of the host. */
interface Holder {
  pid: number;
  /** When the process started, in clock ticks since boot (proc(5), `starttime`). */
  started: string;
  boot: string;
}

/** How many times to look again where others come and go at the same moment. */
const attempts = 100;

/**
 * Takes the lock of `root`.
 *
 * @throws ServerError BUSY where another process holds it; NOT_INITIALISED or CONFIG where the root is
 *   missing or no folder; DENIED, DISK_FULL or IO.
 */
export async function acquireLock(root: string): Promise<Lock> {
  const folder = join(root, '.lxd-image-server');
  await makeLockFolder(root, folder);
  const self = await describe(process.pid);
  try {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const number = await tryToTake(folder, self);
      if (number !== undefined) return { release: () => release(folder, number) };
    }
  } catch (error) {
    throw systemCode(error) === undefined ? error : writeError(folder, error);
  }
  throw new ServerError('BUSY', `Cannot lock ${root}: too many processes try at once`, {
    hint: 'try again',
  });
}

/** The folder is made, the root never: where it is missing, it may only be unmounted. */
async function makeLockFolder(root: string, folder: string): Promise<void> {
  try {
    await mkdir(folder);
    // Whatever the umask: other users must see who holds the lock.
    await chmod(folder, 0o755);
    await leaveToOwner(folder);
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return;
    if (systemCode(error) === 'ENOENT') {
      throw new ServerError('NOT_INITIALISED', `The root ${root} is not there`, {
        hint: 'make it with "lxd-image-server init"; or mount the file system that holds it',
        cause: error,
      });
    }
    if (systemCode(error) === 'ENOTDIR') {
      throw new ServerError('CONFIG', `The root ${root} is not a folder`, {
        hint: 'move what is there away, or set paths.root in the configuration',
        cause: error,
      });
    }
    throw writeError(folder, error);
  }
}

/** The number of the lock now held, or `undefined` where someone else was faster. */
async function tryToTake(folder: string, self: Holder): Promise<number | undefined> {
  const highest = await highestNumber(folder);
  if (highest > 0) {
    const holder = await readHolder(folder, highest);
    if (holder === 'gone') return undefined;
    if (holder !== 'free' && (await isAlive(holder))) {
      throw new ServerError(
        'BUSY',
        `Another lxd-image-server (process ${holder.pid}) is at work here`,
        {
          hint: 'wait for it to end; a running daemon publishes by itself',
        },
      );
    }
  }
  const number = highest + 1;
  if (!(await place(folder, number, self))) return undefined;
  // Whoever based its number on an older view of the folder finds the higher one here, and yields.
  if ((await highestNumber(folder)) > number) {
    await remove(folder, number);
    return undefined;
  }
  await removeBelow(folder, number);
  return number;
}

/** Makes `lock.<number>` with its content at once; false where it exists. */
async function place(folder: string, number: number, self: Holder): Promise<boolean> {
  const draft = join(folder, `.draft.${randomBytes(6).toString('hex')}`);
  try {
    await writeFile(draft, JSON.stringify(self), { flag: 'wx' });
    await leaveToOwner(draft);
    await link(draft, pathOf(folder, number));
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw writeError(folder, error);
  } finally {
    // What went wrong before says more; a draft that stays is swept later.
    await unlink(draft).catch(() => undefined);
  }
}

/** The file stays, empty: numbers must not start again while someone still looks at an old one. */
async function release(folder: string, number: number): Promise<void> {
  await truncate(pathOf(folder, number)).catch(ignoreMissing);
}

async function readHolder(folder: string, number: number): Promise<Holder | 'free' | 'gone'> {
  try {
    const text = await readFile(pathOf(folder, number), 'utf8');
    const holder = JSON.parse(text) as Partial<Holder> | null;
    return Number.isSafeInteger(holder?.pid) ? (holder as Holder) : 'free';
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 'gone';
    // Empty: released. Anything else that no lock writes: of a disk that lost it.
    if (error instanceof SyntaxError) return 'free';
    throw error;
  }
}

async function highestNumber(folder: string): Promise<number> {
  return Math.max(0, ...(await numbers(folder)));
}

async function numbers(folder: string): Promise<number[]> {
  const names = await readdir(folder);
  return names.flatMap((name) => /^lock\.(\d{1,15})$/.exec(name)?.[1] ?? []).map(Number);
}

/** Removes older locks, and drafts that a kill has left: nobody needs a minute between draft and lock. */
async function removeBelow(folder: string, number: number): Promise<void> {
  for (const lower of await numbers(folder)) if (lower < number) await remove(folder, lower);
  for (const name of await readdir(folder)) {
    if (!name.startsWith('.draft.')) continue;
    const { mtimeMs } = await stat(join(folder, name)).catch(() => ({ mtimeMs: Infinity }));
    if (Date.now() - mtimeMs > 60_000) await unlink(join(folder, name)).catch(ignoreMissing);
  }
}

async function remove(folder: string, number: number): Promise<void> {
  await unlink(pathOf(folder, number)).catch(ignoreMissing);
}

function pathOf(folder: string, number: number): string {
  return join(folder, `lock.${number}`);
}

function ignoreMissing(error: unknown): void {
  if (systemCode(error) !== 'ENOENT') throw error;
}

async function isAlive(holder: Holder): Promise<boolean> {
  const fields = await statOf(holder.pid).catch(() => undefined);
  // Where /proc hides the processes of others, all that can be told is whether the number is in use.
  if (fields === undefined) return holder.boot === (await bootId()) && isInUse(holder.pid);
  if (isZombie(fields)) return false;
  return fields.started === holder.started && holder.boot === (await bootId());
}

function isInUse(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return systemCode(error) === 'EPERM';
  }
}

async function describe(pid: number): Promise<Holder> {
  const { started } = await statOf(pid);
  return { pid, started, boot: await bootId() };
}

/** Whether the process has ended, all threads of it, and its parent has not taken note of that yet. */
function isZombie({ state, threads }: ProcessStat): boolean {
  return state === 'Z' && threads <= 1;
}

interface ProcessStat {
  state: string;
  threads: number;
  started: string;
}

/** What proc(5) tells of a process. @throws the system error where it is not there. */
async function statOf(pid: number): Promise<ProcessStat> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8');
  // The second field is the program's name in brackets and may hold anything, brackets too.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0] ?? '', threads: Number(fields[17]), started: fields[19] ?? '' };
}

async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

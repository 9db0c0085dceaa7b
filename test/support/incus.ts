/**
 * The `incus` client, `incus-simplestreams` and the daemon, as Debian packages them for bookworm-backports:
 * fetched once with apt into .cache/incus of the project, beside the system and never installed.
 */

import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { missingPrograms, outcome, run } from './command.js';
import { debianArchive } from './debian-archive.js';

const cache = join(import.meta.dirname, '../../../.cache/incus');
/** What is kept of each package, by where it is below the root. */
const packages = {
  'incus-client': ['usr/bin/incus'],
  'incus-extra': ['usr/bin/incus-simplestreams'],
  'incus-base': ['usr/libexec/incus/incusd'],
  // Libraries of the daemon that no other program of the system has use for.
  libcowsql0: [`${libraries()}/libcowsql.so.0`],
  libraft0: [`${libraries()}/libraft.so.0`],
};
const clientFiles = [...packages['incus-client'], ...packages['incus-extra']];
const allFiles = Object.values(packages).flat();
const suite = 'bookworm-backports';
const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** An `incus` with a configuration of its own, and `incus-simplestreams`. */
export interface IncusTools {
  /** Variables for programs that shall use this configuration, with its own hour-long index cache. */
  readonly env: { INCUS_CONF: string; INCUS_CACHE: string; PATH: string };
  /** Runs `incus` and gives its standard output. Throws with all that it said where it fails. */
  incus(...args: string[]): Promise<string>;
  /** Makes a simplestreams server with a self-signed `certificate` (PEM) known as `name`. */
  addRemote(name: string, options: { url: string; certificate: string }): Promise<void>;
  /** Runs `incus-simplestreams` in `folder`, the root of a published tree. */
  simplestreams(folder: string, ...args: string[]): Promise<string>;
  /** Removes the configuration and the cache. */
  close(): Promise<void>;
}

/** Fetches the programs where they are not there yet. Gives why that fails (for `skip`), or `false`. */
export async function incusMissing(): Promise<string | false> {
  return await filesMissing(clientFiles);
}

/** As {@link incusMissing}, for the daemon; it also tells where that cannot run here. */
export async function incusDaemonMissing(): Promise<string | false> {
  const missing = await filesMissing(allFiles);
  if (missing !== false) return missing;
  const { code, stderr } = await outcome('incusd', ['--version'], { env: incusEnv() });
  return code !== 0 && `the Incus daemon does not run here: ${stderr.trim()}`;
}

/** For programs that are to find those of the cache. */
export function incusEnv(): { PATH: string; LD_LIBRARY_PATH: string } {
  return { PATH: `${cache}:${process.env.PATH}`, LD_LIBRARY_PATH: cache };
}

/** Where Debian has the libraries of this machine. */
function libraries(): string {
  return `usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
}

async function filesMissing(files: readonly string[]): Promise<string | false> {
  if (files.every((file) => existsSync(join(cache, basename(file))))) return false;
  const missing = missingPrograms('apt-get', 'dpkg-deb');
  if (missing !== false) return missing;
  const work = await mkdtemp(join(tmpdir(), 'incus-packages-'));
  try {
    await fetchFiles(work);
    return false;
  } catch (error) {
    return `Incus cannot be fetched: ${error instanceof Error ? error.message : error}`;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function fetchFiles(work: string): Promise<void> {
  const config = await configureApt(work);
  await run('apt-get', ['--config-file', config, 'update', '-q']);
  await run('apt-get', ['--config-file', config, 'download', '-q', ...Object.keys(packages)], {
    cwd: work,
  });
  await run('sh', ['-c', 'for deb in *.deb; do dpkg-deb -x "$deb" root || exit; done'], {
    cwd: work,
  });
  await mkdir(cache, { recursive: true });
  for (const file of allFiles) {
    const name = basename(file);
    // A library's name is a link to the file with its version.
    await cp(join(work, 'root', file), join(cache, `.${name}`), { dereference: true });
    await rename(join(cache, `.${name}`), join(cache, name));
  }
}

/** Writes an apt configuration whose sources, lists and cache are all in `work`. Gives its path. */
async function configureApt(work: string): Promise<string> {
  await mkdir(join(work, 'state/lists/partial'), { recursive: true });
  await mkdir(join(work, 'cache/archives/partial'), { recursive: true });
  const source = `deb [signed-by=${keyring}] ${await debianArchive()} ${suite} main\n`;
  await writeFile(join(work, 'sources.list'), source);
  const settings = [
    // What other packages have apt do afterwards concerns the system, which is not touched here.
    '#clear APT::Update::Post-Invoke;',
    '#clear APT::Update::Post-Invoke-Success;',
    `Dir::Etc::SourceList "${work}/sources.list";`,
    'Dir::Etc::SourceParts "/dev/null";',
    `Dir::State "${work}/state";`,
    `Dir::Cache "${work}/cache";`,
    // Downloads by apt's own user are not possible in a private folder.
    'APT::Sandbox::User "";',
  ];
  const path = join(work, 'apt.conf');
  await writeFile(path, `${settings.join('\n')}\n`);
  return path;
}

/** The programs of {@link incusMissing}, with an empty configuration. */
export async function incusTools(): Promise<IncusTools> {
  const folder = await mkdtemp(join(tmpdir(), 'incus-client-'));
  const env = {
    INCUS_CONF: join(folder, 'config'),
    INCUS_CACHE: join(folder, 'cache'),
    PATH: `${cache}:${process.env.PATH}`,
  };
  await mkdir(join(env.INCUS_CONF, 'servercerts'), { recursive: true });
  const incus = (...args: string[]) => run(join(cache, 'incus'), args, { env });
  return {
    env,
    incus,
    addRemote: async (name, { url, certificate }) => {
      await writeFile(join(env.INCUS_CONF, 'servercerts', `${name}.crt`), certificate);
      await incus('remote', 'add', name, url, '--protocol=simplestreams');
    },
    simplestreams: (cwd, ...args) => run(join(cache, 'incus-simplestreams'), args, { cwd }),
    close: () => rm(folder, { recursive: true, force: true }),
  };
}

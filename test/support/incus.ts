/**
 * The `incus` client and `incus-simplestreams`, as Debian packages them for bookworm-backports:
 * fetched once with apt into .cache/incus of the project, beside the system and never installed.
 */

import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { missingPrograms, run } from './command.js';

const cache = join(import.meta.dirname, '../../../.cache/incus');
const programs = ['incus', 'incus-simplestreams'] as const;
const packages = ['incus-client', 'incus-extra'];
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
  if (programs.every((program) => existsSync(join(cache, program)))) return false;
  const missing = missingPrograms('apt-get', 'dpkg-deb');
  if (missing !== false) return missing;
  const work = await mkdtemp(join(tmpdir(), 'incus-packages-'));
  try {
    await fetchPrograms(work);
    return false;
  } catch (error) {
    return `the Incus client cannot be fetched: ${error instanceof Error ? error.message : error}`;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function fetchPrograms(work: string): Promise<void> {
  const config = await configureApt(work);
  await run('apt-get', ['--config-file', config, 'update', '-q']);
  await run('apt-get', ['--config-file', config, 'download', '-q', ...packages], { cwd: work });
  await run('sh', ['-c', 'for deb in *.deb; do dpkg-deb -x "$deb" root || exit; done'], {
    cwd: work,
  });
  await mkdir(cache, { recursive: true });
  for (const program of programs) {
    await cp(join(work, 'root/usr/bin', program), join(cache, `.${program}`));
    await rename(join(cache, `.${program}`), join(cache, program));
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

/** The address from which this machine gets Debian itself; its backports are there too. */
async function debianArchive(): Promise<string> {
  const uris = await run('apt-get', ['update', '--print-uris']);
  const repositories = [...uris.matchAll(/^'(\S+)\/dists\/([^/\s]+)\/InRelease' /gm)];
  const updates = repositories.find(([, , name]) => name?.endsWith('-updates'));
  const address = (updates ?? repositories[0])?.[1];
  if (address === undefined) throw new Error('apt has no Debian archive among its sources');
  return address;
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

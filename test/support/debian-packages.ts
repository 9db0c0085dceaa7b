/** The Debian packages of this project, built from its sources as they are. */
import {
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { basename, join } from 'node:path';
import { run } from './command.js';

const repository = join(import.meta.dirname, '../../..');

export const packagePrograms = ['dpkg-buildpackage', 'dh', 'git'] as const;

export interface Packages {
  /** Paths of the files. */
  master: string;
  mirror: string;
  /** What lintian reads. */
  changes: string;
}

/** Builds them in `folder`, which is empty; what git does not know is left out. Throws with all that was said. */
export async function buildPackages(folder: string): Promise<Packages> {
  const source = join(folder, 'source');
  await mkdir(source);
  const known = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: repository,
  });
  for (const path of known.split('\0').filter(Boolean)) {
    await cp(join(repository, path), join(source, path)).catch((error: NodeJS.ErrnoException) => {
      // Deleted, and not yet for git.
      if (error.code !== 'ENOENT') throw error;
    });
  }
  await symlink(join(repository, 'node_modules'), join(source, 'node_modules'));
  await run('dpkg-buildpackage', ['-us', '-uc', '-b'], { cwd: source });
  const names = await readdir(folder);
  const named = (pattern: RegExp) => {
    const name = names.find((each) => pattern.test(each));
    if (name === undefined) throw new Error(`dpkg-buildpackage made no ${pattern}`);
    return join(folder, name);
  };
  return {
    master: named(/^lxd-image-server_.*_all\.deb$/),
    mirror: named(/^lxd-image-server-mirror_.*_all\.deb$/),
    changes: named(/\.changes$/),
  };
}

/** The same package as another version of it, in `folder`; gives the path of its file. */
export async function asVersion(
  file: string,
  { version, folder }: { version: string; folder: string },
): Promise<string> {
  const content = await mkdtemp(join(folder, 'content-'));
  await run('dpkg-deb', ['--raw-extract', file, content]);
  const control = join(content, 'DEBIAN/control');
  const text = await readFile(control, 'utf8');
  await writeFile(control, text.replace(/^Version: .*/m, `Version: ${version}`));
  return await pack(content, join(folder, `${basename(file).split('_')[0]}_${version}_all.deb`));
}

/** This machine's Node.js as a package, as others than Debian have it for older releases. */
export async function nodePackage(folder: string): Promise<string> {
  const content = await mkdtemp(join(folder, 'node-'));
  await mkdir(join(content, 'usr/bin'), { recursive: true });
  await copyFile(process.execPath, join(content, 'usr/bin/node'));
  await mkdir(join(content, 'DEBIAN'));
  const version = `${process.versions.node}-1`;
  const control = `Package: nodejs
Version: ${version}
Architecture: ${await run('dpkg', ['--print-architecture'])}Maintainer: nobody <nobody@example.org>
Description: Node.js
`;
  await writeFile(join(content, 'DEBIAN/control'), control);
  return await pack(content, join(folder, `nodejs_${version}.deb`));
}

/** Makes a package of the files in `content`, all of them root's. Quick rather than small. */
export async function pack(content: string, target: string): Promise<string> {
  await run('dpkg-deb', ['--root-owner-group', '-Znone', '--build', content, target]);
  return target;
}

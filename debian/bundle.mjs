/**
 * Puts the program into few files that need no node_modules, for the package: OUTDIR/main.js, worker.js, and what they
 * share; src/assets.ts knows what else stands beside them.
 *
 *     node debian/bundle.mjs OUTDIR
 */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';

const [outdir] = process.argv.slice(2);
if (outdir === undefined) throw new Error('usage: node debian/bundle.mjs OUTDIR');
const root = join(import.meta.dirname, '..');

/** @returns the files that went into it, relative to the working folder */
async function bundle() {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: ['src/main.ts', 'src/disk/worker.ts'],
    entryNames: '[name]',
    outdir,
    bundle: true,
    // Or the names of folders of this machine would stand in it.
    preserveSymlinks: true,
    // What a command does not need is not loaded.
    splitting: true,
    chunkNames: 'part-[hash]',
    format: 'esm',
    platform: 'node',
    target: 'node20',
    minifySyntax: true,
    minifyWhitespace: true,
    charset: 'utf8',
    legalComments: 'none',
    metafile: true,
    // Parts in C++ that ssh2 and ws do without.
    external: [
      ...['cpu-features', './crypto/build/Release/sshcrypto.node'],
      ...['bufferutil', 'utf-8-validate'],
    ],
    // Packages in the older form of modules ask for others, for Node's own and for their place by these names.
    banner: {
      js: [
        "import { createRequire as requireFrom } from 'node:module';",
        'const require = requireFrom(import.meta.url);',
        'const { filename: __filename, dirname: __dirname } = import.meta;',
      ].join(''),
    },
  });
  return Object.keys(metafile.inputs);
}

/** Debian's node, whatever stands first in the path of who calls. */
async function nameInterpreter() {
  const file = join(outdir, 'main.js');
  const text = await readFile(file, 'utf8');
  const [, options] = /^#!\/usr\/bin\/env -S node (.*)\n/.exec(text) ?? [];
  if (options === undefined)
    throw new Error('src/main.ts begins with another line than is known here');
  await writeFile(file, text.replace(/^.*/, `#!/usr/bin/node ${options}`), { mode: 0o755 });
}

/** Names, versions and licences of the packages that `inputs` are of. */
async function licencesOf(inputs) {
  const folders = inputs.flatMap(
    (path) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path) ?? [],
  );
  const texts = [...new Set(folders)].sort().map(async (folder) => {
    const { name, version, license, licenses } = JSON.parse(
      await readFile(join(root, folder, 'package.json'), 'utf8'),
    );
    const file = (await readdir(join(root, folder))).find((each) =>
      /^(?:licen[cs]e|copying)/i.test(each),
    );
    const text = file === undefined ? '' : `\n${await readFile(join(root, folder, file), 'utf8')}`;
    return `${name} ${version}: ${license ?? licenses[0].type}\n${text}`;
  });
  return (await Promise.all(texts)).join(`\n${'-'.repeat(72)}\n\n`);
}

await rm(outdir, { recursive: true, force: true });
const inputs = await bundle();
await nameInterpreter();
await writeFile(join(outdir, 'third-party-licences.txt'), await licencesOf(inputs));
const { name, version, type } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
await writeFile(join(outdir, 'package.json'), `${JSON.stringify({ name, version, type })}\n`);

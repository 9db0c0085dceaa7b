/** The real command, run as a child process on a site of its own. */
import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseImages, versionsOf } from '../../src/catalog/published.js';
import { type CommandResult, outcome } from './command.js';
import { sha256 } from './image-tree.js';

export const cli = join(import.meta.dirname, '../../src/main.js');

/** What the first line of {@link cli} has Node start with. */
export const nodeOptions =
  /^#!.* node ?(.*)/.exec(readFileSync(cli, 'utf8'))?.[1]?.split(' ').filter(Boolean) ?? [];

/** The rights of the process: `plain` is root without the right to pass over permissions. */
export type Rights = 'all' | 'plain';

const withoutOverride = ['--bounding-set', '-dac_override,-dac_read_search', '--inh-caps', '-all'];

/** Runs the command with `args` to its end. */
export function runCli(args: readonly string[], rights: Rights = 'all'): Promise<CommandResult> {
  const command = [process.execPath, ...nodeOptions, cli, ...args];
  if (rights === 'plain') command.unshift('setpriv', ...withoutOverride);
  const [program = '', ...rest] = command;
  return outcome(program, rest, { env: { NO_COLOR: '1' } });
}

/** Writes a configuration for the tree in `root` and gives its path. Versions need not settle. */
export async function writeConfig(root: string, more = ''): Promise<string> {
  const file = join(root, 'config.toml');
  const text = JSON.stringify;
  const paths = `paths.root = ${text(root)}\npaths.state = ${text(join(root, 'state'))}\n`;
  await writeFile(file, `${paths}publish.settle = "0s"\n${more}`);
  return file;
}

/**
 * The versions that `images.json` of `root` has, as `env:release:arch:type/version`, sorted.
 * Throws where a file that it names is not there with that size and SHA-256.
 */
export async function publishedVersions(root: string): Promise<string[]> {
  const { products } = parseImages(await readFile(join(root, 'streams/v1/images.json'), 'utf8'));
  const names: string[] = [];
  for (const [id, product] of Object.entries(products)) {
    for (const { name, items } of versionsOf(product)) {
      names.push(`${id}/${name}`);
      for (const item of items) {
        const content = await readFile(join(root, item.path));
        const found = `${content.length} ${sha256(content)}`;
        if (found !== `${item.size} ${item.sha256}`) throw new Error(`${item.path} has ${found}`);
      }
    }
  }
  return names.sort();
}

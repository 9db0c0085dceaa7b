/**
 * The aliases in `product.yaml` files: who may have which, and their changes, one after the other. What was written
 * and is not published yet counts as taken.
 */

import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import { standardAliases } from '../catalog/aliases.js';
import type { ImageIndex } from '../catalog/images.js';
import { isAlias, readProductYaml } from '../catalog/metadata.js';
import { type AliasChange, changeAliases } from '../catalog/product-yaml.js';
import type { KnownDigests } from '../catalog/record.js';
import type { Fault } from '../catalog/tree.js';
import {
  removeIfThere,
  removeTemporaries,
  stageFile,
  syncFolder,
  writeError,
} from '../disk/files.js';
import { readSmallFile } from '../disk/small-file.js';
import { ServerError } from '../errors.js';

export interface ProductNamesOptions {
  /** Absolute. */
  imagesDir: string;
  /** Is told what the file holds that was written, so that nobody need read it. */
  learn: (digests: KnownDigests) => void;
}

export interface ProductNames {
  /** @throws ServerError IMAGE_INVALID for what can be no alias. */
  check(name: string): void;
  /** The names that the folders of `product` give it: it needs no other word for them, and cannot lose them. */
  ofFolders(product: string): readonly string[];
  /**
   * Takes `name` for `product` until {@link ProductNames.release}.
   *
   * @returns false where it has it already.
   * @throws ServerError ALIAS_EXISTS where another product of its architecture has it.
   */
  claim(name: string, product: string, index: ImageIndex): boolean;
  release(name: string, product: string): void;
  /**
   * Changes the file of `product`. One call at a time.
   *
   * @returns whether there was anything to change.
   * @throws ServerError IMAGE_INVALID where the file cannot be used, DISK_FULL, DENIED, IO.
   */
  change(product: string, changes: readonly AliasChange[]): Promise<boolean>;
  /** Takes all aliases out of the file of `product`. One call at a time. */
  clear(product: string): Promise<void>;
}

export function createProductNames({ imagesDir, learn }: ProductNamesOptions): ProductNames {
  /** The product that has claimed a name, by {@link keyOf}. */
  const claims = new Map<string, string>();
  const fileOf = (product: string) => join(imagesDir, product, 'product.yaml');
  const change: ProductNames['change'] = async (product, changes) => {
    const path = fileOf(product);
    for (;;) {
      const before = await read(path);
      if ('fault' in before) throw unusable(product, before.fault);
      const after = changed(before.text, { product, changes });
      if (after === before.text) return false;
      if (await replace(path, { before, after })) return true;
    }
  };
  /** @returns false where the file is not what it was any more; then nothing was done. */
  const replace = async (path: string, { before, after }: { before: Text; after: string }) => {
    try {
      await removeTemporaries(dirname(path), ['product.yaml']);
      const staged = saysNothing(after)
        ? { commit: () => removeIfThere(path), discard: async () => {} }
        : await stage(path, after);
      const now = await read(path);
      if ('fault' in now || now.stamp !== before.stamp) {
        await staged.discard();
        return false;
      }
      await staged.commit();
      await syncFolder(dirname(path));
      return true;
    } catch (error) {
      throw writeError(path, error);
    }
  };
  const stage = async (path: string, text: string) => {
    const staged = await stageFile(path, [Buffer.from(text)]);
    learn(digestOf(text, staged.stamp));
    return staged;
  };
  return {
    check(name) {
      if (isAlias(name)) return;
      throw new ServerError(
        'IMAGE_INVALID',
        `${JSON.stringify(name.slice(0, 100))} cannot be an alias`,
        {
          hint: 'use letters, digits and . _ : + ~ @ / -, a letter or digit first, at most 200',
        },
      );
    },
    ofFolders,
    claim(name, product, index) {
      const arch = archOf(product);
      const owners = index.aliases.filter((alias) => alias.name === name);
      const claimed = claims.get(keyOf(name, arch));
      const all = [...owners.map((alias) => alias.product), ...(claimed ? [claimed] : [])];
      const other = all.find((owner) => archOf(owner) === arch && owner !== product);
      if (other !== undefined) {
        throw ofFolders(product).includes(name)
          ? aliasExists(name, other, 'delete it first, or choose another os, release or variant')
          : aliasExists(name, other);
      }
      if (all.includes(product)) return false;
      claims.set(keyOf(name, arch), product);
      return true;
    },
    release(name, product) {
      const key = keyOf(name, archOf(product));
      if (claims.get(key) === product) claims.delete(key);
    },
    change,
    async clear(product) {
      const found = await read(fileOf(product));
      const said = 'fault' in found ? found : readProductYaml(found.text);
      if ('fault' in said) return;
      await change(
        product,
        (said.value.aliases ?? []).map((remove) => ({ remove })),
      );
    },
  };
}

export function aliasExists(
  name: string,
  product: string,
  hint = 'choose another, or delete that one first',
): ServerError {
  const text = `The alias "${name}" belongs to ${product} already`;
  return new ServerError('ALIAS_EXISTS', text, { hint });
}

/** `product` is `env/release/arch/type`. */
function ofFolders(product: string): string[] {
  const [env = '', release = '', arch = '', type = ''] = product.split('/');
  return standardAliases({ env, release, arch, type });
}

function keyOf(name: string, arch: string): string {
  return `${arch} ${name}`;
}

/** Of `env/release/arch/type`. */
function archOf(product: string): string {
  return product.split('/')[2] ?? '';
}

/** Whether a file with this text is as good as none. */
function saysNothing(text: string): boolean {
  const read = readProductYaml(text);
  const isEmpty = 'value' in read && Object.values(read.value).every((value) => value.length === 0);
  return isEmpty && !text.includes('#');
}

function digestOf(text: string, stamp: string): KnownDigests {
  const sha256 = createHash('sha256').update(text).digest('hex');
  const read = readProductYaml(text);
  const digest = 'value' in read ? { sha256, facts: read.value } : { sha256, fault: read.fault };
  return { '': [['product.yaml', stamp, digest]] };
}

/** `stamp` is absent where there is no file. */
type Text = { text: string; stamp?: string };

async function read(path: string): Promise<Text | { fault: Fault }> {
  return (await readSmallFile(path)) ?? { text: '' };
}

/** @throws ServerError IMAGE_INVALID */
function changed(
  before: string,
  { product, changes }: { product: string; changes: readonly AliasChange[] },
): string {
  return changes.reduce((text, change) => {
    const result = changeAliases(text, change);
    if ('fault' in result) throw unusable(product, result.fault);
    return result.value;
  }, before);
}

function unusable(product: string, { reason, cure }: Fault): ServerError {
  return new ServerError('IMAGE_INVALID', `${product}: ${reason}`, { hint: cure });
}

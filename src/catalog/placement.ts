/**
 * Where in the tree an uploaded image goes, whatever is told of it: names that come out of here fit the grammar
 * of `tree.ts`, and no two of them differ in case alone. Pure.
 */
import { treeArchitecture } from './architectures.js';
import { isName, isTemporary, isVersionName, type ProductFolder } from './tree.js';

/** What decides where an image goes. */
export interface PlacementFacts {
  /** `os`, `release` and `variant` count. */
  properties: Readonly<Record<string, string>>;
  /** What the image is for, by any of the architecture's names; the first that is one counts. */
  architectures: readonly string[];
  /** The names that it is to have. */
  aliases: readonly string[];
  fingerprint: string;
}

export type Placement = Pick<ProductFolder, 'env' | 'release' | 'arch' | 'type'>;

/** The product that an image belongs to; `undefined` where its architecture is none that we know. */
export function placementOf(facts: PlacementFacts): Placement | undefined {
  const arch = facts.architectures.map(treeArchitecture).find((name) => name !== undefined);
  if (arch === undefined) return undefined;
  const variant = folderName(facts.properties.variant ?? '');
  const { type = 'default', ...place } = ofProperties(facts) ?? ofAliases(facts) ?? custom(facts);
  return { ...place, arch, type: variant ?? type };
}

type Found = Pick<Placement, 'env' | 'release'> & { type?: string };

function ofProperties({ properties }: PlacementFacts): Found | undefined {
  const [env, release] = [folderName(properties.os ?? ''), folderName(properties.release ?? '')];
  return env === undefined || release === undefined ? undefined : { env, release };
}

/** By the first alias of the form `env/release` or `env/release/type`. */
function ofAliases({ aliases }: PlacementFacts): Found | undefined {
  for (const alias of aliases) {
    const parts = alias.split('/');
    if (parts.length !== 2 && parts.length !== 3) continue;
    const [env, release, type] = parts.map(folderName);
    if (env === undefined || release === undefined) continue;
    if (parts.length === 2) return { env, release };
    if (type !== undefined) return { env, release, type };
  }
  return undefined;
}

function custom({ aliases, fingerprint }: PlacementFacts): Found {
  const named = aliases.map(folderName).find((name) => name !== undefined);
  return { env: 'custom', release: named ?? fingerprint.slice(0, 12) };
}

const longestFolderName = 64;
/** More than this of a text does not count: normalisation can make a text many times longer. */
const longestText = 500;

/**
 * `text` as the name of a folder: lower case, accents taken off, and a dash for whatever cannot stand there.
 * Colons cannot: `a:b/c` and `a/b:c` would be one product.
 */
export function folderName(text: string): string | undefined {
  const name = text
    .slice(0, longestText)
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^a-z0-9._+~@-]+/g, '-')
    .replace(/^[^a-z0-9]+/, '')
    .slice(0, longestFolderName)
    .replace(/[^a-z0-9+]+$/, '');
  const finished = isTemporary(name) ? name.replaceAll('.', '-') : name;
  return isName(finished) && !isTemporary(finished) ? finished : undefined;
}

/** From the year 1000 to the end of 9999, in milliseconds since 1970: what four digits can name. */
const nameable = { from: -30_610_224_000_000, to: 253_402_300_799_999 };

/**
 * Names for a version made at `time`, the one to be preferred first: by the minute, by the second, then counted.
 *
 * @param time milliseconds since 1970.
 */
export function* versionNames(time: number): Generator<string, never> {
  const within = Math.min(Math.max(time, nameable.from), nameable.to);
  const [date = '', clock = ''] = new Date(within).toISOString().split(/[T.]/);
  const name = `${date.replaceAll('-', '')}_${clock}`;
  yield name.slice(0, -3);
  yield name;
  // Names are compared as texts: after -99 comes -99-02.
  for (let counted = name; ; counted += '-99') {
    for (let number = 2; number <= 99; number++)
      yield `${counted}-${String(number).padStart(2, '0')}`;
  }
}

/** When a version was made as its name tells, in milliseconds since 1970; 0 where it tells nothing. */
export function versionTime(name: string): number {
  if (!isVersionName(name)) return 0;
  const [, date = '', hours = '00', minutes = '00', seconds = '00'] =
    /^(\d{8})(?:[_T-]?([01]\d|2[0-3]):?([0-5]\d)(?::?([0-5]\d))?(?!\d))?/.exec(name) ?? [];
  const [year, month, day] = [date.slice(0, 4), date.slice(4, 6), date.slice(6)];
  return Date.parse(`${year}-${month}-${day}T${hours}:${minutes}:${seconds}Z`);
}

/** What a part of an image is by its content. */
export type Content = 'squashfs' | 'qcow2' | 'archive';

/** The name of a root file with this content. Whichever way an archive is compressed: clients go by content. */
export function rootFileName(content: Content): string {
  return { squashfs: 'rootfs.squashfs', qcow2: 'disk.qcow2', archive: 'rootfs.tar.xz' }[content];
}

export const metadataFileName = 'lxd.tar.xz';
export const unifiedFileName = 'lxd_combined.tar.gz';

/**
 * What the small text files of the tree say: `metadata.yaml` (LXD and Incus image metadata),
 * `image.yaml` (distrobuilder's definition), `product.yaml` (ours) and `SHA256SUMS`. Pure.
 */
import {
  boolCoreTag,
  defineScalarTag,
  FAILSAFE_SCHEMA,
  floatCoreTag,
  intCoreTag,
  loadAll,
  nullCoreTag,
} from 'js-yaml';
import {
  type Facts,
  type Fault,
  isName,
  isPrintable,
  printable,
  type RequirementRule,
} from './tree.js';

/** No YAML or SHA256SUMS of an image comes near this size, in bytes; a larger one is refused unread. */
export const largestText = 1024 * 1024;

const longestValue = 200;
const longestReason = 300;
/** YAML can refer to one list many times; short lists keep what comes of that small. */
const mostEntries = 100;
const aliasPattern = /^[A-Za-z0-9][A-Za-z0-9._:+~@/-]*$/;

/** Either what a text says, or what is wrong with it. */
export type Reading<T> = { value: T } | { fault: Fault };

/** Whether `text` can be an alias: it has to survive a comma-separated list and a command line. */
export function isAlias(text: string): boolean {
  return text.length <= longestValue && aliasPattern.test(text);
}

/**
 * Reads `metadata.yaml` of an image.
 * Takes `properties.os`, `properties.release` as title, and `properties["requirements.*"]`.
 */
export function readMetadataYaml(text: string): Reading<Facts> {
  return reading(text, 'metadata.yaml', 'metadata-invalid', (document) => {
    const properties = mapping(document.properties ?? {}, 'properties');
    const values = Object.entries(properties).flatMap(([key, value]) => {
      const name = /^requirements\.([a-z0-9_.-]+)$/i.exec(key)?.[1];
      if (name === undefined) return [];
      return [[scalar(name, 'properties'), scalar(value, `properties.${key}`)] as const];
    });
    return compact({
      os: optional(properties.os, 'properties.os'),
      releaseTitle: optional(properties.release, 'properties.release'),
      requirements:
        values.length > 0
          ? [{ values: Object.fromEntries(few(values, 'properties.requirements')) }]
          : undefined,
    });
  });
}

/** What LXD and Incus know of an image from its `metadata.yaml`. */
export interface ImageMetadata {
  /** As it is written there: `x86_64`; '' where nothing is. */
  architecture: string;
  /** When it was made and when it expires, in milliseconds since 1970; 0 is unknown, and never. */
  created: number;
  expires: number;
  properties: Record<string, string>;
}

/** Reads all of `metadata.yaml` that clients are shown of an image. */
export function readImageMetadata(text: string): Reading<ImageMetadata> {
  return reading(text, 'metadata.yaml', 'metadata-invalid', (document) => ({
    architecture: optional(document.architecture, 'architecture') ?? '',
    created: seconds(document.creation_date, 'creation_date'),
    expires: seconds(document.expiry_date, 'expiry_date'),
    properties: propertyTexts(document.properties ?? {}, 'properties'),
  }));
}

/**
 * Properties of an image as they are kept: without those that have no value, line breaks as spaces.
 *
 * @param properties as a client has sent them, or a file holds them.
 */
export function readProperties(properties: unknown): Reading<Record<string, string>> {
  return judged('the list of properties', 'metadata-invalid', () =>
    propertyTexts(properties, 'properties'),
  );
}

/** A description may be some sentences long, but not a book. */
const longestProperty = 4096;

function propertyTexts(value: unknown, what: string): Record<string, string> {
  const entries = few(Object.entries(mapping(value, what)), what);
  const texts = entries.map(([key, entry]) => {
    if (key === '') throw new Malformed(`${what} has one without a name`);
    return [scalar(key, `a name in ${what}`), propertyText(entry, `${what}.${key}`)] as const;
  });
  return Object.fromEntries(texts.filter(([, text]) => text !== ''));
}

function propertyText(value: unknown, what: string): string {
  if (isNone(value)) return '';
  if (typeof value !== 'string') throw new Malformed(`${what} is not a text`);
  if (value.length > longestProperty)
    throw new Malformed(`${what} is longer than ${longestProperty} characters`);
  const line = value.replace(/[\t\r\n]+/g, ' ').trim();
  if (!isPrintable(line)) throw new Malformed(`${what} has control characters`);
  return line;
}

/** The latest time that a JavaScript date can hold, in seconds since 1970. */
const latestSecond = 8.64e12;

/** Seconds since 1970 as milliseconds; 0 where nothing is there, or a time before. */
function seconds(value: unknown, what: string): number {
  const text = optional(value, what) ?? '0';
  const number = Number(text);
  if (!/^-?\d+(?:\.\d+)?$/.test(text) || number > latestSecond)
    throw new Malformed(`${what} is not a time in seconds since 1970`);
  return Math.max(0, Math.floor(number)) * 1000;
}

/**
 * Reads `image.yaml`, of which only the `simplestream` part counts:
 * `distro_name`, `release_aliases` (release → names, a list or separated by commas) and
 * `requirements` (a mapping, or a list of mappings with filters by release, architecture, variant).
 */
export function readImageYaml(text: string): Reading<Facts> {
  return reading(text, 'image.yaml', 'yaml-invalid', (document) => {
    const part = mapping(document.simplestream ?? {}, 'simplestream');
    const releases = mapping(part.release_aliases ?? {}, 'simplestream.release_aliases');
    const named = few(Object.entries(releases), 'simplestream.release_aliases');
    const releaseAliases = named.map(([release, names]) => {
      return [release, aliasList(names, `simplestream.release_aliases.${release}`)] as const;
    });
    return compact({
      os: optional(part.distro_name, 'simplestream.distro_name'),
      releaseAliases: releaseAliases.length > 0 ? Object.fromEntries(releaseAliases) : undefined,
      requirements: requirementRules(part.requirements, 'simplestream.requirements'),
    });
  });
}

const productKeys = new Set(['os', 'release_title', 'aliases', 'requirements']);

/** Reads `product.yaml`: `os`, `release_title`, `aliases` and `requirements`; nothing else may stand there. */
export function readProductYaml(text: string): Reading<Facts> {
  return reading(text, 'product.yaml', 'yaml-invalid', (document) => {
    for (const key of Object.keys(document)) {
      if (!productKeys.has(key)) throw new Malformed(`it has the unknown key "${key}"`);
    }
    return compact({
      os: optional(document.os, 'os'),
      releaseTitle: optional(document.release_title, 'release_title'),
      aliases: isNone(document.aliases) ? undefined : aliasList(document.aliases, 'aliases'),
      requirements: requirementRules(document.requirements, 'requirements'),
    });
  });
}

/**
 * Reads `SHA256SUMS` as coreutils writes it: `<64 hex digits>  <name>` or `… *<name>` a line.
 * Empty lines and lines that start with `#` are passed over; `./` before a name is taken off.
 *
 * @returns the digests in lower case by file name.
 */
export function readSums(text: string): Reading<Record<string, string>> {
  const sums: Record<string, string> = {};
  const lines = text.replace(/^\ufeff/, '').split(/\r?\n/);
  for (const [index, line] of lines.entries()) {
    if (line === '' || line.startsWith('#')) continue;
    const match = /^([0-9a-f]{64})[ \t][ \t*]?(?:\.\/)?(.+)$/i.exec(line);
    const [, digest, name] = match ?? [];
    if (digest === undefined || name === undefined || !isName(name)) {
      return sumsFault(`line ${index + 1} of SHA256SUMS is not a SHA-256 digest and a file name`);
    }
    // "sha256sum * > SHA256SUMS" finds the file there, empty. It cannot vouch for itself.
    if (name !== 'SHA256SUMS') sums[name] = digest.toLowerCase();
  }
  if (Object.keys(sums).length === 0) return sumsFault('SHA256SUMS names no file');
  return { value: sums };
}

function sumsFault(reason: string): { fault: Fault } {
  return {
    fault: {
      code: 'sums-invalid',
      reason,
      cure: 'write it with "sha256sum * > SHA256SUMS"',
    },
  };
}

/** Thrown inside {@link reading} only; its message completes "metadata.yaml cannot be used: …". */
class Malformed extends Error {}

function reading<T>(
  text: string,
  name: string,
  code: Fault['code'],
  read: (document: Record<string, unknown>) => T,
): Reading<T> {
  return judged(name, code, () => read(mapping(parseYaml(text), 'the document')));
}

function judged<T>(name: string, code: Fault['code'], read: () => T): Reading<T> {
  try {
    return { value: read() };
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    const { message } = error;
    const shown = message.length > longestReason ? `${message.slice(0, longestReason)}…` : message;
    const reason = printable(`${name} cannot be used: ${shown}`);
    return { fault: { code, reason, cure: `correct ${name}` } };
  }
}

/** YAML whose scalars stay as they are written: 22.10 is a release, not a number that equals 22.1. */
export const yamlSchema = FAILSAFE_SCHEMA.withTags(
  nullCoreTag,
  [boolCoreTag, intCoreTag, floatCoreTag].map(({ tagName }) =>
    defineScalarTag(tagName, { resolve: (source) => source, identify: () => false }),
  ),
);

function parseYaml(text: string): unknown {
  const [document, ...more] = documentsOf(text);
  if (more.length > 0) throw new Malformed('it has more than one document');
  return document ?? {};
}

function documentsOf(text: string): unknown[] {
  try {
    return loadAll(text, { schema: yamlSchema });
  } catch (error) {
    const [first = ''] = String(error instanceof Error ? error.message : error).split('\n');
    throw new Malformed(`it is not YAML (${first})`);
  }
}

function mapping(value: unknown, what: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw new Malformed(`${what} is not a mapping`);
}

function optional(value: unknown, what: string): string | undefined {
  return isNone(value) || value === '' ? undefined : scalar(value, what);
}

function isNone(value: unknown): value is null | undefined {
  return value === undefined || value === null;
}

/** A value as the string that simplestreams clients insist on. */
function scalar(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new Malformed(`${what} is not a text`);
  if (value.length > longestValue)
    throw new Malformed(`${what} is longer than ${longestValue} characters`);
  if (!isPrintable(value)) throw new Malformed(`${what} has control characters`);
  return value;
}

function aliasList(value: unknown, what: string): string[] {
  const list = Array.isArray(value) ? value : scalar(value, what).split(',');
  return few(list, what).map((entry) => {
    const alias = scalar(entry, what).trim();
    if (!isAlias(alias)) throw new Malformed(`${what} has "${alias}", which cannot be an alias`);
    return alias;
  });
}

function requirementRules(value: unknown, what: string): RequirementRule[] | undefined {
  if (isNone(value)) return undefined;
  if (!Array.isArray(value)) return [{ values: requirementValues(value, what) }];
  return few(value, what).map((entry) => {
    const rule = mapping(entry, what);
    return compact({
      values: requirementValues(rule.requirements ?? {}, `${what}.requirements`),
      releases: nameList(rule.releases, `${what}.releases`),
      architectures: nameList(rule.architectures, `${what}.architectures`),
      types: nameList(rule.variants, `${what}.variants`),
    });
  });
}

function requirementValues(value: unknown, what: string): Record<string, string> {
  const entries = few(Object.entries(mapping(value, what)), what);
  return Object.fromEntries(
    entries.map(([key, entry]) => [scalar(key, what), scalar(entry, `${what}.${key}`)]),
  );
}

function nameList(value: unknown, what: string): string[] | undefined {
  if (isNone(value)) return undefined;
  if (!Array.isArray(value)) throw new Malformed(`${what} is not a list`);
  return few(value, what).map((entry) => scalar(entry, what));
}

function few<T>(list: T[], what: string): T[] {
  if (list.length > mostEntries)
    throw new Malformed(`${what} has more than ${mostEntries} entries`);
  return list;
}

type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> };

/** `object` without the keys that have no value. */
function compact<T extends object>(object: T): Defined<T> {
  return Object.fromEntries(
    Object.entries(object).filter(([, value]) => value !== undefined),
  ) as Defined<T>;
}

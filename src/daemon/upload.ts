/** One image on its way in: its parts are hashed as they come, then judged as a whole. */
import { createHash, type Hash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageType } from '../catalog/images.js';
import { type ImageMetadata, readProperties } from '../catalog/metadata.js';
import {
  metadataFileName,
  placementOf,
  rootFileName,
  unifiedFileName,
} from '../catalog/placement.js';
import type { KnownDigests } from '../catalog/record.js';
import { storedFactsName, storedFactsText } from '../catalog/stored-facts.js';
import { type Facts, type FileDigest, productPath } from '../catalog/tree.js';
import { Ends } from '../disk/ends.js';
import type { StagedFolder } from '../disk/staging.js';
import { stampOf } from '../disk/stamp.js';
import { ServerError } from '../errors.js';
import type { LibraryImage, Upload, UploadFacts, UploadPart } from '../server/lxd/contract.js';
import { formatSize } from '../units.js';
import type { Inspector } from './inspector.js';
import { createTurns } from './turns.js';
import { resultOf, type UploadResult } from './upload-counts.js';

export interface UploadOptions {
  folder: StagedFolder;
  /** Of all parts together, in bytes. */
  maxSize: number;
  inspector: Pick<Inspector, 'inspect'>;
  /** Aborts when the upload is to end; {@link Upload.discard} does so as well. */
  signal: AbortSignal;
  /** Gives the image its place, and publishes it. */
  arrive: (arrival: Arrival) => Promise<LibraryImage>;
  /** Is told how many bytes have come, again and again. */
  onBytes: (bytes: number) => void;
  /** Is told, once, when nothing is left of it in staging. */
  onEnd: (result: UploadResult) => void;
}

/** An image that is whole, in a folder that has what its version's folder is to have. */
export interface Arrival {
  folder: StagedFolder;
  fingerprint: string;
  /** `env/release/arch/type`. */
  product: string;
  /** What its version is named by, in milliseconds since 1970. */
  created: number;
  aliases: readonly string[];
  /** Of its files, as the pipeline wants them. */
  digests: KnownDigests[string];
  /** Aborts while it may still be left out of the tree. */
  signal: AbortSignal;
}

interface Part {
  size: number;
  sha256: string;
  /** What comes after it goes on from here. */
  hash: Hash;
  ends: Ends;
}

export function createUpload(options: UploadOptions): Upload {
  const { folder, maxSize, inspector, arrive, onBytes } = options;
  const ending = new AbortController();
  const signal = AbortSignal.any([options.signal, ending.signal]);
  const parts = new Map<UploadPart, Part>();
  const turns = createTurns();
  let total = 0;
  let fingerprint = '';
  let state: 'open' | 'broken' | 'done' = 'open';
  /** What it failed with first: what follows is of no account. */
  let failure: unknown;
  const failing = <T>(work: () => Promise<T>) =>
    work().catch((error: unknown) => {
      failure ??= error;
      throw error;
    });
  let isOver = false;
  const onEnd = () => {
    if (isOver) return;
    isOver = true;
    options.onEnd(state === 'done' ? 'added' : resultOf(failure));
  };

  const write = async (part: UploadPart, source: AsyncIterable<Uint8Array>): Promise<number> => {
    throwIfOver(signal);
    refuseOutOfTurn(part, parts, state);
    const own = createHash('sha256');
    const combined = parts.get('metadata')?.hash.copy();
    const ends = new Ends();
    let size = 0;
    const onChunk = (chunk: Uint8Array) => {
      size += chunk.length;
      total += chunk.length;
      onBytes(chunk.length);
      if (total > maxSize) throw tooLarge(maxSize);
      own.update(chunk);
      combined?.update(chunk);
      ends.push(chunk);
    };
    state = 'broken';
    await folder.write(part, source, { signal, onChunk });
    if (size === 0) throw invalid(`The ${part} file is empty`);
    state = 'open';
    const sha256 = own.copy().digest('hex');
    parts.set(part, { size, sha256, hash: own, ends });
    fingerprint = combined?.digest('hex') ?? sha256;
    return size;
  };

  const finish = async (facts: UploadFacts): Promise<LibraryImage> => {
    throwIfOver(signal);
    if (state !== 'open') throw invalid('The upload did not come whole');
    state = 'broken';
    const files = judgeParts(parts);
    if (facts.fingerprint !== undefined && facts.fingerprint.toLowerCase() !== fingerprint) {
      throw invalid(`The fingerprint of what came is ${fingerprint}, not ${facts.fingerprint}`);
    }
    const read = await inspect(files);
    const judged = judge(facts, { read, files, fingerprint });
    for (const { part, name } of files) await folder.rename(part, name);
    await folder.keep(storedFactsName, storedFactsText(judged.stored));
    const digests = await digestsOf(folder.path, { files, facts: read.facts, fingerprint });
    throwIfOver(signal);
    const { product, created } = judged;
    const aliases = facts.aliases ?? [];
    const image = await arrive({ folder, fingerprint, product, created, aliases, digests, signal });
    state = 'done';
    return image;
  };

  /** What the metadata say; nothing where their compression is none that is read here. */
  const inspect = async (files: readonly JudgedPart[]): Promise<Read> => {
    const [first] = files;
    if (first === undefined) throw new Error('an upload was judged that has no parts');
    const unified = first.part === 'unified';
    const path = join(folder.path, first.part);
    const found = await inspector.inspect({ path, size: first.size, unified });
    if ('fault' in found) throw invalid(found.fault);
    if (!('unknown' in found)) return found;
    return { metadata: noMetadata, facts: undefined, disk: false, unread: true };
  };

  let ended: Promise<void> | undefined;
  const end = async () => {
    ending.abort();
    await turns.idle();
    try {
      if (state !== 'done') await folder.remove();
    } finally {
      onEnd();
    }
  };
  return {
    write: (part, source) => turns.take(() => failing(() => write(part, source))),
    finish: async (facts) => {
      const image = await turns.take(() => failing(() => finish(facts)));
      onEnd();
      return image;
    },
    discard() {
      ended ??= end();
      return ended;
    },
  };
}

function refuseOutOfTurn(
  part: UploadPart,
  parts: ReadonlyMap<UploadPart, Part>,
  state: 'open' | 'broken' | 'done',
): void {
  if (state !== 'open') throw invalid('The upload has ended');
  const wanted = part === 'rootfs' ? 'metadata' : '';
  if ([...parts.keys()].join() === wanted) return;
  const before = [...parts.keys()].join(' and ') || 'nothing';
  throw invalid(`A ${part} file cannot come after ${before}`, {
    hint: 'send metadata and then rootfs, or one unified file',
  });
}

interface JudgedPart extends Part {
  part: UploadPart;
  /** Its name in the tree. */
  name: string;
}

/** The parts by their content, metadata first. @throws ServerError IMAGE_INVALID */
function judgeParts(parts: ReadonlyMap<UploadPart, Part>): JudgedPart[] {
  if (parts.size === 0) throw invalid('No image came');
  if (parts.has('metadata') && !parts.has('rootfs'))
    throw invalid('The root file system is missing');
  return [...parts].map(([part, found]) => {
    const { ends, size } = found;
    const content = ends.content();
    if (content === undefined || (part !== 'rootfs' && content !== 'archive')) {
      throw invalid(`The ${part} file is ${wantedContent(part)}`, {
        hint: 'export the image with "lxc image export", and upload what that gives',
      });
    }
    const fault = ends.fault({ name: `the ${part} file`, size });
    if (fault !== undefined) throw invalid(upperFirst(fault.reason), { hint: fault.cure });
    const name =
      part === 'rootfs'
        ? rootFileName(content)
        : part === 'unified'
          ? unifiedFileName
          : metadataFileName;
    return { ...found, part, name };
  });
}

function wantedContent(part: UploadPart): string {
  return part === 'rootfs' ? 'neither squashfs nor qcow2 nor a tar archive' : 'no tar archive';
}

function upperFirst(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

interface Read {
  metadata: ImageMetadata;
  facts: Facts | undefined;
  disk: boolean;
  /** Whether the metadata could not be read. */
  unread?: true;
}

const noMetadata: ImageMetadata = { architecture: '', created: 0, expires: 0, properties: {} };

/** A clock that is wrong by more than this must not make an image the newest for years; in milliseconds. */
const latestAhead = 24 * 3_600_000;

/** What becomes of the image. @throws ServerError IMAGE_INVALID */
function judge(
  facts: UploadFacts,
  { read, files, fingerprint }: { read: Read; files: readonly JudgedPart[]; fingerprint: string },
) {
  const { metadata, disk, unread = false } = read;
  const merged = readProperties({ ...metadata.properties, ...facts.properties });
  if ('fault' in merged) throw invalid(merged.fault.reason);
  const properties = merged.value;
  const now = Date.now();
  const isTime = metadata.created > 0 && metadata.created <= now + latestAhead;
  const created = isTime ? metadata.created : now;
  const asked = readProperties(facts.properties ?? {});
  const place = placementOf({
    properties,
    architectures: [
      ('value' in asked && asked.value.architecture) || '',
      metadata.architecture,
      metadata.properties.architecture ?? '',
    ],
    aliases: facts.aliases ?? [],
    fingerprint,
  });
  if (place === undefined) throw noArchitecture(unread, metadata.architecture);
  const isUnified = files.length === 1;
  const type: ImageType = disk ? 'virtual-machine' : 'container';
  const stored = {
    properties,
    type: isUnified ? type : undefined,
    created,
    published: now,
    expires: facts.expires ?? metadata.expires,
  };
  return { product: productPath(place), created, stored };
}

function noArchitecture(unread: boolean, named: string): ServerError {
  if (unread) {
    return invalid(
      'Its metadata.yaml cannot be read: it is compressed in a way that is not known here',
      {
        hint: 'compress it with xz, gzip or zstd, or give the property architecture, os and release',
      },
    );
  }
  const what = named === '' ? 'names no architecture' : `names the architecture "${named}"`;
  return invalid(`Its metadata.yaml ${what}`, {
    hint: 'give the property architecture, for example x86_64 or aarch64',
  });
}

/** What the pipeline would find out by reading the files. */
async function digestsOf(
  folder: string,
  {
    files,
    facts,
    fingerprint,
  }: { files: readonly JudgedPart[]; facts: Facts | undefined; fingerprint: string },
): Promise<KnownDigests[string]> {
  const [first] = files;
  const digests: KnownDigests[string] = [];
  for (const { part, name, sha256 } of files) {
    const stamp = stampOf(await stat(join(folder, name), { bigint: true }));
    const digest: FileDigest = { sha256 };
    if (part === 'rootfs') digest.combined = { [first?.sha256 ?? '']: fingerprint };
    else if (facts !== undefined) digest.facts = facts;
    digests.push([name, stamp, digest]);
  }
  return digests;
}

function throwIfOver(signal: AbortSignal): void {
  if (signal.aborted) throw new ServerError('INTERRUPTED', 'The upload was cancelled');
}

function invalid(message: string, options: { hint?: string } = {}): ServerError {
  return new ServerError('IMAGE_INVALID', message, options);
}

export function tooLarge(maxSize: number): ServerError {
  return new ServerError('TOO_LARGE', `The image is larger than ${formatSize(maxSize)}`, {
    hint: 'set uploads.max_size in the configuration of the server to allow more',
  });
}

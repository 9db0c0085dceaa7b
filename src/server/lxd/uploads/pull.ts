/** Fetches an image from another server: an LXD or Incus daemon, or a simplestreams server. */
import { createHash } from 'node:crypto';
import * as v from 'valibot';
import { ServerError } from '../../../errors.js';
import type { Library, LibraryImage, Upload, UploadFacts } from '../contract.js';
import { tooLarge } from './body.js';
import { addAliases, existingImage, isExisting } from './existing.js';
import { createProgress } from './progress.js';
import { receive } from './receive.js';
import { isFingerprint, type PullSource, timeOf } from './request.js';
import { chooseImage, imagePaths, type StreamFile, type StreamImage } from './simplestreams.js';
import { openSource, type Self, type Source, type SourceLimits } from './source.js';

export interface PullOptions {
  library: Library;
  source: PullSource;
  facts: UploadFacts;
  self: Self;
  /** Whether the client is on this host. */
  here: boolean;
  /** In bytes. */
  maxSize: number;
  limits: SourceLimits;
  signal: AbortSignal;
  tell: (metadata: Record<string, unknown>) => void;
  /** Called before anything of the library is changed: whoever asked may be trusted no more. @throws ServerError */
  confirm: () => void;
}

/** What is told of an image in a few lines, and what simplestreams servers tell of all their images. */
const mostAboutImage = 1024 * 1024;
const mostIndex = 1024 * 1024;
const mostImages = 64 * 1024 * 1024;

export interface Pulled {
  image: LibraryImage;
  /** Whether it was here before. */
  known: boolean;
}

/**
 * Pulls, and resolves when the image is published; one that is here already is not fetched again, and gets the
 * aliases that it lacks.
 *
 * @throws ServerError as {@link openSource}, {@link Source} and the library
 */
export async function pull(options: PullOptions): Promise<Pulled> {
  const { library, source } = options;
  const server = openSource({
    server: source.server,
    certificate: source.certificate,
    self: options.self,
    here: options.here,
    limits: options.limits,
    signal: options.signal,
  });
  const find = source.protocol === 'simplestreams' ? findInStreams : findInDaemon;
  const known = isFingerprint(source.image) ? source.image : undefined;
  const here = known && (await existingImage(library, known));
  if (here) return withAliases(options, here);
  const found = await find(server, source);
  const present = await existingImage(library, found.facts.fingerprint);
  if (present) return withAliases(options, present);
  try {
    return { image: await download(options, found), known: false };
  } catch (error) {
    // Somebody else has brought it meanwhile.
    const image = isExisting(error) && (await existingImage(library, found.facts.fingerprint));
    if (image) return withAliases(options, image);
    throw error;
  }
}

async function withAliases(
  { library, facts, confirm }: Pick<PullOptions, 'library' | 'facts' | 'confirm'>,
  image: LibraryImage,
): Promise<Pulled> {
  confirm();
  await addAliases(library, image, facts.aliases);
  return { image, known: true };
}

/** An image of another server. */
interface Found {
  /** As that server tells them. */
  facts: UploadFacts & { fingerprint: string };
  /** Of all files, in bytes; 0 where it is not known. */
  size: number;
  /** @returns the name of the root file, where the source has given it one */
  fetch(upload: Upload, options: FetchOptions): Promise<string | undefined>;
}

interface FetchOptions {
  maxSize: number;
  onBytes: (part: 'metadata' | 'rootfs' | 'unified', bytes: number) => void;
}

async function download(options: PullOptions, found: Found): Promise<LibraryImage> {
  const { library, signal, maxSize, facts, tell, confirm } = options;
  if (found.size > maxSize) throw tooLarge(maxSize);
  const progress = createProgress({ total: found.size, tell });
  const upload = await library.begin({ signal });
  try {
    const filename = await found.fetch(upload, { maxSize, onBytes: progress.add });
    signal.throwIfAborted();
    confirm();
    return await upload.finish({
      filename,
      ...found.facts,
      ...facts,
      properties: { ...found.facts.properties, ...facts.properties },
    });
  } finally {
    await upload.discard();
  }
}

const daemonImage = v.looseObject({
  fingerprint: v.pipe(v.string(), v.check(isFingerprint, 'is not a fingerprint')),
  properties: v.nullish(v.record(v.string(), v.string())),
  expires_at: v.nullish(v.string()),
  filename: v.nullish(v.string()),
  size: v.nullish(v.pipe(v.number(), v.minValue(0))),
});
const daemonAlias = v.looseObject({ target: v.pipe(v.string(), v.minLength(1)) });

/** Asks an LXD or Incus server. */
async function findInDaemon(server: Source, source: PullSource): Promise<Found> {
  const { secret, project } = source;
  const query = {
    ...(secret === '' ? {} : { secret }),
    ...(project === '' || project === 'default' ? {} : { project }),
  };
  const ask = async <T extends v.GenericSchema>(schema: T, path: string) => {
    const answer = await server.json(path, { most: mostAboutImage, query });
    return read(v.looseObject({ metadata: schema }), answer, server).metadata as v.InferOutput<T>;
  };
  /** Of a public image clients give the alias that the user typed, wherever a fingerprint may stand. */
  const resolve = async (name: string) => {
    if (isFingerprint(name)) return name;
    try {
      return (await ask(daemonAlias, `/1.0/images/aliases/${encodeURIComponent(name)}`)).target;
    } catch (error) {
      // It may be the beginning of a fingerprint.
      if (error instanceof ServerError && error.code === 'IMAGE_MISSING') return name;
      throw error;
    }
  };
  const wanted = await resolve(source.image || source.alias);
  const path = `/1.0/images/${encodeURIComponent(wanted)}`;
  const about = await ask(daemonImage, path);
  if (!about.fingerprint.startsWith(wanted)) {
    throw new ServerError('IO', `The source ${server.name} answers with another image`);
  }
  return {
    facts: {
      fingerprint: about.fingerprint,
      properties: about.properties ?? {},
      expires: timeOf(about.expires_at),
      ...(about.filename ? { filename: about.filename } : {}),
    },
    size: about.size ?? 0,
    fetch: async (upload, options) => {
      const file = await server.file(`${path}/export`, { query });
      try {
        return (await receive(upload, { ...options, ...file })) ?? file.filename;
      } finally {
        file.close();
      }
    },
  };
}

/** Looks into the documents of a simplestreams server. */
async function findInStreams(server: Source, source: PullSource): Promise<Found> {
  const index = await server.json('/streams/v1/index.json', { most: mostIndex });
  const wish = { name: source.image || source.alias, type: source.type, arch: ownArch() };
  let missing: unknown = new ServerError(
    'IMAGE_MISSING',
    `The source ${server.name} has no images`,
  );
  for (const path of imagePaths(index)) {
    const images = await server.json(`/${path}`, { most: mostImages });
    try {
      return inStreams(server, chooseImage(images, wish));
    } catch (error) {
      if (!(error instanceof ServerError) || error.code !== 'IMAGE_MISSING') throw error;
      missing = error;
    }
  }
  throw missing;
}

function inStreams(server: Source, image: StreamImage): Found {
  const { fingerprint, properties, files } = image;
  const parts = files.length === 1 ? (['unified'] as const) : (['metadata', 'rootfs'] as const);
  return {
    facts: { fingerprint, properties },
    size: files.reduce((sum, { size }) => sum + size, 0),
    fetch: async (upload, options) => {
      for (const [index, file] of files.entries()) {
        const part = parts[index] ?? 'rootfs';
        const { body, close } = await server.file(`/${file.path}`);
        try {
          const checked = verified(body, {
            file,
            onBytes: (bytes) => options.onBytes(part, bytes),
          });
          await upload.write(part, checked);
        } finally {
          close();
        }
      }
      return files.at(-1)?.path.split('/').at(-1);
    },
  };
}

/** Passes a file on, and fails at its end where it is not the one that the documents name, or before if it is longer. */
async function* verified(
  body: AsyncIterable<Buffer>,
  { file, onBytes }: { file: StreamFile; onBytes: (bytes: number) => void },
): AsyncGenerator<Buffer, void, undefined> {
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > file.size) throw damaged(file);
    hash.update(chunk);
    onBytes(chunk.length);
    yield chunk;
  }
  if (size !== file.size || hash.digest('hex') !== file.sha256) throw damaged(file);
}

function damaged({ path }: StreamFile): ServerError {
  return new ServerError(
    'IMAGE_INVALID',
    `The source sends another ${path} than its documents name`,
  );
}

/** As simplestreams names this machine's architecture. */
function ownArch(): string {
  const names: Partial<Record<NodeJS.Architecture, string>> = {
    x64: 'amd64',
    arm: 'armhf',
    ia32: 'i386',
  };
  return names[process.arch] ?? process.arch;
}

function read<T extends v.GenericSchema>(
  schema: T,
  value: unknown,
  server: Source,
): v.InferOutput<T> {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  throw new ServerError('IO', `The source ${server.name} does not answer as LXD and Incus do`);
}

/** A library for the tests of uploads: files in a folder, images in memory, no tree and no documents. */
import assert from 'node:assert/strict';
import { createHash, type Hash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { ServerError } from '../../src/errors.js';
import type {
  Library,
  LibraryImage,
  Upload,
  UploadFacts,
  UploadPart,
} from '../../src/server/lxd/contract.js';

export interface FolderLibrary extends Library {
  /** What came with each image, by its fingerprint. */
  readonly told: ReadonlyMap<string, UploadFacts>;
  /** How many uploads are neither finished nor discarded. */
  open(): number;
  /** Called with each part that an upload begins to write; what it throws, the upload throws. */
  onWrite: (part: UploadPart, signal: AbortSignal) => void | Promise<void>;
  /** Called before an image is taken in; what it throws, the upload throws. */
  onFinish: (facts: UploadFacts, signal: AbortSignal) => void | Promise<void>;
}

/** Its uploads are in `folder`, which exists. */
export function createFolderLibrary(folder: string): FolderLibrary {
  const images = new Map<string, LibraryImage>();
  const aliases = new Map<string, string>();
  const told = new Map<string, UploadFacts>();
  const open = new Set<Upload>();
  const never = () => assert.fail('uploads have no use for this');

  function image(fingerprint: string): LibraryImage {
    const found = images.get(fingerprint);
    if (found !== undefined) return found;
    throw new ServerError('IMAGE_MISSING', `There is no image ${fingerprint}`);
  }

  function addAlias(name: string, fingerprint: string): void {
    const { fingerprint: wanted } = image(fingerprint);
    if ((aliases.get(name) ?? wanted) !== wanted) {
      throw new ServerError('ALIAS_EXISTS', `The alias ${name} exists`);
    }
    aliases.set(name, wanted);
  }

  async function begin(signal: AbortSignal): Promise<Upload> {
    signal.throwIfAborted();
    const dir = await mkdtemp(join(folder, 'upload-'));
    const files: { path: string; size: number; hash: Hash }[] = [];
    const combined = createHash('sha256');
    let done = false;
    const upload: Upload = {
      write: async (part, source) => {
        await library.onWrite(part, signal);
        const path = join(dir, part);
        const hash = createHash('sha256');
        async function* hashed() {
          for await (const chunk of source) {
            hash.update(chunk);
            combined.update(chunk);
            yield chunk;
          }
        }
        await pipeline(Readable.from(hashed(), { objectMode: true }), createWriteStream(path), {
          signal,
        });
        const { size } = await stat(path);
        files.push({ path, size, hash });
        return size;
      },
      finish: async (facts) => {
        await library.onFinish(facts, signal);
        const fingerprint = combined.digest('hex');
        if (facts.fingerprint !== undefined && facts.fingerprint !== fingerprint) {
          throw new ServerError('IMAGE_INVALID', `The fingerprint is ${fingerprint}`);
        }
        if (images.has(fingerprint)) throw new ServerError('IMAGE_EXISTS', 'It is here');
        const taken: LibraryImage = {
          fingerprint,
          type: 'container',
          arch: 'amd64',
          aliases: facts.aliases ?? [],
          properties: facts.properties ?? {},
          size: files.reduce((sum, { size }) => sum + size, 0),
          created: 0,
          published: 0,
          expires: facts.expires ?? 0,
          files: files.map(({ path, size, hash }) => ({ path, size, sha256: hash.digest('hex') })),
          product: 'custom/test/amd64/default',
          version: '20260101_00:00',
        };
        images.set(fingerprint, taken);
        told.set(fingerprint, facts);
        for (const name of facts.aliases ?? []) addAlias(name, fingerprint);
        done = true;
        open.delete(upload);
        return taken;
      },
      discard: async () => {
        if (!done) await rm(dir, { recursive: true, force: true });
        open.delete(upload);
      },
    };
    open.add(upload);
    return upload;
  }

  const library: FolderLibrary = {
    told,
    open: () => open.size,
    onWrite: () => {},
    onFinish: () => {},
    images: async () => [...images.values()],
    image: async (fingerprint) => image(fingerprint),
    aliases: async () =>
      [...aliases].map(([name, fingerprint]) => ({ name, image: image(fingerprint) })),
    begin: ({ signal }) => begin(signal),
    addAlias: async (name, fingerprint) => addAlias(name, fingerprint),
    remove: never,
    edit: never,
    renameAlias: never,
    removeAlias: never,
  };
  return library;
}

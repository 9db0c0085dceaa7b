/** The images of a server and who is trusted, in memory; only the files of the images are real. */
import { createHash, randomUUID } from 'node:crypto';
import { ServerError } from '../../src/errors.js';
import type {
  Callers,
  Library,
  LibraryImage,
  TrustedClient,
} from '../../src/server/lxd/contract.js';
import { writeUnder } from './served-tree.js';

export interface MemoryImage {
  /** `debian/12` of `debian/12/amd64/default`. */
  release: string;
  type?: LibraryImage['type'];
  aliases?: string[];
  properties?: Record<string, string>;
  /** By their names in the tree, in the order of the fingerprint. */
  files: Record<string, Buffer>;
}

export interface MemoryLibrary extends Library {
  /** Puts an image's files below the root, and the image among the others. */
  add(image: MemoryImage): Promise<LibraryImage>;
}

const day = Date.UTC(2026, 0, 3, 12);

/** An empty library for the tree at `root`. It takes no uploads. */
export function createMemoryLibrary(root: string): MemoryLibrary {
  const images: LibraryImage[] = [];
  /** Names, with the product that has each. */
  const aliases = new Map<string, string>();
  const withAliases = (image: LibraryImage): LibraryImage => ({
    ...image,
    aliases: [...aliases].filter(([, product]) => product === image.product).map(([name]) => name),
  });
  const image = async (start: string) => {
    const found = images.filter(({ fingerprint }) => fingerprint.startsWith(start));
    if (found[0] !== undefined && found.length === 1) return withAliases(found[0]);
    throw new ServerError('IMAGE_MISSING', `There is no image ${JSON.stringify(start)}`);
  };
  const checkFree = (name: string) => {
    if (!/^[\w][\w./:+-]*$/.test(name)) {
      throw new ServerError('IMAGE_INVALID', `No alias can be called ${JSON.stringify(name)}`);
    }
    if (aliases.has(name)) throw new ServerError('ALIAS_EXISTS', `The alias ${name} is taken`);
  };
  const checkPresent = (name: string) => {
    if (!aliases.has(name)) throw new ServerError('ALIAS_MISSING', `There is no alias ${name}`);
  };

  return {
    async add({ release, type = 'container', aliases: names = [], properties = {}, files }) {
      const product = `${release}/amd64/default`;
      const version = '20260103_12:00';
      const content = Object.entries(files);
      const made: LibraryImage = {
        fingerprint: sha256(...content.map(([, bytes]) => bytes)),
        ...{ type, arch: 'amd64', aliases: [], properties, product, version },
        size: content.reduce((sum, [, bytes]) => sum + bytes.length, 0),
        ...{ created: day, published: day + 1000, expires: 0 },
        files: content.map(([name, bytes]) => ({
          path: `images/${product}/${version}/${name}`,
          ...{ size: bytes.length, sha256: sha256(bytes) },
        })),
      };
      for (const [name, bytes] of content) {
        await writeUnder(root, `images/${product}/${version}/${name}`, bytes);
      }
      images.push(made);
      for (const name of names) aliases.set(name, product);
      return withAliases(made);
    },
    images: async () => images.map(withAliases),
    image,
    aliases: async () =>
      [...aliases].flatMap(([name, product]) => {
        const found = images.find((each) => each.product === product);
        return found === undefined ? [] : [{ name, image: withAliases(found) }];
      }),
    begin: async () => {
      throw new ServerError('UPLOADS_OFF', 'This server takes no uploads');
    },
    async remove(fingerprint) {
      const { product } = await image(fingerprint);
      images.splice(0, images.length, ...images.filter((each) => each.product !== product));
    },
    async edit(fingerprint, { properties, expires }) {
      const index = images.findIndex((each) => each.fingerprint === fingerprint);
      const old = images[index] ?? (await image(fingerprint));
      images[index] = { ...old, properties, expires: expires ?? old.expires };
    },
    async addAlias(name, fingerprint) {
      const { product } = await image(fingerprint);
      checkFree(name);
      aliases.set(name, product);
    },
    async renameAlias(name, to) {
      checkPresent(name);
      checkFree(to);
      aliases.set(to, aliases.get(name) ?? '');
      aliases.delete(name);
    },
    async removeAlias(name) {
      checkPresent(name);
      aliases.delete(name);
    },
  };
}

export interface MemoryCallers extends Callers {
  trust(name: string, certificate: Uint8Array): TrustedClient;
  /** Trusts nobody any more. */
  forgetAll(): void;
  /** A token for one use, in the form that clients take apart; `port` and `serverCertificate` say where it is for. */
  token(name: string, server: { port: number; serverCertificate: Uint8Array }): string;
}

export function createMemoryCallers(): MemoryCallers {
  const clients = new Map<string, TrustedClient>();
  const tokens = new Map<string, string>();
  const trust = (name: string, certificate: Uint8Array) => {
    const client = { name, fingerprint: sha256(certificate) };
    clients.set(client.fingerprint, client);
    return client;
  };
  return {
    trust,
    forgetAll: () => clients.clear(),
    token(name, { port, serverCertificate }) {
      const token = {
        client_name: name,
        fingerprint: sha256(serverCertificate),
        addresses: [`127.0.0.1:${port}`],
        secret: randomUUID(),
        expires_at: new Date(Date.now() + 3_600_000).toISOString(),
      };
      const text = Buffer.from(JSON.stringify(token)).toString('base64');
      tokens.set(text, name);
      return text;
    },
    judge(certificate) {
      const client = clients.get(sha256(certificate));
      return client === undefined ? { refusal: 'Nobody trusts you: ask for a token' } : { client };
    },
    async admit({ token, certificate }) {
      const known = clients.get(sha256(certificate));
      if (known !== undefined) return known;
      const name = tokens.get(token);
      if (name === undefined) {
        throw new ServerError('FORBIDDEN', 'This token is wrong', { hint: 'ask for another' });
      }
      tokens.delete(token);
      return trust(name, certificate);
    },
  };
}

function sha256(...parts: Uint8Array[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

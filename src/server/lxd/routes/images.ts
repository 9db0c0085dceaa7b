/** The routes of images; their uploads are elsewhere. */
import { boolean, type InferOutput, nullish, object, record, string } from 'valibot';
import { ServerError } from '../../../errors.js';
import { readJson } from '../body.js';
import type { Library, LibraryImage } from '../contract.js';
import type { Answer, Call, Route } from '../exchange.js';
import { exportImage } from '../export.js';
import { imageEtag, imageUrl, imageView } from '../image-view.js';
import type { OperationsStore } from '../operations.js';
import type { RouteEntry } from '../routing.js';
import { newSecret } from '../secrets.js';

export interface ImageRoutesOptions {
  library: Library;
  operations: OperationsStore;
  uploads: { post: Route };
  /** Absolute; what the paths of images' files are below. */
  root: string;
}

/** What `view` makes of a list of images as JSON, which is made once for each list. */
function listText(view: (image: LibraryImage) => unknown) {
  const texts = new WeakMap<readonly LibraryImage[], string>();
  return (images: readonly LibraryImage[]): string => {
    const text = texts.get(images) ?? JSON.stringify(images.map(view));
    texts.set(images, text);
    return text;
  };
}

const path = '/1.0/images';
const one = `${path}/:fingerprint`;

export function imageRoutes(options: ImageRoutesOptions): RouteEntry[] {
  const { library, operations, uploads, root } = options;
  const wholeTexts = listText(imageView);
  const nameTexts = listText(({ fingerprint }) => imageUrl(fingerprint));
  return [
    { method: 'GET', path, access: 'anyone', route: list },
    { method: 'POST', path, access: 'anyone', upload: true, route: uploads.post },
    { method: 'GET', path: one, access: 'anyone', route: async (call) => show(await find(call)) },
    { method: 'PUT', path: one, route: replace },
    { method: 'PATCH', path: one, route: amend },
    { method: 'DELETE', path: one, route: remove },
    {
      method: 'GET',
      path: `${one}/export`,
      access: 'anyone',
      route: async (call) => exportImage(call.visit, { image: await find(call), root }),
    },
    { method: 'POST', path: `${one}/secret`, route: makeSecret },
    { method: 'POST', path: `${one}/refresh`, route: refresh },
  ];

  function find({ params: { fingerprint = '' } }: Call): Promise<LibraryImage> {
    return library.image(fingerprint);
  }

  /** `filter` is passed over: clients filter what they get as well. */
  async function list({ query }: Call): Promise<Answer> {
    const images = await library.images();
    const texts = query.get('recursion') === '1' ? wholeTexts : nameTexts;
    return { kind: 'text', metadata: texts(images) };
  }

  async function replace(call: Call): Promise<Answer> {
    const image = await find(call);
    checkEtag(call, image);
    const edit = await readEdit(call);
    return change(image, edit, edit.properties ?? {});
  }

  async function amend(call: Call): Promise<Answer> {
    const image = await find(call);
    checkEtag(call, image);
    const edit = await readEdit(call);
    return change(image, edit, { ...image.properties, ...edit.properties });
  }

  /** A property without a value is none. */
  async function change(
    { fingerprint }: LibraryImage,
    { expires }: { expires: number | undefined },
    wanted: Record<string, string>,
  ): Promise<Answer> {
    const properties = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value));
    await library.edit(fingerprint, { properties, ...(expires !== undefined && { expires }) });
    return { kind: 'sync', metadata: null };
  }

  async function remove(call: Call): Promise<Answer> {
    const { fingerprint } = await find(call);
    const operation = operations.begin({
      description: 'Deleting image',
      resources: { images: [imageUrl(fingerprint)] },
      work: async () => void (await library.remove(fingerprint)),
    });
    return { kind: 'operation', operation };
  }

  /** Anyone may read every image, so the secret opens nothing; clients ask for it all the same. */
  async function makeSecret(call: Call): Promise<Answer> {
    const { fingerprint } = await find(call);
    const operation = operations.begin({
      class: 'token',
      description: 'Image download token',
      resources: { images: [imageUrl(fingerprint)] },
      metadata: { secret: newSecret() },
    });
    operations.end(operation.id, 'success');
    return { kind: 'operation', operation };
  }

  /** What is here came from clients: there is nowhere to look for something newer. */
  async function refresh(call: Call): Promise<Answer> {
    const { fingerprint } = await find(call);
    const operation = operations.begin({
      description: 'Refreshing image',
      resources: { images: [imageUrl(fingerprint)] },
      work: async () => ({ refreshed: false }),
    });
    return { kind: 'operation', operation };
  }
}

function show(image: LibraryImage): Answer {
  return { kind: 'sync', metadata: imageView(image), etag: imageEtag(image) };
}

/** @throws ServerError CHANGED where the caller edits what it has not seen */
function checkEtag({ headers }: Call, image: LibraryImage): void {
  const known = headers['if-match']?.trim();
  if (known === undefined || known === '' || known === '*') return;
  const own = imageEtag(image);
  if (known === own || known === own.replaceAll('"', '')) return;
  throw new ServerError('CHANGED', 'The image has changed since it was read', {
    hint: 'look at it again and repeat the change',
  });
}

const imageEdit = object({
  properties: nullish(record(string(), string())),
  public: nullish(boolean()),
  auto_update: nullish(boolean()),
  expires_at: nullish(string()),
});

type Edit = Pick<InferOutput<typeof imageEdit>, 'properties'> & { expires: number | undefined };

async function readEdit({ body }: Call): Promise<Edit> {
  const { properties, expires_at, public: isPublic } = await readJson(body, imageEdit);
  if (isPublic === false) {
    throw new ServerError('IMAGE_INVALID', 'Images of this server are public, every one', {
      hint: 'delete what is not for everyone',
    });
  }
  return { properties, expires: expires_at ? timeOf(expires_at) : undefined };
}

/** Milliseconds since 1970; 0, as all before, is never. */
function timeOf(text: string): number {
  const ms = Date.parse(text);
  if (!Number.isNaN(ms)) return Math.max(ms, 0);
  throw new ServerError('USAGE', 'expires_at is not a time', {
    hint: 'write it as 2030-12-31T00:00:00Z',
  });
}

/** What a request says of the image that it brings or announces. Pure. */
import type { IncomingHttpHeaders } from 'node:http';
import * as v from 'valibot';
import { ServerError } from '../../../errors.js';
import type { UploadFacts } from '../contract.js';

const text = v.pipe(v.string(), v.maxLength(4096));
const optionalText = v.optional(v.nullable(text), '');
const properties = v.nullish(v.record(v.string(), v.string()));
const aliases = v.nullish(v.array(v.looseObject({ name: text })));
const flag = v.nullish(v.boolean());

/** What clients of LXD and Incus send; of what they may send beside, nothing counts here. */
const imageSchema = v.looseObject({
  source: v.looseObject({
    type: optionalText,
    mode: optionalText,
    protocol: optionalText,
    server: optionalText,
    certificate: v.nullish(v.pipe(v.string(), v.maxLength(65_536))),
    fingerprint: optionalText,
    alias: optionalText,
    secret: optionalText,
    project: optionalText,
    image_type: optionalText,
  }),
  aliases,
  auto_update: flag,
  expires_at: optionalText,
  filename: optionalText,
  properties,
  public: flag,
});

/** Where an image is to be had. What a client left out is ''. */
export interface PullSource {
  protocol: 'lxd' | 'simplestreams';
  /** `https://host:port` */
  server: string;
  /** PEM. */
  certificate: string;
  /** The fingerprint or the beginning of it; for simplestreams also an alias. */
  image: string;
  /** An alias of that server's; '' where `image` is given. */
  alias: string;
  secret: string;
  project: string;
  type: '' | 'container' | 'virtual-machine';
}

export type ImageRequest =
  | { mode: 'pull'; source: PullSource; facts: UploadFacts }
  | { mode: 'push'; facts: UploadFacts & { fingerprint: string } };

/**
 * Reads the JSON of `POST /1.0/images`.
 *
 * @throws ServerError IMAGE_INVALID for what it is not, and for what an image server does not do
 */
export function parseImageRequest(json: string): ImageRequest {
  const result = v.safeParse(imageSchema, parseJson(json), { abortEarly: true });
  if (!result.success) {
    const [issue] = result.issues;
    throw invalid(`${v.getDotPath(issue) ?? 'it'}: ${issue.message}`);
  }
  const { source, ...image } = result.output;
  const facts = factsOf(image);
  if (source.mode === 'push') {
    return { mode: 'push', facts: { ...facts, fingerprint: wholeFingerprint(source.fingerprint) } };
  }
  if (source.type !== 'image') throw notHere(source.type ?? '');
  return { mode: 'pull', source: pullSource(source), facts };
}

type ImageJson = v.InferOutput<typeof imageSchema>;

function factsOf(
  image: Pick<ImageJson, 'aliases' | 'expires_at' | 'filename' | 'properties'>,
): UploadFacts {
  const names = (image.aliases ?? []).map(({ name }) => name);
  return compact({
    properties: filled(image.properties ?? {}),
    aliases: names.length > 0 ? names : undefined,
    filename: image.filename || undefined,
    expires: timeOf(image.expires_at),
  });
}

function pullSource(source: ImageJson['source']): PullSource {
  const { protocol, server, alias, secret, project } = source;
  const known = ['', 'lxd', 'incus', 'simplestreams'];
  if (!known.includes(protocol ?? '')) {
    throw invalid(`source.protocol ${JSON.stringify(protocol)} is not lxd, incus or simplestreams`);
  }
  const image = source.fingerprint ?? '';
  if (!server) throw invalid('source.server is missing');
  if (!image && !alias) throw invalid('source.fingerprint is missing');
  return {
    protocol: protocol === 'simplestreams' ? 'simplestreams' : 'lxd',
    server,
    certificate: source.certificate ?? '',
    image,
    alias: image ? '' : (alias ?? ''),
    secret: secret ?? '',
    project: project ?? '',
    type: imageType(source.image_type),
  };
}

function imageType(type: string | null): PullSource['type'] {
  return type === 'container' || type === 'virtual-machine' ? type : '';
}

/** What the headers of an upload say: `X-LXD-…`, and `X-Incus-…` as well. */
export interface UploadHeaders {
  facts: UploadFacts;
  /** For a push that was announced. */
  secret: string;
}

/** @throws ServerError IMAGE_INVALID for a fingerprint that is none */
export function readUploadHeaders(headers: IncomingHttpHeaders): UploadHeaders {
  const header = (name: string) => {
    const value = headers[`x-lxd-${name}`] ?? headers[`x-incus-${name}`] ?? '';
    return Array.isArray(value) ? value.join('&') : value;
  };
  const fingerprint = header('fingerprint');
  const names = new URLSearchParams(header('aliases')).getAll('alias');
  const facts = compact({
    fingerprint: fingerprint === '' ? undefined : wholeFingerprint(fingerprint),
    properties: filled(firstOfEach(new URLSearchParams(header('properties')))),
    aliases: names.length > 0 ? names : undefined,
    filename: header('filename') || undefined,
  });
  return { facts, secret: header('secret') };
}

/** Of several values of a name the first, as LXD takes it. */
function firstOfEach(query: URLSearchParams): Record<string, string> {
  return Object.fromEntries([...query].reverse());
}

/** Go writes the time that is none as year 1. */
export function timeOf(value: unknown): number | undefined {
  const time = typeof value === 'string' ? Date.parse(value) : Number.NaN;
  return time > 0 ? time : undefined;
}

export function isFingerprint(value: string): boolean {
  return /^[0-9a-f]{64}$/.test(value);
}

function wholeFingerprint(value: string | null): string {
  const fingerprint = (value ?? '').toLowerCase();
  if (isFingerprint(fingerprint)) return fingerprint;
  throw invalid('the fingerprint is not 64 hexadecimal digits');
}

function filled(values: Record<string, string>): Record<string, string> | undefined {
  return Object.keys(values).length > 0 ? values : undefined;
}

function compact<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined)) as T;
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw invalid('it is not JSON');
  }
}

function invalid(what: string): ServerError {
  return new ServerError('IMAGE_INVALID', `The request cannot be understood: ${what}`, {
    hint: 'this server takes images from lxc and incus: image copy, image import, publish',
  });
}

function notHere(type: string): ServerError {
  const found = JSON.stringify(type.slice(0, 100));
  return new ServerError(
    'IMAGE_INVALID',
    `This image server makes no image of source.type ${found}`,
    {
      hint: 'publish on the server that has the instance, then copy the image here',
    },
  );
}

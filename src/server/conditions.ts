/**
 * PURE: what the request headers about encodings, caches and ranges mean (RFC 9110, sections 12 to 14).
 */

/** What a response says about the bytes that it stands for. */
export interface Validators {
  /** With its quotes, and `W/` where it is weak. */
  etag: string;
  /** An HTTP date, in whole seconds. */
  lastModified: string;
}

/** The request headers that make it conditional or partial. */
export interface ConditionHeaders {
  'if-none-match'?: string | undefined;
  'if-modified-since'?: string | undefined;
  'if-range'?: string | string[] | undefined;
  range?: string | undefined;
}

/** The bytes asked for, counted from 0, both ends included. */
export interface ByteRange {
  start: number;
  end: number;
}

/** Whether a client with this `Accept-Encoding` takes gzip. Without the header it gets plain bytes. */
export function acceptsGzip(header: string | undefined): boolean {
  if (header === undefined) return false;
  const weights = new Map(header.toLowerCase().split(',').map(codingWeight));
  return (weights.get('gzip') ?? weights.get('x-gzip') ?? weights.get('*') ?? 0) > 0;
}

function codingWeight(text: string): [coding: string, weight: number] {
  const [coding = '', ...parameters] = text.split(';').map((part) => part.trim());
  const quality = parameters.find((part) => /^q\s*=/.test(part));
  if (quality === undefined) return [coding, 1];
  const weight = quality.replace(/^q\s*=\s*/, '');
  return [coding, /^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.test(weight) ? Number(weight) : 0];
}

/** Whether the client has these bytes already, so that 304 is the answer. */
export function isNotModified(headers: ConditionHeaders, validators: Validators): boolean {
  const known = headers['if-none-match'];
  if (known !== undefined) return hasEtag(known, validators.etag);
  const since = Date.parse(headers['if-modified-since'] ?? '');
  return !Number.isNaN(since) && Date.parse(validators.lastModified) <= since;
}

function hasEtag(list: string, etag: string): boolean {
  if (list.trim() === '*') return true;
  const opaque = etag.replace(/^W\//, '');
  return [...list.matchAll(/"[^"]*"/g)].some(([known]) => known === opaque);
}

/**
 * The part of a file of `size` bytes that a GET asks for.
 *
 * @returns `undefined` where the whole file is the answer: no range, one in another unit, several ranges,
 *   one that does not parse, or an `If-Range` that names other bytes; `'unsatisfiable'` stands for 416
 */
export function requestedRange(
  headers: ConditionHeaders,
  { size, ...validators }: Validators & { size: number },
): ByteRange | 'unsatisfiable' | undefined {
  const match = /^bytes=[ \t]*(\d*)-(\d*)[ \t]*$/i.exec(headers.range ?? '');
  if (match === null || !rangeStillMeant(headers['if-range'], validators)) return undefined;
  const [, first = '', last = ''] = match;
  if (first === '') return last === '' ? undefined : lastBytes(Number(last), size);
  if (last !== '' && Number(last) < Number(first)) return undefined;
  if (Number(first) >= size) return 'unsatisfiable';
  return { start: Number(first), end: last === '' ? size - 1 : Math.min(Number(last), size - 1) };
}

function lastBytes(count: number, size: number): ByteRange | 'unsatisfiable' {
  if (count === 0 || size === 0) return 'unsatisfiable';
  return { start: Math.max(0, size - count), end: size - 1 };
}

function rangeStillMeant(header: string | string[] | undefined, validators: Validators): boolean {
  if (header === undefined) return true;
  if (typeof header !== 'string') return false;
  if (header.includes('"')) return header === validators.etag && !header.startsWith('W/');
  return Date.parse(header) === Date.parse(validators.lastModified);
}

/**
 * What is known of an uploaded image that its files do not say, or that was edited since. It is kept beside them in a
 * hidden file, so that it goes where they go; nothing of it is in the documents. Pure.
 */
import * as v from 'valibot';
import type { ImageType } from './images.js';
import { readProperties } from './metadata.js';

/** The file in the version's folder. */
export const storedFactsName = '.properties.json';

/** Times are milliseconds since 1970. */
export interface StoredFacts {
  /** All that clients are shown. */
  properties: Record<string, string>;
  /** Of a unified image, of which the documents do not tell it. */
  type?: ImageType | undefined;
  created: number;
  published: number;
  /** 0 is never. */
  expires: number;
}

const time = v.pipe(v.number(), v.safeInteger(), v.minValue(0), v.maxValue(8.64e15));

const schema = v.object({
  properties: v.unknown(),
  type: v.optional(v.picklist(['container', 'virtual-machine'])),
  created: v.optional(time, 0),
  published: v.optional(time, 0),
  expires: v.optional(time, 0),
});

/** The text of the file. */
export function storedFactsText(facts: StoredFacts): string {
  return `${JSON.stringify(facts, undefined, 2)}\n`;
}

/** Reads the file; `undefined` where that is not one of ours. */
export function parseStoredFacts(text: string): StoredFacts | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const parsed = v.safeParse(schema, value);
  if (!parsed.success) return undefined;
  const properties = readProperties(parsed.output.properties);
  return 'fault' in properties ? undefined : { ...parsed.output, properties: properties.value };
}

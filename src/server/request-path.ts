/**
 * PURE: which of the few things that the server gives out a raw request target asks for.
 * Nothing here touches the disk; what does not parse is never looked for.
 */

import { isName, isTemporary } from '../catalog/tree.js';

export const documentNames = ['index.json', 'images.json'] as const;
export type DocumentName = (typeof documentNames)[number];

/** What a request asks for. */
export type RequestPath =
  | { kind: 'page' /** Whether `/` was asked for, not `/index.html`. */; home: boolean }
  | {
      kind: 'document';
      name: DocumentName /** Whether the `.gz` file itself is meant. */;
      gz: boolean;
    }
  /** `path` is below the images folder: `env/release/arch/type/version/file`. */
  | { kind: 'image'; path: string };

const origin = /^https?:\/\/[^/?#]*/i;
const segmentsOfImage = 6;

/** Whether a file or folder of this name may be served: the grammar of design section 2, no temporaries. */
export function isServedName(text: string): boolean {
  return isName(text) && !isTemporary(text);
}

/**
 * Reads the target of a request line, in origin form or absolute form.
 *
 * @param target as it stood on the wire; each segment is percent-decoded exactly once
 * @param imagesPrefix the segments of the URL path below which images lie: `['images']`
 * @returns `undefined` for whatever is not served
 */
export function parseRequestPath(
  target: string,
  imagesPrefix: readonly string[],
): RequestPath | undefined {
  const segments = decodedSegments(target);
  if (segments === undefined) return undefined;
  return pageOf(segments) ?? documentOf(segments) ?? imageOf(segments, imagesPrefix);
}

/** Whether a target lies below the URL path of the images, be it that nothing is served there. */
export function isBelow(target: string, imagesPrefix: readonly string[]): boolean {
  const segments = decodedSegments(target) ?? [];
  return (
    segments.length > imagesPrefix.length &&
    imagesPrefix.every((wanted, index) => segments[index] === wanted)
  );
}

function decodedSegments(target: string): string[] | undefined {
  const path = target.replace(origin, '').replace(/[?#].*$/s, '');
  if (path !== '' && !path.startsWith('/')) return undefined;
  try {
    return path.slice(1).split('/').map(decodeURIComponent);
  } catch {
    return undefined;
  }
}

function pageOf(segments: readonly string[]): RequestPath | undefined {
  if (segments.length !== 1) return undefined;
  if (segments[0] === '') return { kind: 'page', home: true };
  return segments[0] === 'index.html' ? { kind: 'page', home: false } : undefined;
}

function documentOf([streams, version, file, ...rest]: readonly string[]): RequestPath | undefined {
  if (streams !== 'streams' || version !== 'v1' || file === undefined || rest.length > 0) {
    return undefined;
  }
  const gz = file.endsWith('.gz');
  const found = documentNames.find((known) => file === (gz ? `${known}.gz` : known));
  return found && { kind: 'document', name: found, gz };
}

function imageOf(segments: readonly string[], prefix: readonly string[]): RequestPath | undefined {
  if (segments.length !== prefix.length + segmentsOfImage) return undefined;
  if (!prefix.every((wanted, index) => segments[index] === wanted)) return undefined;
  const below = segments.slice(prefix.length);
  return below.every(isServedName) ? { kind: 'image', path: below.join('/') } : undefined;
}

/** What logs tell of a request's target: not its query, where clients of the API have secrets. */
export function loggedPath({ url = '' }: { url?: string | undefined }): string {
  return url.replace(/[?#].*$/s, '');
}

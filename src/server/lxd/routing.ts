/** PURE: which route a request is for. */
import { ServerError } from '../../errors.js';
import type { Visit } from '../service.js';
import type { Answer, Call } from './exchange.js';

/** A call with what it takes to send files in answer. */
export interface ApiCall extends Call {
  visit: Visit;
}

export interface RouteEntry {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** `/1.0/images/:fingerprint`: what begins with a colon stands for any one segment. */
  path: string;
  /** Whom the route is called for; `anyone` also where it decides itself. Default: who is trusted. */
  access?: 'anyone';
  /** Whether the body may take as long as it will. Default: no. */
  upload?: boolean;
  route: (call: ApiCall) => Promise<Answer>;
}

export interface Found {
  entry: RouteEntry;
  params: Record<string, string>;
}

const origin = /^https?:\/\/[^/?#]*/i;

/** The path and the query of a request target, in origin form or absolute form, as they stood on the wire. */
export function splitTarget(target: string): { path: string; query: string } {
  const [, path = '', query = ''] =
    /^([^?#]*)(?:\?([^#]*))?/s.exec(target.replace(origin, '')) ?? [];
  return { path, query };
}

/** Whether a path belongs to the API. */
export function isApiPath(path: string): boolean {
  return path === '/1.0' || path.startsWith('/1.0/');
}

/**
 * Finds routes by method and path. Each segment of a path is percent-decoded exactly once, so that names can hold
 * slashes. HEAD is answered as GET; of two routes that fit, the first is it.
 */
export function createRouter(entries: readonly RouteEntry[]) {
  const routes = entries.map((entry) => ({ entry, segments: entry.path.split('/') }));
  /** @throws ServerError USAGE for a path that is none; NOT_FOUND */
  return (method: string, path: string): Found => {
    const segments = decoded(path.length > 1 ? path.replace(/\/$/, '') : path);
    const wanted = method === 'HEAD' ? 'GET' : method;
    for (const { entry, segments: pattern } of routes) {
      const params = entry.method === wanted ? match(pattern, segments) : undefined;
      if (params !== undefined) return { entry, params };
    }
    throw new ServerError('NOT_FOUND', 'This is an image server', {
      hint: 'it has images, aliases, operations, events and certificates of the LXD API, and nothing else',
    });
  };
}

function decoded(path: string): string[] {
  try {
    return path.split('/').map(decodeURIComponent);
  } catch {
    throw new ServerError('USAGE', 'The path of this request is not properly percent-encoded');
  }
}

function match(
  pattern: readonly string[],
  segments: readonly string[],
): Record<string, string> | undefined {
  if (pattern.length !== segments.length) return undefined;
  const params: Record<string, string> = {};
  for (const [index, expected] of pattern.entries()) {
    const found = segments[index] ?? '';
    if (!expected.startsWith(':')) {
      if (found !== expected) return undefined;
    } else if (found === '') return undefined;
    else params[expected.slice(1)] = found;
  }
  return params;
}

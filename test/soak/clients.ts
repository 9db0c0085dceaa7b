/** Clients that read over HTTPS as LXD and Incus do: the index, the catalogue, then a file that it names. */
import { Agent, get } from 'node:https';
import { buffer } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import { parseImages, versionsOf } from '../../src/catalog/published.js';
import type { Dice } from '../support/dice.js';

export interface ClientOptions {
  /** `https://127.0.0.1:8443` */
  url: string;
  /** The certificate that is trusted. */
  ca: string;
  dice: Dice;
  /** Whether a path may be gone or another: it was changed by hand. */
  isSpared: (path: string) => boolean;
}

export interface Clients {
  /** One client looks once. @returns what was wrong. */
  visit(): Promise<string[]>;
  /** Closes the connections; a later visit opens others. */
  close(): void;
}

/** Clients that share a few connections, as those behind one proxy do. */
export function createClients({ url, ca, dice, isSpared }: ClientOptions): Clients {
  const agent = new Agent({ ca, keepAlive: true, maxSockets: 4 });
  const fetch = async (path: string, headers: Record<string, string> = {}) => {
    const target = `${url}/${path.split('/').map(encodeURIComponent).join('/')}`;
    const response = await new Promise<import('node:http').IncomingMessage>((resolve, reject) => {
      get(target, { agent, headers }, resolve).once('error', reject);
    });
    const body = await buffer(response);
    const isPacked = response.headers['content-encoding'] === 'gzip';
    return { status: response.statusCode, body: isPacked ? gunzipSync(body) : body };
  };
  return {
    async visit() {
      const index = await fetch('streams/v1/index.json');
      const packed = dice.roll(2) === 0 ? { 'accept-encoding': 'gzip' } : undefined;
      const images = await fetch('streams/v1/images.json', packed);
      if (index.status !== 200 || images.status !== 200) {
        return [`index.json is ${index.status}, images.json is ${images.status}`];
      }
      JSON.parse(String(index.body));
      const { products } = parseImages(String(images.body));
      const product = dice.pick(Object.values(products));
      const { path, size } = dice.pick(versionsOf(product).flatMap(({ items }) => items));
      const file = await fetch(path);
      if ((file.status === 200 && file.body.length === size) || isSpared(path)) return [];
      return [`${path} is ${file.status} with ${file.body.length} bytes in place of ${size}`];
    },
    close: () => agent.destroy(),
  };
}

/**
 * Products as simplestreams documents: `index.json` (index:1.0) and `images.json` (products:1.0),
 * as LXD (`shared/simplestreams`) and Incus read them. Pure: the same products give the same bytes.
 */
import type { Item, Product, Version } from './catalog.js';
import { productId } from './tree.js';

const contentId = 'images';
const datatype = 'image-downloads';

/** How each `images.json` of ours begins and ends; whatever differs was written by someone else or cut. */
export const imagesHead = `{"content_id":"${contentId}","datatype":"${datatype}","format":"products:1.0","products":{`;
export const imagesTail = /\},"updated":"[^"]*"\}\n$/;

/** One entry of `products` in `images.json`: `"id":{…}`. */
export function productText(product: Product, aliases: readonly string[]): string {
  const versions = product.versions.map(versionText).join(',');
  const requirements =
    Object.keys(product.requirements).length > 0 ? product.requirements : undefined;
  const head = JSON.stringify({
    aliases: aliases.join(','),
    arch: product.arch,
    os: product.os,
    release: product.release,
    release_title: product.releaseTitle,
    requirements,
    variant: product.type,
  });
  return `${JSON.stringify(productId(product))}:${head.slice(0, -1)},"versions":{${versions}}}`;
}

// Written by hand where order matters: a JavaScript object would move a key like 20260103 to the front.
function versionText(version: Version): string {
  const items = version.items.map((item) => `${JSON.stringify(item.key)}:${itemText(item)}`);
  return `${JSON.stringify(version.name)}:{"items":{${items.join(',')}}}`;
}

function itemText(item: Item): string {
  const { ftype, path, sha256, size, combined, deltaBase } = item;
  return JSON.stringify({ ...combined, delta_base: deltaBase, ftype, path, sha256, size });
}

/** What stands after the last product in `images.json`. */
export function imagesEnd(updated: number): string {
  return `},"updated":${JSON.stringify(rfc2822(updated))}}\n`;
}

/**
 * `index.json`.
 *
 * @param products in product order.
 * @param path of `images.json`, relative to the server's root.
 */
export function indexText(
  products: readonly Product[],
  { updated, path }: { updated: number; path: string },
): string {
  const time = rfc2822(updated);
  const images = {
    datatype,
    format: 'products:1.0',
    path,
    products: products.map(productId),
    updated: time,
  };
  return `${JSON.stringify({ format: 'index:1.0', index: { [contentId]: images }, updated: time })}\n`;
}

/** When the newest content was made, in milliseconds since 1970; 0 without any. */
export function newest(products: readonly Product[]): number {
  return products.reduce((latest, product) => Math.max(latest, product.updated), 0);
}

/** `milliseconds` since 1970 in the form of RFC 2822 that simplestreams uses, in UTC. */
export function rfc2822(milliseconds: number): string {
  return new Date(milliseconds).toUTCString().replace('GMT', '+0000');
}

/**
 * Products as simplestreams documents: `index.json` (index:1.0) and `images.json` (products:1.0),
 * as LXD (`shared/simplestreams`) and Incus read them. Pure: the same products give the same bytes.
 */
import type { Item, ProductHead, Version } from './product.js';
import { productId } from './tree.js';

/** The entry of `index.json` that leads to `images.json`. */
export const imagesContentId = 'images';
const datatype = 'image-downloads';

/** How each `images.json` of ours begins and ends; whatever differs was written by someone else or cut. */
export const imagesHead = `{"content_id":"${imagesContentId}","datatype":"${datatype}","format":"products:1.0","products":{`;
export const imagesTail = /\},"updated":"[^"]*"\}\n$/;

/** The first part of an entry of `products` in `images.json`; {@link versionsText} goes on from there. */
export function productText(product: ProductHead, aliases: readonly string[]): string {
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
  return `${JSON.stringify(productId(product))}:${head.slice(0, -1)},"versions":`;
}

/** The last part of an entry of `products`, up to its closing brace. */
export function versionsText(versions: readonly Version[]): string {
  return `{${versions.map(versionText).join(',')}}}`;
}

// Written by hand: a JavaScript object would move a key like 20260103 to the front. All that stands here
// has the characters of names and digests, none of which JSON escapes, but for the folder in the path.
function versionText(version: Version): string {
  const items = version.items.map((item) => `"${item.key}":${itemText(item)}`);
  return `"${version.name}":{"items":{${items.join(',')}}}`;
}

function itemText({ ftype, path, sha256, size, combined = {}, deltaBase }: Item): string {
  let text = '{';
  for (const field in combined) text += `"${field}":"${combined[field]}",`;
  if (deltaBase !== undefined) text += `"delta_base":"${deltaBase}",`;
  return `${text}"ftype":"${ftype}","path":${JSON.stringify(path)},"sha256":"${sha256}","size":${size}}`;
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
  products: readonly ProductHead[],
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
  return `${JSON.stringify({ format: 'index:1.0', index: { [imagesContentId]: images }, updated: time })}\n`;
}

/** When the newest content was made, in milliseconds since 1970; 0 without any. */
export function newest(products: readonly ProductHead[]): number {
  return products.reduce((latest, product) => Math.max(latest, product.updated), 0);
}

/** `milliseconds` since 1970 in the form of RFC 2822 that simplestreams uses, in UTC. */
export function rfc2822(milliseconds: number): string {
  return new Date(milliseconds).toUTCString().replace('GMT', '+0000');
}

/** How what is shown becomes what it should be without losing the reader's place. */

import type { Child } from '../dom.js';

/**
 * Has `element` hold just these children, and keeps each element that is there already: focus, selection and what
 * the reader has opened stay. Those with a `data-key` are told apart by it; one with `data-own` keeps its children, and
 * one for which another with `data-keep` is given stays as it is.
 */
export function show(element: Element, ...children: readonly Child[]): void {
  const wanted = document.createElement('div');
  wanted.append(...children.filter((child) => child !== undefined && child !== false));
  patchChildren(element, wanted);
}

function patchChildren(element: Element, wanted: Element): void {
  const keyed = new Map<string, Element>();
  const keys = new Set([...wanted.children].map(keyOf));
  for (const child of [...element.children]) {
    const key = keyOf(child);
    if (key === undefined) continue;
    // What is moved loses the focus; so what is gone makes way first.
    if (keys.has(key)) keyed.set(key, child);
    else child.remove();
  }
  let at: ChildNode | null = element.firstChild;
  for (const next of [...wanted.childNodes]) {
    const key = keyOf(next);
    const known: ChildNode | null | undefined = key === undefined ? at : keyed.get(key);
    if (known == null || !isLike(known, next)) {
      element.insertBefore(next, at);
      continue;
    }
    if (known === at) at = at.nextSibling;
    else element.insertBefore(known, at);
    patch(known, next);
  }
  while (at !== null) {
    const next: ChildNode | null = at.nextSibling;
    at.remove();
    at = next;
  }
}

function keyOf(node: Node): string | undefined {
  return node instanceof HTMLElement ? node.dataset.key : undefined;
}

function isLike(node: Node, other: Node): boolean {
  return node.nodeName === other.nodeName && keyOf(node) === keyOf(other);
}

function patch(node: Node, next: Node): void {
  if (!(node instanceof Element) || !(next instanceof Element)) {
    if (node.nodeValue !== next.nodeValue) node.nodeValue = next.nodeValue;
    return;
  }
  if (next.hasAttribute('data-keep')) return;
  patchAttributes(node, next);
  if (!node.hasAttribute('data-own')) patchChildren(node, next);
}

function patchAttributes(node: Element, next: Element): void {
  for (const { name } of [...node.attributes]) {
    // Whether it is open is the reader's to say.
    if (name !== 'open' && !next.hasAttribute(name)) node.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
}

/** Elements made of text alone: nothing that a document says is ever read as HTML. */

type Child = Node | string;

interface Attributes {
  class?: string;
  id?: string;
  [name: string]: string | undefined;
}

/** An element with attributes and children. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text of somebody else's, which may run from right to left: what stands beside it stays where it is. */
export function foreign(text: string): HTMLElement {
  return make('bdi', {}, text);
}

/** The element of the frame with this ID. */
export function find<Type extends HTMLElement>(id: string, type: new () => Type): Type {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`no ${id} in the page`);
  return element;
}

/** Elements made of text alone: nothing that a document says is ever read as HTML. */

export type Child = Node | string | false | undefined;

type Attributes = Record<string, string | undefined>;

/** An element with attributes and children; what is `false` or `undefined` is left out. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  setAll(element, attributes);
  element.append(...children.filter((child) => child !== undefined && child !== false));
  return element;
}

/** An element of SVG. */
export function draw(tag: string, attributes: Attributes, ...children: readonly Node[]): Element {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  setAll(element, attributes);
  element.append(...children);
  return element;
}

function setAll(element: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
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

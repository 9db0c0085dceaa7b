/** Lines with a button that copies them, and says so. */
import { find, make } from '../dom.js';

/** How long a button says that it has copied, in milliseconds. */
const saidMs = 2000;

/** Says something to readers of screens. */
export function say(text: string): void {
  const place = find('said', HTMLElement);
  // The same text again is said only where there was none between.
  place.textContent = '';
  requestAnimationFrame(() => {
    place.textContent = text;
  });
}

/** A line of a shell, with its button. `what` goes on from "Copy": `the line that adds the remote`. */
export function commandLine(line: string, what: string): HTMLElement {
  const code = make('code', {}, line);
  return make('div', { class: 'command' }, code, copyButton(line, { what, source: code }));
}

export interface CopyOptions {
  /** What is copied, to go on from "Copy". */
  what: string;
  /** What the button says. Default: Copy. */
  label?: string;
  /** Where the text stands, to be selected where the browser does not let the page copy. */
  source?: HTMLElement;
}

export function copyButton(
  text: string,
  { what, label = 'Copy', source }: CopyOptions,
): HTMLElement {
  const button = make(
    'button',
    { type: 'button', class: 'small', 'aria-label': `${label} ${what}` },
    label,
  );
  button.addEventListener('click', async () => {
    const copied = await copy(text);
    if (!copied && source !== undefined) getSelection()?.selectAllChildren(source);
    button.textContent = copied ? 'Copied' : 'Press Ctrl+C';
    say(
      copied
        ? `Copied: ${text}`
        : 'The browser does not let this page copy: it is selected, press Ctrl+C.',
    );
    setTimeout(() => {
      button.textContent = label;
    }, saidMs);
  });
  return button;
}

async function copy(text: string): Promise<boolean> {
  // Pages that came over plain HTTP have no clipboard.
  if (navigator.clipboard === undefined) return copyBySelection(text);
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text: string): boolean {
  const focused = document.activeElement;
  const area = make('textarea', { class: 'unseen', 'aria-hidden': 'true', readonly: '' });
  area.value = text;
  document.body.append(area);
  area.select();
  try {
    return document.execCommand('copy');
  } finally {
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
  }
}

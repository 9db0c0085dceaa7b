/** The project's own documents, whose lines are run by tests so that they stay true. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The text of a file, by its path in the project. */
export async function readProjectFile(path: string): Promise<string> {
  return readFile(join(import.meta.dirname, '../../..', path), 'utf8');
}

/** The indented blocks of code in a document, in order; with `section`, those below that heading. */
export function codeBlocks(text: string, { section }: { section?: string } = {}): string[] {
  const part =
    section === undefined
      ? text
      : (text.split(/^## /m).find((each) => each.startsWith(`${section}\n`)) ?? '');
  const blocks: string[] = [];
  let isInside = false;
  for (const line of part.split('\n')) {
    const isCode: boolean = line.startsWith('    ') || (isInside && line === '');
    if (isCode && !isInside) blocks.push('');
    if (isCode) blocks.push(`${blocks.pop()}${line.slice(4)}\n`);
    isInside = isCode;
  }
  return blocks.map((block) => block.trim());
}

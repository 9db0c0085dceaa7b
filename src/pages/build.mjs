/**
 * Makes each page one file that needs no other: dist/pages/NAME.html of src/pages/NAME/.
 *
 * page.html is the frame; its <!-- style --> and <!-- script --> become the style sheets (shared.css, then page.css)
 * and the bundled main.ts. A policy in the page allows just these, by their SHA-256, so that no text in a document
 * can run as a script, whatever server the page comes from.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build, transform } from 'esbuild';

const here = import.meta.dirname;
const target = join(here, '../../dist/pages');
/** Folders here, and the names that their pages get. */
const pages = { catalogue: 'index', status: 'status' };
/** Of 2022; what a browser of that time does not know is written another way, or refused here. */
const browsers = ['chrome105', 'firefox105', 'safari16'];

async function scriptOf(folder) {
  const { outputFiles } = await build({
    entryPoints: [join(folder, 'main.ts')],
    bundle: true,
    format: 'iife',
    target: browsers,
    minify: true,
    charset: 'utf8',
    legalComments: 'none',
    write: false,
  });
  // What ends a script element stands in no string of it as it is.
  return outputFiles[0].text.trim().replaceAll('</script', '<\\/script');
}

async function styleOf(folder) {
  const sheets = [join(here, 'shared.css'), join(folder, 'page.css')];
  const texts = await Promise.all(sheets.map((sheet) => readFile(sheet, 'utf8')));
  const options = { loader: 'css', minify: true, target: browsers };
  return (await transform(texts.join('\n'), options)).code.trim();
}

function policy({ style, script }) {
  const hash = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  return [
    "default-src 'none'",
    `script-src ${hash(script)}`,
    `style-src ${hash(style)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
}

async function makePage([name, file]) {
  const folder = join(here, name);
  const [frame, style, script] = await Promise.all([
    readFile(join(folder, 'page.html'), 'utf8'),
    styleOf(folder),
    scriptOf(folder),
  ]);
  const parts = {
    policy: `<meta http-equiv="Content-Security-Policy" content="${policy({ style, script })}">`,
    style: `<style>${style}</style>`,
    script: `<script type="module">${script}</script>`,
  };
  const page = frame.replace(/<!-- (policy|style|script) -->/g, (_mark, part) => parts[part]);
  await writeFile(join(target, `${file}.html`), page);
}

await mkdir(target, { recursive: true });
await Promise.all(Object.entries(pages).map(makePage));

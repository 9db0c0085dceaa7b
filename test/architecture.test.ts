/**
 * The house rules that the compiler does not know: who may import whom, and who may print or exit.
 * Imports of types count as well: they tell as much about what a file has to know.
 */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { describe, test } from 'node:test';

/** From dist/test to the sources. */
const src = join(import.meta.dirname, '../../src');

/** The layers of src: which files each has, and which other layers these may import from. */
const layers: { name: string; files: RegExp; mayImport: string[] }[] = [
  { name: 'main', files: /^main\.ts$/, mayImport: ['cli', 'config', 'base'] },
  {
    name: 'cli',
    files: /^cli\//,
    mayImport: [
      'daemon',
      'story',
      'config',
      'disk',
      'mirror',
      'server',
      'trust',
      'catalog',
      'base',
    ],
  },
  {
    name: 'daemon',
    files: /^daemon\//,
    mayImport: ['story', 'config', 'disk', 'mirror', 'server', 'trust', 'catalog', 'base'],
  },
  {
    name: 'story',
    files: /^(?:pipeline|scanning|digesting|verify|repair)\.ts$/,
    mayImport: ['disk', 'mirror', 'server', 'trust', 'catalog', 'base'],
  },
  { name: 'config', files: /^config(?:\.ts$|\/)/, mayImport: ['base'] },
  ...['disk', 'mirror', 'server', 'trust'].map((name) => ({
    name,
    files: new RegExp(`^${name}/`),
    mayImport: ['catalog', 'base'],
  })),
  { name: 'catalog', files: /^catalog\//, mayImport: ['errors'] },
  // They run in browsers, and take of the daemon only what its status is like.
  { name: 'pages', files: /^pages\//, mayImport: ['daemon/status'] },
  { name: 'base', files: /^(?:assets|errors|log|units)\.ts$/, mayImport: [] },
];

/** Packages that one file alone may know, so that they can be replaced there. */
const packagesOfOneFile = [
  ...['chokidar', 'ssh2-sftp-client', 'selfsigned', 'smol-toml', 'node-cron'],
  'prom-client',
];

/** Packages that do no I/O: all that the pure core may import from outside. */
const purePackages = ['js-yaml', 'valibot'];

/** Members of `process` that print, exit or listen to signals. */
const processMembers = [
  ...['exit', 'exitCode', 'reallyExit', 'abort', 'kill', 'stdin', 'stdout', 'stderr'],
  ...['on', 'once', 'off', 'addListener', 'prependListener', 'removeListener', 'emitWarning'],
].join('|');

/** What is for main.ts alone. */
const processParts = new RegExp(
  [
    String.raw`\bconsole\b`,
    String.raw`\bprocess\s*\??\.\s*(?:${processMembers})\b`,
    String.raw`\{[^{}]*\b(?:${processMembers})\b[^{}]*\}\s*=\s*process\b`,
  ].join('|'),
);

/** What is not a value in and a value out. */
const impure =
  /\bDate\s*\.\s*now\b|\bnew Date\(\)|\bperformance\b|\bMath\s*\.\s*random\b|\bprocess\b|\bset(?:Timeout|Interval|Immediate)\b|\bfetch\s*\(/;

interface Source {
  /** Relative to src. */
  path: string;
  text: string;
  /** What stands in its imports, relative ones as paths of sources: `disk/pool.ts`. */
  imports: string[];
}

async function readSources(): Promise<Source[]> {
  const names = await readdir(src, { recursive: true });
  const paths = names.filter((name) => name.endsWith('.ts')).sort();
  return Promise.all(
    paths.map(async (path) => {
      const text = await readFile(join(src, path), 'utf8');
      return { path, text, imports: importsOf(path, text) };
    }),
  );
}

/** Static and dynamic imports, re-exports, and files named by a URL relative to the module. */
function importsOf(path: string, text: string): string[] {
  const forms = [
    /^\s*(?:import|export)\s[^;'"]*?from\s*['"]([^'"]+)['"]/gm,
    /^\s*import\s*['"]([^'"]+)['"]/gm,
    /\bimport\(\s*['"]([^'"]+)['"]/g,
    /\brequire(?:\.resolve)?\(\s*['"]([^'"]+)['"]/g,
    /\bnew URL\(\s*['"]([^'"]+\.js)['"]/g,
  ];
  const found = forms.flatMap((form) => [...text.matchAll(form)].map((match) => match[1] ?? ''));
  return [...new Set(found)].map((name) =>
    name.startsWith('.') ? posix.join(posix.dirname(path), name).replace(/\.js$/, '.ts') : name,
  );
}

const isSource = (name: string) => name.endsWith('.ts');
const isBuiltIn = (name: string) => name.startsWith('node:');

/** The name of the package in `name`: `@a/b/c` is of `@a/b`. */
function packageOf(name: string): string {
  return name
    .split('/')
    .slice(0, name.startsWith('@') ? 2 : 1)
    .join('/');
}

function layerOf(path: string) {
  const found = layers.filter(({ files }) => files.test(path));
  assert.equal(found.length, 1, `src/${path} belongs to one layer`);
  return found[0] as (typeof layers)[number];
}

/** `text` without comments; what is in strings stays. */
function code(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|(?<![:'"`\w])\/\/.*$/gm, '');
}

const sources = await readSources();

describe('imports', () => {
  test('are found in every form', () => {
    const text = `import a from './a.js';
import { type B,
  c } from "../b.js";
import type { D } from 'd/e';
import './f.js';
export * from './g.js';
export type { H } from './h.js';
const { i } = await import('./i.js');
new Worker(new URL('./worker.js', import.meta.url));`;
    const expected = [
      'x/a.ts',
      'b.ts',
      'd/e',
      'x/g.ts',
      'x/h.ts',
      'x/f.ts',
      'x/i.ts',
      'x/worker.ts',
    ];
    assert.deepEqual(importsOf('x/y.ts', text), expected);
    const some = sources.find(({ path }) => path === 'pipeline.ts');
    assert.ok(some?.imports.includes('catalog/record.ts'));
  });

  for (const { path, imports } of sources) {
    test(`of src/${path} go down the layers only`, () => {
      const { name, mayImport } = layerOf(path);
      for (const imported of imports.filter(isSource)) {
        const other = layerOf(imported).name;
        const allowed =
          other === name || mayImport.includes(other) || mayImport.includes(imported.slice(0, -3));
        assert.ok(allowed, `src/${path} (${name}) imports src/${imported} (${other})`);
      }
    });
  }

  test('do not go in circles', () => {
    const importsFrom = new Map(
      sources.map(({ path, imports }) => [path, imports.filter(isSource)]),
    );
    const done = new Set<string>();
    const visit = (path: string, way: string[]) => {
      assert.ok(!way.includes(path), [...way, path].join(' → '));
      if (done.has(path)) return;
      for (const next of importsFrom.get(path) ?? []) visit(next, [...way, path]);
      done.add(path);
    };
    for (const { path } of sources) visit(path, []);
  });

  for (const name of packagesOfOneFile) {
    test(`of ${name} stand in one file at most`, () => {
      const users = sources.filter(({ imports }) =>
        imports.some((each) => !isSource(each) && packageOf(each) === name),
      );
      assert.ok(users.length <= 1, users.map(({ path }) => path).join(', '));
    });
  }
});

describe('the pure core', () => {
  const core = sources.filter(({ path }) => path.startsWith('catalog/'));
  for (const { path, text, imports } of core) {
    test(`src/${path} does no I/O and asks for no time`, () => {
      assert.deepEqual(imports.filter(isBuiltIn), []);
      const packages = imports.filter((each) => !isSource(each)).map(packageOf);
      assert.deepEqual(
        packages.filter((each) => !purePackages.includes(each)),
        [],
      );
      assert.doesNotMatch(code(text), impure);
    });
  }
});

describe('the process', () => {
  test('is recognised in every form', () => {
    for (const text of [
      'console.log(1)',
      'process.exit(1)',
      'process\n  .stdout.write(1)',
      "process.once('SIGTERM', stop)",
      'const { env, stderr: out } = process;',
    ]) {
      assert.match(text, processParts);
    }
    for (const text of [
      'process.env',
      'process.pid',
      'const { env } = process',
      'subprocess.on(1)',
    ]) {
      assert.doesNotMatch(text, processParts);
    }
    assert.match(sources.find(({ path }) => path === 'main.ts')?.text ?? '', processParts);
  });

  for (const { path, text } of sources.filter((source) => source.path !== 'main.ts')) {
    test(`is left to main.ts by src/${path}: no printing, exiting or signals`, () => {
      // Signal 0 is none: it asks whether there is such a process.
      assert.doesNotMatch(code(text).replaceAll('process.kill(pid, 0)', ''), processParts);
      const fromProcess = importsOf(path, text).filter((each) => /^(?:node:)?process$/.test(each));
      assert.deepEqual(fromProcess, []);
    });
  }
});

test('built-in modules are imported by their full names', async () => {
  const { builtinModules } = await import('node:module');
  for (const { path, imports } of sources) {
    const short = imports.filter((each) => builtinModules.includes(each) && !isBuiltIn(each));
    assert.deepEqual(short, [], path);
  }
});

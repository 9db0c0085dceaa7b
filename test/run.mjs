/**
 * Runs the tests: as many side by side as there are processors, those of test/e2e last.
 * Arguments choose tests whose file name has one of them in it. REQUIRE_TESTS=1 makes a skip a failure.
 */
import { setMaxListeners } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rm, rmdir } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { setTimeout as wait } from 'node:timers/promises';

const root = join(import.meta.dirname, '..');
/** Against a test that hangs; far above what any file needs. */
const fileTimeout = 20 * 60_000;

/** The compiled form of every test that has a source, sorted; compiled tests without one do not count. */
async function findTests(wanted) {
  const names = await readdir(join(root, 'test'), { recursive: true });
  const tests = names
    .filter((name) => name.endsWith('.test.ts'))
    .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
    .sort();
  const isWhole = (name) => name.startsWith('e2e/');
  const units = tests.filter((name) => !isWhole(name));
  return [...units, ...tests.filter(isWhole)].map(compiledFile);
}

function compiledFile(name) {
  const file = join(root, 'dist/test', name.replace(/\.ts$/, '.js'));
  if (!existsSync(file)) throw new Error(`${file} is not there: run node test/prepare.mjs first`);
  return file;
}

/** The counts of the run, as its closing lines have them (`tests 5`, `skipped 1`), by name. */
const totals = new Map();
const skips = [];

/** Passes on what the run reports, and takes note of it. */
async function* reportOf(options) {
  for await (const event of run(options)) {
    noteSkip(event);
    noteTotal(event);
    yield event;
  }
}

function noteTotal({ type, data }) {
  if (type !== 'test:diagnostic' || data.nesting !== 0 || data.file !== undefined) return;
  const [, name, value] = /^([a-z_]+) (\d+(?:\.\d+)?)$/.exec(data.message) ?? [];
  if (name !== undefined) totals.set(name, Number(value));
}

function noteSkip({ type, data }) {
  if (type !== 'test:pass' && type !== 'test:fail') return;
  if (data.skip === undefined) return;
  skips.push(`${data.name}${typeof data.skip === 'string' ? `: ${data.skip}` : ''}`);
}

/** Why the run as a whole has failed, or an empty list. */
function failures() {
  const reasons = ['fail', 'cancelled']
    .filter((name) => (totals.get(name) ?? 0) > 0)
    .map((name) => `${totals.get(name)} ${name === 'fail' ? 'failed' : name}`);
  if ((totals.get('tests') ?? 0) === 0) reasons.push('no test was run');
  if (process.env.REQUIRE_TESTS === '1') {
    reasons.push(...skips.map((skip) => `skipped, with REQUIRE_TESTS=1: ${skip}`));
  }
  return reasons;
}

/** Has all tests put their temporary files below one folder, which is gone when they are. */
async function makeTemporary() {
  const folder = await mkdtemp(join(tmpdir(), 'lxd-image-server-test-'));
  // Containers of a private LXD or Incus, whose root is no one on this machine, pass through here.
  await chmod(folder, 0o711);
  process.env.TMPDIR = folder;
  return folder;
}

/** Removes what tests left that were interrupted, and waits for a private LXD or Incus that clears itself away. */
async function removeTemporary(folder) {
  const names = await readdir(folder);
  const left = names.filter((name) => !/^private-(lxd|incus)-/.test(name));
  for (const name of left) await rm(join(folder, name), { recursive: true, force: true });
  for (let tries = 300; tries > 0; tries -= 1) {
    const gone = await rmdir(folder).then(
      () => true,
      () => false,
    );
    if (gone) return;
    await wait(100);
  }
  process.stderr.write(`test: left behind: ${folder}\n`);
}

const files = await findTests(process.argv.slice(2));
const stop = new AbortController();
// Every file that waits or runs listens to it.
setMaxListeners(0, stop.signal);
for (const name of ['SIGINT', 'SIGTERM']) process.on(name, () => stop.abort());

const temporary = await makeTemporary();
const options = { concurrency: availableParallelism(), signal: stop.signal, timeout: fileTimeout };
const report = Readable.from(files.length === 0 ? [] : reportOf({ ...options, files })).compose(
  new spec(),
);
report.pipe(process.stdout);
await finished(report);
await removeTemporary(temporary);

for (const reason of failures()) {
  process.exitCode = 1;
  process.stderr.write(`test: ${reason}\n`);
}

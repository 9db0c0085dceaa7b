/**
 * `npm run bench [-- publish|serve|redirect|watch|mirror|upload|page] [--short]`: measures, and prints tables for the
 * README.
 */
import { cpus, totalmem } from 'node:os';
import { markdown, type Row } from './measure.js';
import { benchMirror } from './mirror.js';
import { benchPage } from './page.js';
import { benchPublish } from './publish.js';
import { benchRedirect } from './redirect.js';
import { benchReplicate } from './replicate.js';
import { benchServe } from './serve.js';
import { benchUpload } from './upload.js';
import { benchWatch } from './watch.js';

const [what = 'all'] = process.argv.slice(2).filter((word) => !word.startsWith('--'));
const short = process.argv.includes('--short');
const print = (text: string) => process.stdout.write(`${text}\n`);

print(
  `${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 1024 ** 3)} GiB, Node ${process.version}\n`,
);
if (what === 'all' || what === 'publish') await publish();
if (what === 'all' || what === 'publish' || what === 'serve') await serve();
if (what === 'all' || what === 'redirect') await redirect();
if (what === 'all' || what === 'watch') await watch();
if (what === 'all' || what === 'mirror') await mirror();
if (what === 'all' || what === 'upload') await upload();
if (what === 'all' || what === 'page') await page();

async function publish(): Promise<void> {
  const { rows, curve } = await benchPublish({
    rounds: short ? 1 : 5,
    sizes: short ? [100, 1_000, 2_000] : [1_000, 10_000, 100_000],
  });
  print(markdown(rows));
  print('\n| versions | find | first | unchanged | one added | peak memory |');
  print('| ---: | ---: | ---: | ---: | ---: | ---: |');
  for (const line of curve) print(`| ${line.join(' | ')} |`);
}

async function redirect(): Promise<void> {
  const size = { mirrors: 200, versions: 10_000 };
  const rows = await benchRedirect({
    ...size,
    ...(short ? { rounds: 1, seconds: 1 } : { rounds: 5, seconds: 5 }),
  });
  print(`\n${markdown(rows)}`);
}

async function watch(): Promise<void> {
  const rows = await benchWatch(
    short
      ? { sizes: [1_000], starts: 1, uploads: 5, drop: 50 }
      : { sizes: [10_000, 100_000], starts: 5, uploads: 100, drop: 500 },
  );
  print(`\n${markdown(rows)}`);
}

async function mirror(): Promise<void> {
  const rows = await benchMirror(
    short
      ? { rounds: 1, near: 64, far: 32, roundTrips: [50] }
      : { rounds: 3, near: 512, far: 128, roundTrips: [50, 150] },
  );
  print(`\n${markdown(rows)}`);
  const more = await benchReplicate(
    short
      ? { rounds: 1, versions: 300, roundTrip: 50, mirrors: 3, large: 32 }
      : { rounds: 3, versions: 10_000, roundTrip: 50, mirrors: 5, large: 256 },
  );
  print(`\n${markdown(more)}`);
}

async function upload(): Promise<void> {
  const rows = await benchUpload(short ? { rounds: 1, size: 64 } : { rounds: 5, size: 512 });
  print(`\n${markdown(rows)}`);
}

async function page(): Promise<void> {
  const sizes = [
    [1_000, 10],
    [10_000, 1],
  ] as const;
  const rows = await benchPage({ rounds: short ? 1 : 5, sizes });
  print(`\n${markdown(rows)}`);
}

async function serve(): Promise<void> {
  const rows = await benchServe(short ? { rounds: 1, seconds: 1 } : {});
  const table = rows.map(({ name, unit, ours, peer, ratio, target }): Row => {
    const figure = (value: number) => `${Math.round(value)} ${unit}`;
    return {
      name,
      ours: figure(ours),
      peer: figure(peer),
      result: `${ratio.toFixed(2)} ×`,
      target: `≥ ${target} ×`,
      met: ratio >= target,
    };
  });
  print(`\n${markdown(table)}`);
}

/**
 * Clients sent to mirrors: how many a second, over HTTPS and over the socket for nginx, and how long the server is
 * deaf meanwhile. Server and clients are processes of their own.
 */
import { type ChildProcess, execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { nodeOptions } from '../support/cli.js';
import { createDice } from '../support/dice.js';
import { withFolder } from './folder.js';
import { median, type Row } from './measure.js';
import type { Ready, RedirectServerOptions, Report } from './redirect-server.js';

export interface RedirectBenchOptions {
  rounds: number;
  /** Length of one measurement. */
  seconds: number;
  mirrors: number;
  versions: number;
}

/** Fewest redirects a second. */
const leastRate = 8000;
/** Longest time, in milliseconds, for which 99 of 100 looks find the server deaf. */
const mostLag = 20;
const connections = 32;

/** Measures; needs `wrk`. */
export function benchRedirect(options: RedirectBenchOptions): Promise<Row[]> {
  return withFolder(async (folder) => {
    const { mirrors, versions } = options;
    const server = await startServer({ folder, mirrors, versions });
    try {
      return await measureAll(server, { folder, ...options });
    } finally {
      server.process.kill();
      await once(server.process, 'exit');
    }
  });
}

interface Server extends Ready {
  process: ChildProcess;
}

interface Load {
  /** Redirects a second. */
  rate: number;
  /** 99th percentile of the server's lag, in milliseconds. */
  lag: number;
  /** Processor time of the server for one of them, in microseconds: that of other processes is not in it. */
  cpu: number;
}

async function measureAll(
  server: Server,
  { folder, rounds, seconds }: RedirectBenchOptions & { folder: string },
): Promise<Row[]> {
  const script = join(folder, 'requests.lua');
  writeFileSync(script, luaScript(requestsOf(server.paths)));
  const ways: [name: string, load: () => Promise<number>][] = [
    ['HTTPS', () => wrk({ url: server.url, script, seconds })],
    ['the socket for nginx', () => askSocket({ ...server, seconds })],
  ];
  const rows: Row[] = [];
  for (const [name, load] of ways) {
    const loads: Load[] = [];
    // The first round warms both up and is not counted.
    for (let round = 0; round <= rounds; round++) loads.push(await measure(server, load));
    loads.shift();
    rows.push(rateRow(`redirects over ${name}`, median(loads.map(({ rate }) => rate)), leastRate));
    rows.push(cpuRow('the same: processor time for each', median(loads.map(({ cpu }) => cpu))));
    rows.push(
      lagRow('the same: event-loop lag, 99th percentile', median(loads.map(({ lag }) => lag))),
    );
  }
  const { decisions } = await tell<Report>(server.process, 'decide');
  rows.push(rateRow('decisions alone', decisions));
  return rows;
}

async function measure({ process: server }: Server, load: () => Promise<number>): Promise<Load> {
  await tell(server, 'reset');
  const rate = await load();
  const { lagMs, redirected, cpuUs } = await tell<Report>(server, 'report');
  if (redirected < rate) throw new Error(`Only ${redirected} of ${rate} a second were redirected`);
  return { rate, lag: lagMs, cpu: cpuUs / redirected };
}

function rateRow(name: string, rate: number, least?: number): Row {
  const ours = `${Math.round(rate).toLocaleString('en')}/s`;
  const target = least === undefined ? '' : `≥ ${least.toLocaleString('en')}/s`;
  return { name, ours, peer: '', result: ours, target, met: rate >= (least ?? 0) };
}

function cpuRow(name: string, microseconds: number): Row {
  const ours = `${microseconds.toFixed(0)} µs`;
  return { name, ours, peer: '', result: ours, target: '', met: true };
}

function lagRow(name: string, lag: number): Row {
  const ours = `${lag.toFixed(1)} ms`;
  return { name, ours, peer: '', result: ours, target: `< ${mostLag} ms`, met: lag < mostLag };
}

/** Targets, each with the address of a client. */
export function requestsOf(paths: readonly string[]): { path: string; client: string }[] {
  const { roll, pick } = createDice(1);
  return Array.from({ length: 10_000 }, (_, index) => ({
    path: `/${pick(paths)}`,
    client:
      index % 4 === 0
        ? `2001:db8:${roll(400).toString(16)}::${roll(65_536).toString(16)}`
        : [[10, 172, 198][roll(3)], roll(256), roll(256), roll(256)].join('.'),
  }));
}

/** Makes the text of every request once, so that wrk has little to do but to send them. */
function luaScript(requests: ReturnType<typeof requestsOf>): string {
  const lines = requests.map(({ path, client }) => `{ "${path}", "${client}" },`);
  return `local wanted = {
${lines.join('\n')}
}
local made, last = {}, 0
init = function()
  for index, each in ipairs(wanted) do
    made[index] = wrk.format("GET", each[1], { Host = "images.example.org", ["X-Forwarded-For"] = each[2] })
  end
end
request = function()
  last = last % #made + 1
  return made[last]
end
`;
}

async function wrk(load: { url: string; script: string; seconds: number }): Promise<number> {
  const { url, script, seconds } = load;
  const args = ['-t1', `-c${connections}`, `-d${seconds}`, '-s', script, url];
  const { stdout } = await promisify(execFile)('wrk', args);
  const rate = Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
  if (!(rate > 0) || /Non-2xx|Socket errors/.test(stdout)) throw new Error(`wrk: ${stdout}`);
  return rate;
}

/** wrk knows no such sockets: a process of ours asks in its place. */
async function askSocket(load: {
  socket: string;
  paths: readonly string[];
  seconds: number;
}): Promise<number> {
  const { socket, paths, seconds } = load;
  const child = fork(sibling('redirect-clients.js'));
  const rate = tell<number>(child, { socket, paths, seconds, connections });
  return rate.finally(() => child.kill());
}

const sibling = (name: string) => fileURLToPath(new URL(name, import.meta.url));

async function startServer(options: RedirectServerOptions): Promise<Server> {
  // As the daemon runs.
  const child = fork(sibling('redirect-server.js'), { execArgv: [...nodeOptions] });
  return { process: child, ...(await tell<Ready>(child, options)) };
}

/** Says something to a child and gives what it answers. @throws where it ends in place of that */
async function tell<T>(child: ChildProcess, what: string | object): Promise<T> {
  const ended = new AbortController();
  const gone = once(child, 'exit', { signal: ended.signal }).then(([code]) => {
    throw new Error(`A process of the benchmark ended with ${code}`);
  });
  gone.catch(() => {});
  child.send(what);
  try {
    const [answer] = (await Promise.race([once(child, 'message'), gone])) as [T];
    return answer;
  } finally {
    ended.abort();
  }
}

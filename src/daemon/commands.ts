/** What the daemon does when it is told to over its control socket. */
import * as v from 'valibot';
import type { Config } from '../config.js';
import { createPool } from '../disk/pool.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { type RepairResult, verifyAndRepair } from '../repair.js';
import type { ControlCommand } from '../server/control.js';
import { verifyLiving, verifyTree } from '../verify.js';
import { type ImportedImage, importImage } from './import.js';
import type { KeptLibrary } from './library.js';
import type { Replication } from './replication.js';
import type { Progress, Reporter } from './report.js';
import type { Runner } from './runner.js';
import type { Trusting } from './trusting.js';

export interface CommandsOptions {
  paths: Config['paths'];
  reporter: Reporter;
  runner: Runner;
  replication: Replication;
  trust: Trusting;
  library: Pick<KeptLibrary, 'take' | 'takeOut' | 'prune'>;
  /** The rules in force now. */
  retention: () => Config['retention'];
  reload: () => Promise<string[]>;
  log: Logger;
}

/** How often a caller is told how far the work is, in milliseconds. */
const progressMs = 200;

/** The commands by name. */
export function createCommands(options: CommandsOptions): Record<string, ControlCommand> {
  const { paths, reporter, runner, replication, trust, library, retention, reload, log } = options;
  return {
    status: async () => reporter.status(),
    reload: async () => ({ changed: await reload() }),
    async update({ args, signal, report }) {
      const { rebuild, ...tree } = read(updateArgs, args);
      refuseOther(paths, tree);
      const work = () => runner.update({ rebuild, signal });
      return await withProgress(work, { report, progress: reporter.progress });
    },
    async verify({ args, signal, report }) {
      const { repair, ...tree } = read(verifyArgs, args);
      refuseOther(paths, tree);
      return await verify({ paths, runner, signal, report, repair });
    },
    async import({ args, stream, signal }) {
      const { parts, aliases, properties, ...tree } = read(importArgs, args);
      refuseOther(paths, tree);
      const facts = { aliases, properties };
      const source = stream ?? nothing();
      const work = () => importImage(library, { parts, source, facts, signal });
      return await logged(work, log);
    },
    async remove({ args }) {
      const { names, ...tree } = read(removeArgs, args);
      refuseOther(paths, tree);
      return { versions: await library.takeOut(names) };
    },
    async prune({ args }) {
      const { dryRun, ...tree } = read(pruneArgs, args);
      refuseOther(paths, tree);
      return { versions: await library.prune(retention(), { dryRun }) };
    },
    async 'mirror-sync'({ args, signal, report }) {
      const { names, takeOver, ...tree } = read(syncArgs, args);
      refuseOther(paths, tree);
      const work = () => replication.sync({ names, takeOver, signal });
      return await withProgress(work, { report, progress: replication.activity });
    },
    async 'mirror-verify'({ args, signal, report }) {
      const { name, repair, ...tree } = read(mirrorVerifyArgs, args);
      refuseOther(paths, tree);
      const work = () => replication.verify(name, { repair, signal });
      return await withProgress(work, { report, progress: replication.activity });
    },
    async 'mirror-key'({ args, signal }) {
      const { name, ...tree } = read(mirrorArgs, args);
      refuseOther(paths, tree);
      return await replication.showKey(name, { signal });
    },
    async 'mirror-trust'({ args, signal }) {
      const { name, fingerprint, ...tree } = read(trustArgs, args);
      refuseOther(paths, tree);
      await replication.trust(name, { fingerprint, signal });
      return {};
    },
    async 'trust-invite'({ args }) {
      const { state, ...wish } = read(inviteArgs, args);
      refuseOtherState(paths, state);
      return await trust.invite(wish);
    },
    async 'trust-add'({ args }) {
      const { state, name, certificate } = read(addArgs, args);
      refuseOtherState(paths, state);
      return await trust.add({ name, certificate: Buffer.from(certificate, 'base64') });
    },
    async 'trust-list'({ args }) {
      refuseOtherState(paths, read(stateArgs, args).state);
      return await trust.list();
    },
    async 'trust-remove'({ args }) {
      const { state, name } = read(nameArgs, args);
      refuseOtherState(paths, state);
      return await trust.remove(name);
    },
  };
}

async function* nothing(): AsyncGenerator<never> {}

/** Does `work`, and logs what came of it. */
async function logged(work: () => Promise<ImportedImage>, log: Logger): Promise<ImportedImage> {
  try {
    const image = await work();
    const { fingerprint, product, version } = image;
    log.info({ fingerprint, product, version }, 'image imported');
    return image;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    log.warn({ reason }, 'image not imported');
    throw error;
  }
}

/** The folders that a command line has in mind. */
const tree = {
  root: v.string(),
  images: v.optional(v.string()),
  streams: v.optional(v.string()),
};

const updateArgs = v.object({ ...tree, rebuild: v.optional(v.boolean(), false) });
const verifyArgs = v.object({ ...tree, repair: v.optional(v.boolean(), false) });
const removeArgs = v.object({ ...tree, names: v.array(v.string()) });
const pruneArgs = v.object({ ...tree, dryRun: v.boolean() });
const importArgs = v.object({
  ...tree,
  parts: v.array(
    v.object({
      part: v.picklist(['metadata', 'rootfs', 'unified']),
      size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
    }),
  ),
  aliases: v.array(v.string()),
  properties: v.record(v.string(), v.string()),
});
const syncArgs = v.object({
  ...tree,
  names: v.array(v.string()),
  takeOver: v.optional(v.boolean(), false),
});
const mirrorArgs = v.object({ ...tree, name: v.string() });
const mirrorVerifyArgs = v.object({ ...mirrorArgs.entries, repair: v.boolean() });
const trustArgs = v.object({ ...mirrorArgs.entries, fingerprint: v.string() });

/** The folder in which a command line has who is trusted in mind. */
const stateArgs = v.object({ state: v.string() });
const nameArgs = v.object({ ...stateArgs.entries, name: v.string() });
const inviteArgs = v.object({
  ...nameArgs.entries,
  lifetime: v.number(),
  addresses: v.array(v.string()),
});
const addArgs = v.object({ ...nameArgs.entries, certificate: v.string() });

/** @throws ServerError USAGE where `args` are not what the command takes. */
function read<T>(schema: v.GenericSchema<unknown, T>, args: unknown): T {
  const { success, output, issues } = v.safeParse(schema, args);
  if (success) return output;
  throw new ServerError('USAGE', `The daemon does not understand this: ${issues[0].message}`, {
    hint: 'restart the daemon: it is of another version than this command',
  });
}

/** @throws ServerError BUSY where another tree is meant than that of this daemon. */
function refuseOther(
  paths: Config['paths'],
  {
    root,
    images = paths.images,
    streams = paths.streams,
  }: Pick<Config['paths'], 'root'> & {
    images?: string | undefined;
    streams?: string | undefined;
  },
): void {
  if (root === paths.root && images === paths.images && streams === paths.streams) return;
  throw new ServerError('BUSY', `The daemon works on another tree: ${paths.root}`);
}

/** @throws ServerError BUSY where this daemon keeps who is trusted elsewhere. */
function refuseOtherState(paths: Config['paths'], state: string): void {
  if (state === paths.state) return;
  throw new ServerError('BUSY', `The daemon keeps its state elsewhere: ${paths.state}`);
}

interface VerifyWork {
  paths: Config['paths'];
  runner: Runner;
  signal: AbortSignal;
  report: (progress: Progress) => void;
  repair: boolean;
}

/** Verifies with threads of its own; only a repair keeps runs waiting. */
async function verify({
  paths,
  runner,
  signal,
  report,
  repair,
}: VerifyWork): Promise<RepairResult> {
  const pool = createPool();
  let bytes = 0;
  let before = 0;
  const onStart = (total: number) => {
    bytes = total;
    before = pool.bytesRead();
  };
  const progress = (): Progress => {
    return { stage: 'digest', bytes, done: pool.bytesRead() - before };
  };
  const options = { paths, pool, signal, onStart };
  let publish = () => runner.update({ passing: true, signal });
  const mend = () =>
    verifyAndRepair({
      paths,
      check: (folders) => verifyTree({ ...options, ...(folders && { folders }) }),
      publish: () => publish(),
      exclusively: (work) =>
        runner.exclusively(async (run) => {
          publish = run;
          await work();
        }),
    });
  const look = async (): Promise<RepairResult> => {
    const found = await verifyLiving(options, publish);
    return { ...found, repaired: false, moved: [], problems: [] };
  };
  try {
    return await withProgress(repair ? mend : look, { report, progress });
  } finally {
    await pool.close();
  }
}

/** Does `work`, and reports now and then how far it is. */
async function withProgress<T, P>(
  work: () => Promise<T>,
  { report, progress }: { report: (progress: P) => void; progress: () => P },
): Promise<T> {
  const timer = setInterval(() => report(progress()), progressMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

/** `mirror`: how the mirrors are, bringing them up to date, and trusting their host keys. */
import picocolors from 'picocolors';
import type { MirrorConfig } from '../config.js';
import type { MirrorOutcome } from '../daemon/replication.js';
import type { DaemonStatus, MirrorStatus } from '../daemon/status.js';
import { createMirrorStates, ofPlace } from '../disk/mirror-states.js';
import { exitCodes, ServerError } from '../errors.js';
import { acceptHostKey, type ShownKey, showHostKey } from '../mirror/trust.js';
import { callDaemon } from '../server/control-client.js';
import type { Command } from './command.js';
import { callDaemonOrSelf } from './daemon.js';
import { counted, formatAge, formatBytes, formatTable } from './format.js';
import { aboutWork, failureText, lagText, remoteText, servingText } from './mirror-text.js';
import { mirrorOf, noMirrors, withMirrorProgress } from './mirror-work.js';

type Colors = ReturnType<typeof picocolors.createColors>;

/** What stands on the command line after the verb. */
export interface MirrorOptions {
  args: string[];
}

/** Prints how the mirrors are: as the daemon knows them, or as they were when it last ran. */
export async function list({ config, json, print, colour, signal }: Command): Promise<number> {
  const { paths } = config;
  const answer = await callDaemon<DaemonStatus>({ runDir: paths.run, command: 'status', signal });
  const isOurs = answer?.result.root === paths.root;
  const mirrors = isOurs ? answer.result.mirrors : await kept(config);
  const colors = picocolors.createColors(colour);
  print(json ? JSON.stringify(mirrors) : listText(mirrors, { now: Date.now(), colors, isOurs }));
  return exitCodes.done;
}

/** What can be told without a daemon. */
async function kept({ paths, mirrors }: Command['config']): Promise<MirrorStatus[]> {
  const known = await createMirrorStates({ stateDir: paths.state }).load();
  return mirrors.map((mirror) => {
    const { generation, synced, behind } = ofPlace(mirror, known.get(mirror.name)) ?? {};
    const seconds = behind === undefined ? 0 : Math.round((Date.now() - Date.parse(behind)) / 1000);
    return {
      name: mirror.name,
      url: mirror.url,
      remote: remoteText(mirror),
      schedule: mirror.schedule,
      state: 'unknown',
      generation,
      synced,
      lag: { seconds },
    };
  });
}

function listText(
  mirrors: readonly MirrorStatus[],
  { now, colors, isOurs }: { now: number; colors: Colors; isOurs: boolean },
): string {
  if (mirrors.length === 0) return 'no mirrors are configured';
  const rows = mirrors.map((mirror) => [
    mirror.name,
    mirror.state,
    lagText(mirror),
    mirror.synced === undefined ? 'never' : formatAge(mirror.synced, now),
    mirror.next === undefined ? '' : formatAge(mirror.next, now),
    mirror.generation?.slice(0, 12) ?? '',
  ]);
  const head = ['MIRROR', 'STATE', 'BEHIND', 'IN SYNC', 'NEXT TRY', 'GENERATION'];
  const [heading = '', ...lines] = formatTable([head, ...rows]).split('\n');
  const about = mirrors.flatMap(({ name, work, failure, serving }) => [
    ...(work ? [`${name}: ${work.stage}: ${aboutWork(work)}`] : []),
    ...[failure && failureText(failure), servingText(serving)].flatMap((fault) =>
      fault ? [colors.yellow(`${name}: ${fault}`)] : [],
    ),
  ]);
  const note = isOurs ? [] : [colors.yellow('the daemon is not running; this is how they were')];
  return [colors.bold(heading), ...lines, ...about, ...note].join('\n');
}

export interface SyncOptions extends MirrorOptions {
  /** Take over mirrors of another master. */
  takeOver?: boolean;
}

/** Brings the mirrors that are named, or all, up to date now. */
export async function sync(
  command: Command,
  { args: names, takeOver = false }: SyncOptions,
): Promise<number> {
  const { config, log, json, print } = command;
  for (const name of names) mirrorOf(config, name);
  if (config.mirrors.length === 0) throw noMirrors();
  const { root } = config.paths;
  const outcomes = await withMirrorProgress(command, {
    command: 'mirror-sync',
    args: { root, names, takeOver },
    names,
    work: (replication) => replication.sync({ names, takeOver, signal: command.signal }),
  });
  for (const outcome of outcomes) {
    if ('failure' in outcome) log.error({ mirror: outcome.name, err: outcome.failure }, 'failed');
  }
  print(json ? JSON.stringify(outcomes) : outcomes.map(outcomeText).join('\n'));
  const failed = outcomes.some((outcome) => 'failure' in outcome);
  return failed ? exitCodes.partial : exitCodes.done;
}

function outcomeText(outcome: MirrorOutcome): string {
  if ('failure' in outcome) return `${outcome.name}: failed, see above`;
  const { sent, adopted, removed } = outcome.result;
  const parts = [
    sent.files > 0 && `sent ${counted(sent.files, 'file')} (${formatBytes(sent.bytes)})`,
    adopted > 0 && `checked ${counted(adopted, 'file')} that it had`,
    removed > 0 && `removed ${counted(removed, 'file')}`,
  ].filter(Boolean);
  const news = parts.length > 0 ? parts.join(', ') : 'nothing to do';
  return `${outcome.name}: ${news}; up to date`;
}

export interface TrustOptions extends MirrorOptions {
  /** The key that is to be trusted, for scripts. */
  fingerprint?: string;
}

/** Shows the host key of a mirror, and has it trusted once somebody has said that it is the right one. */
export async function trust(
  command: Command,
  { args: [name = ''], fingerprint }: TrustOptions,
): Promise<number> {
  const { config, signal, json, print } = command;
  const mirror = mirrorOf(config, name);
  const { root } = config.paths;
  const key = await callDaemonOrSelf<ShownKey>(command, {
    command: 'mirror-key',
    args: { root, name },
    self: () => showHostKey(mirror, { signal }),
  });
  if (!key.trusted) {
    const wanted = fingerprint ?? (await ask(command, { mirror, key }));
    await callDaemonOrSelf<object>(command, {
      command: 'mirror-trust',
      args: { root, name, fingerprint: wanted },
      self: async () => {
        await acceptHostKey(mirror, { fingerprint: wanted, signal });
        return {};
      },
    });
  } else if (fingerprint !== undefined && fingerprint !== key.fingerprint) {
    throw new ServerError('MIRROR_AUTH', `Mirror ${name} shows ${key.type} ${key.fingerprint}`, {
      hint: 'compare it with the one that the mirror itself has',
    });
  }
  const text = key.trusted ? 'is trusted already' : `is trusted from now on: ${key.file}`;
  print(
    json
      ? JSON.stringify({ ...key, trusted: true })
      : `the host key ${key.fingerprint} of ${name} ${text}`,
  );
  return exitCodes.done;
}

/** @returns the fingerprint that was agreed to. @throws ServerError where it was not */
async function ask(
  { ask: question }: Command,
  { mirror, key: { type, fingerprint, reason } }: { mirror: MirrorConfig; key: ShownKey },
): Promise<string> {
  const { name } = mirror;
  const seen = `${remoteText(mirror)} shows the host key ${type} ${fingerprint}`;
  const compare = 'compare it with what "ssh-keygen -lf /etc/ssh/ssh_host_…_key.pub" prints there';
  if (question === undefined) {
    throw new ServerError('MIRROR_AUTH', `Mirror ${name}: ${seen}`, {
      hint: `${compare}; if it is the same: lxd-image-server mirror trust ${name} --fingerprint ${fingerprint}`,
    });
  }
  const answer = await question(`${reason ?? seen}\n${compare}\nTrust this key? [yes/no] `);
  if (answer.trim().toLowerCase() === 'yes') return fingerprint;
  throw new ServerError('MIRROR_AUTH', `The host key of mirror ${name} is not trusted`, {
    hint: 'nothing was changed; "yes" trusts it',
  });
}

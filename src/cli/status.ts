/** `status`: what the daemon does, what is published, and what is held back; once, or again and again. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import picocolors from 'picocolors';
import type { DaemonStatus } from '../daemon/status.js';
import { exitCodes, ServerError } from '../errors.js';
import { callDaemon } from '../server/control-client.js';
import type { Command } from './command.js';
import { describe, readImages } from './list.js';
import { type Catalogue, type Status, statusText } from './status-text.js';

export interface StatusOptions {
  /** Show it again every so many seconds; true is as often as usual. Absent: once. */
  watch?: number | true;
}

/** In seconds. */
const usualInterval = 2;

/** Prints how things stand. @throws ServerError NOT_INITIALISED where there are neither daemon nor documents */
export async function status(command: Command, { watch }: StatusOptions): Promise<number> {
  const reader = createReader(command);
  if (watch === undefined) command.print(textOf(await reader(), command));
  else await keepShowing(command, reader, watch === true ? usualInterval : watch);
  return exitCodes.done;
}

function textOf(found: Status, { json, colour, screen, config }: Command): string {
  if (json) return JSON.stringify(found);
  const colors = picocolors.createColors(colour);
  return statusText(found, { now: Date.now(), colors, root: config.paths.root, screen: screen() });
}

const control = '\u001b[';
/** A screen of its own, as editors have it, and no cursor; and all as it was. Private modes of xterm. */
const enter = `${control}?1049h${control}?25l`;
const leave = `${control}?25h${control}?1049l`;

/** Shows it until the command is told to end; what fails meanwhile is shown, for it may work the next time. */
async function keepShowing(
  command: Command,
  read: () => Promise<Status>,
  seconds: number,
): Promise<void> {
  const { json, print, screen, signal } = command;
  const isDrawn = !json && screen() !== undefined;
  let last = '';
  try {
    for (let isFirst = true; !signal.aborted; isFirst = false) {
      const found = await read().catch((error: unknown) => failedStatus(error));
      if (signal.aborted) break;
      last = textOf(found, command);
      if (isDrawn) print(`${isFirst ? enter : ''}${drawn(last)}`);
      else print(json || isFirst ? last : `\n${last}`);
      await sleep(seconds * 1000, undefined, { signal }).catch(() => undefined);
    }
  } finally {
    // What was seen last stays.
    if (isDrawn && last !== '') print(`${leave}${last}`);
  }
}

/** Written over what is there, line by line: a screen that was cleared first would flicker. */
function drawn(text: string): string {
  const lines = text.split('\n').map((line) => `${line}${control}K`);
  return `${control}H${lines.join('\n')}${control}J`;
}

function failedStatus(error: unknown): Status {
  if (!(error instanceof ServerError)) throw error;
  const { message, hint } = error;
  const failure = hint === undefined ? message : `${message}; ${hint}`;
  return { daemon: null, catalogue: null, documents: null, failure };
}

/** What reads all of it; the documents only where they are others than before. */
function createReader({ config: { paths }, signal }: Command): () => Promise<Status> {
  let known: { stamp: string; catalogue: Catalogue } | undefined;

  return async () => {
    const answer = await callDaemon<DaemonStatus>({ runDir: paths.run, command: 'status', signal });
    const daemon = answer?.result ?? null;
    return { daemon, ...(await readStock(daemon !== null)) };
  };

  async function readStock(isOptional: boolean): Promise<Omit<Status, 'daemon'>> {
    try {
      const stamp = await stampOf(join(paths.streams, 'images.json'));
      if (known === undefined || known.stamp !== stamp) {
        known = { stamp, catalogue: count(describe(await readImages(paths.streams))) };
      }
      const written = (await stat(join(paths.streams, 'images.json'))).mtime.toISOString();
      return { catalogue: known.catalogue, documents: { root: paths.root, written } };
    } catch (error) {
      // Of a daemon there is enough to tell.
      if (isOptional && error instanceof ServerError) return { catalogue: null, documents: null };
      throw error;
    }
  }
}

/** What changes with the file; of one that is not there, whoever reads it says so. */
async function stampOf(file: string): Promise<string> {
  const found = await stat(file, { bigint: true }).catch(() => undefined);
  return found === undefined ? '' : `${found.ino} ${found.size} ${found.mtimeNs}`;
}

function count(products: ReturnType<typeof describe>): Catalogue {
  const versions = products.flatMap((product) => product.versions);
  const bytes = versions.reduce((sum, { size }) => sum + size, 0);
  return { products: products.length, versions: versions.length, bytes };
}

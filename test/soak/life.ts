/**
 * The life of a busy image server, hour by hour: new versions, most of them at night; retention that takes the
 * oldest away; uploads that are given up; administrators who replace things, reload and look at the status.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Daemon } from '../support/daemon.js';
import type { TreeChanges } from '../support/tree-changes.js';
import type { Clients } from './clients.js';

export interface LifeOptions {
  daemon: Daemon;
  changes: TreeChanges;
  clients: Clients;
  /** The daemon's configuration. */
  configFile: string;
  /** How many versions retention leaves. */
  versions: number;
  /** How long a simulated hour takes, in milliseconds. */
  hourMs: number;
}

export interface Life {
  /** Lives one hour of the day, from 0 to 23. @returns what went wrong. */
  hour(number: number): Promise<string[]>;
  /** Gives the configuration another text, and has the daemon read it. */
  configure(edit: (text: string) => string): Promise<void>;
}

/** How many times an hour each thing happens, at night and by day. */
const perHour: Record<string, { night: number; day: number }> = {
  upload: { night: 30, day: 8 },
  'given-up': { night: 2, day: 1 },
  replace: { night: 0, day: 2 },
  retention: { night: 4, day: 4 },
  reload: { night: 0, day: 1 },
  'broken-reload': { night: 0, day: 1 },
  status: { night: 20, day: 60 },
  visit: { night: 60, day: 120 },
};

export function createLife(options: LifeOptions): Life {
  const { daemon, changes, clients, configFile, versions, hourMs } = options;
  let reloads = 0;

  const configure = async (edit: (text: string) => string) => {
    await writeFile(`${configFile}.new`, edit(await readFile(configFile, 'utf8')));
    await rename(`${configFile}.new`, configFile);
    daemon.signal('SIGHUP');
    await daemon.event('configuration read again');
  };
  const works: Record<string, () => Promise<string[] | undefined>> = {
    upload: async () => void (await changes.upload()),
    'given-up': async () => void (await changes.upload({ givenUp: true })),
    replace: async () => void (await changes.replace()),
    async retention() {
      while (changes.count() > versions) await changes.removeOldest();
      return undefined;
    },
    async reload() {
      reloads += 1;
      await configure((text) =>
        text.replace(/settle = "\d+ms"/, `settle = "${300 + (reloads % 5)}ms"`),
      );
      return undefined;
    },
    async 'broken-reload'() {
      const text = await readFile(configFile, 'utf8');
      await writeFile(configFile, `${text}no.such.key = 1\n`);
      daemon.signal('SIGHUP');
      await daemon.event('configuration refused; the old one stays');
      await writeFile(configFile, text);
      return undefined;
    },
    status: async () => void (await daemon.status()),
    visit: () => clients.visit(),
  };
  /** What is done one after the other: two people do not edit one file at once. */
  const lanes = [
    ['upload', 'given-up'],
    ['replace', 'retention'],
    ['reload', 'broken-reload'],
    ['status'],
    ['visit'],
  ];

  const live = async (
    kinds: readonly string[],
    { isNight, end }: { isNight: boolean; end: number },
  ) => {
    const wrong: string[] = [];
    const plan = kinds
      .flatMap((kind) => {
        const times = perHour[kind]?.[isNight ? 'night' : 'day'] ?? 0;
        return Array.from({ length: times }, (_unused, index) => {
          return { kind, at: end - hourMs + ((index + 0.5) / times) * hourMs };
        });
      })
      .sort((a, b) => a.at - b.at);
    for (const { kind, at } of plan) {
      await sleep(Math.max(0, at - performance.now()));
      wrong.push(...((await works[kind]?.()) ?? []));
    }
    await sleep(Math.max(0, end - performance.now()));
    return wrong;
  };
  return {
    configure,
    async hour(number) {
      const isNight = number % 24 < 6;
      const end = performance.now() + hourMs;
      const wrong = await Promise.all(lanes.map((kinds) => live(kinds, { isNight, end })));
      return wrong.flat();
    },
  };
}

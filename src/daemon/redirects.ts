/** Which mirror a client is sent to: the nearest one that has the file, and answers. */

import { createNearest, type Nearest, type Place } from '../catalog/nearest.js';
import type { Config, MirrorConfig } from '../config.js';
import type { Logger } from '../log.js';
import { createAuthorities } from '../mirror/authorities.js';
import { mirrorUrl, probeMirror } from '../mirror/probe.js';
import type { NamedFile } from '../mirror/replicate.js';
import type { Redirects } from '../server/redirects.js';
import { createProbes, type Probed } from './probes.js';
import type { Replication } from './replication.js';
import type { MirrorServing } from './status.js';
import { createTurns } from './turns.js';

export interface RedirectorOptions {
  replication: Pick<Replication, 'holds' | 'sample' | 'recall' | 'doubt'>;
  /** What this server recognises its own probes by: `createSelfCheck`. */
  ownWord: string;
  log: Logger;
}

/** The part of the configuration that it goes by. */
export interface RedirectConfig {
  mirrors: readonly MirrorConfig[];
  server: Pick<Config['server'], 'redirect' | 'probeInterval' | 'tlsCert'>;
}

export interface Redirector extends Redirects {
  /** Has clients be sent to these mirrors, or to none. */
  apply(config: RedirectConfig): Promise<void>;
  /** How a mirror serves clients; `undefined` where none are sent anywhere, and for an unknown name. */
  serving(name: string): MirrorServing | undefined;
  /** Requests since the start of the daemon: those that were sent to each mirror, and those that none could take. */
  counts(): { redirected: ReadonlyMap<string, number>; kept: number };
  close(): Promise<void>;
}

interface Target extends Place {
  url: string;
}

export function createRedirector({ replication, ownWord, log }: RedirectorOptions): Redirector {
  const authorities = createAuthorities();
  const redirected = new Map<string, number>();
  let kept = 0;
  let isEnabled = false;
  let isClosed = false;
  let nearest: Nearest<Target> = createNearest<Target>([]);
  /** The server's own certificate. */
  let own = '';
  const turns = createTurns();
  const probe = async (
    mirror: Probed,
    options: { file: NamedFile | undefined; signal: AbortSignal },
  ) => {
    const files = { own, tlsCa: mirror.tlsCa };
    const settings = { ...options, ownWord, authorities: () => authorities.contextFor(files) };
    return await probeMirror(mirror, settings);
  };
  const probes = createProbes<NamedFile>({
    probe,
    sample: replication.sample,
    holds: replication.holds,
    missing: replication.doubt,
    unknown: replication.recall,
    log,
  });

  return {
    enabled: () => isEnabled,
    locate(file, client) {
      if (!isEnabled) return undefined;
      const target = nearest.choose(
        client,
        ({ name }) => probes.isUsable(name) && replication.holds(name, file),
      );
      if (target === undefined) {
        kept += 1;
        return undefined;
      }
      redirected.set(target.name, (redirected.get(target.name) ?? 0) + 1);
      return mirrorUrl(target.url, file.path);
    },
    apply: ({ mirrors, server }) =>
      turns.take(async () => {
        if (isClosed) return;
        own = server.tlsCert;
        isEnabled = server.redirect;
        nearest = createNearest<Target>(isEnabled ? mirrors : []);
        await probes.apply(isEnabled ? mirrors : [], { interval: server.probeInterval });
      }),
    serving(name) {
      const state = probes.state(name);
      return state && { ...state, redirected: redirected.get(name) ?? 0 };
    },
    counts: () => ({ redirected, kept }),
    close: () =>
      turns.take(async () => {
        isClosed = true;
        isEnabled = false;
        await probes.close();
      }),
  };
}

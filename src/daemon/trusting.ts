/** Who may upload, kept in the state folder: for the daemon, and for commands that do without one. */
import { basename, dirname, join } from 'node:path';
import type { Config } from '../config.js';
import { makeFolder, removeTemporaries, writeError, writeFileAtomically } from '../disk/files.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { hostAddresses, hostNames, readShownCertificate } from '../server/certificate.js';
import type { Callers } from '../server/lxd/contract.js';
import { reachableAt } from '../trust/addresses.js';
import { openTrust, type Trust } from '../trust/trust.js';

export interface TrustingOptions {
  paths: Pick<Config['paths'], 'state'>;
  /** What the configuration in force says of the server. */
  server: () => Pick<Config['server'], 'listen' | 'addresses' | 'tlsCert'>;
  log: Logger;
}

/** What the API asks, and what commands do. Without addresses a token has those of the configuration, or this host's. */
export interface Trusting extends Trust, Callers {}

/** Makes it with what `trust.json` of the state folder says. One process at a time may change that. */
export async function openTrusting({ paths, server, log }: TrustingOptions): Promise<Trusting> {
  const trust = await openTrust({
    file: join(paths.state, 'trust.json'),
    write,
    serverFingerprint: async () => (await readShownCertificate(server().tlsCert)).fingerprint,
    log,
  });
  return {
    ...trust,
    invite: async (wish) => {
      const addresses = await addressesFor(server(), wish.addresses);
      return await trust.invite({ ...wish, addresses });
    },
  };
}

async function addressesFor(server: Reachable, wanted: readonly string[]): Promise<string[]> {
  const found = await clientAddresses(server, wanted);
  if (found.length > 0) return found;
  throw new ServerError('USAGE', 'This host does not know by what address clients reach it', {
    hint: 'name one with --address HOST:PORT, or set server.addresses in the configuration',
  });
}

type Reachable = Pick<Config['server'], 'listen' | 'addresses'>;

/** Where clients find this server, `host:port`: as `wanted`, as configured, or as this host is called. */
export async function clientAddresses(
  { listen, addresses }: Reachable,
  wanted: readonly string[] = [],
): Promise<string[]> {
  const given = wanted.length > 0 ? wanted : addresses;
  return reachableAt({ listen, given, names: await hostNames(), hosts: hostAddresses() });
}

async function write(file: string, text: string): Promise<void> {
  const folder = dirname(file);
  try {
    await makeFolder(folder, 0o750);
    await removeTemporaries(folder, [basename(file)]);
    await writeFileAtomically(file, [Buffer.from(text)], { mode: 0o600 });
  } catch (error) {
    throw writeError(file, error);
  }
}

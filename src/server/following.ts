/**
 * An image server that follows the configuration while it runs: another certificate, another address, none.
 */
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { type CertificatePair, readCertificate } from './certificate.js';
import { parseListen } from './listen.js';
import { createImageServer, type ImageServer, type ImageServerOptions } from './server.js';
import type { HttpService } from './service.js';
import type { Traffic } from './traffic.js';

/** What the server needs of the configuration. */
export interface ServingConfig {
  /** Absolute. */
  paths: { root: string; images: string; streams: string };
  /** `listen` '' is no server. */
  server: { listen: string; tlsCert: string; tlsKey: string };
}

export interface ServingOptions {
  log: Logger;
  /** What it answers beside the published tree. Default: nothing. */
  services?: readonly HttpService[];
  /** As those of {@link ImageServerOptions}. */
  redirects?: ImageServerOptions['redirects'];
  trustedProxies?: ImageServerOptions['trustedProxies'];
  documents?: ImageServerOptions['documents'];
  /** Counts what goes over it. Default: nothing does. */
  traffic?: Traffic;
  /** How long connections to an address that is given up may go on, in milliseconds. Default: an hour. */
  retireMs?: number;
}

export interface Serving {
  /**
   * Has the server be as `config` says; reads the certificate again also where nothing has changed. What is
   * being downloaded goes on, from an earlier address too.
   *
   * @throws ServerError TLS, CONFIG, BUSY, DENIED or IO; then the server stays as it was
   */
  apply(config: ServingConfig): Promise<void>;
  /** Where it listens, or why it does not. */
  state(): { url: string } | { reason: string };
  /** Ends it, and what still goes on elsewhere. `graceMs` as for {@link ImageServer.close}. */
  close(options?: { graceMs?: number }): Promise<void>;
}

/** A server that listens, and what it was made of. */
interface Current {
  server: ImageServer;
  config: ServingConfig;
  certificate: CertificatePair;
}

/** Makes what serves from the first {@link Serving.apply} on. */
export function createServing({ retireMs = 3_600_000, ...options }: ServingOptions): Serving {
  const { log } = options;
  let current: Current | undefined;
  let reason = 'it has not started yet';
  const retired = new Map<ImageServer, Promise<void>>();
  /** One thing after the other. */
  let last: Promise<unknown> = Promise.resolve();

  return {
    apply: (config) => inTurn(() => follow(config)),
    state: () => (current === undefined ? { reason } : { url: current.server.url }),
    close: (options) => inTurn(() => end(options)),
  };

  function inTurn(work: () => Promise<void>): Promise<void> {
    const turn = last.then(work);
    last = turn.catch(() => {});
    return turn;
  }

  async function follow(config: ServingConfig): Promise<void> {
    const { listen, tlsCert: certFile, tlsKey: keyFile } = config.server;
    if (listen === '') return stop('it is switched off: server.listen is "" in the configuration');
    try {
      const certificate = await readCertificate({ certFile, keyFile });
      if (current !== undefined && isSamePlace(current.config, config)) {
        renew(current, certificate);
      } else {
        await move({ config, certificate });
      }
    } catch (error) {
      if (current === undefined && error instanceof ServerError) reason = error.message;
      throw error;
    }
  }

  function stop(why: string): void {
    if (current !== undefined) {
      log.info({ url: current.server.url }, 'serving no more');
      retire(current.server);
    }
    current = undefined;
    reason = why;
  }

  function renew(serving: Current, certificate: CertificatePair): void {
    const { key, cert } = serving.certificate;
    if (key.equals(certificate.key) && cert.equals(certificate.cert)) return;
    serving.server.useCertificate(certificate);
    serving.certificate = certificate;
    log.info({ url: serving.server.url }, 'serving with another certificate');
  }

  /** Opens the new address before it gives the old one up, wherever the system lets both be open at once. */
  async function move(next: Omit<Current, 'server'>): Promise<void> {
    const old = current;
    try {
      current = await open(next);
    } catch (error) {
      if (!isBusy(error) || old === undefined || !sharePort(old.config, next.config)) throw error;
      return takeOver(old, next);
    }
    if (old !== undefined) retire(old.server);
  }

  /** The old server stands in the new one's way. Should that not help, it comes back. */
  async function takeOver(old: Current, next: Omit<Current, 'server'>): Promise<void> {
    retire(old.server);
    current = undefined;
    try {
      current = await open(next);
    } catch (error) {
      current = await open(old);
      throw error;
    }
  }

  async function open({ config, certificate }: Omit<Current, 'server'>): Promise<Current> {
    const { root, images: imagesDir, streams: streamsDir } = config.paths;
    const { listen } = config.server;
    const server = await createImageServer({
      ...{ listen, root, imagesDir, streamsDir },
      certificate,
      ...options,
    });
    log.info({ url: server.url }, 'serving');
    return { server, config, certificate };
  }

  function retire(server: ImageServer): void {
    const closing = server
      .close({ graceMs: retireMs, gently: true })
      .catch((err: unknown) => log.error({ err }, 'an earlier server did not close'));
    retired.set(
      server,
      closing.finally(() => retired.delete(server)),
    );
  }

  async function end(options: { graceMs?: number } = {}): Promise<void> {
    const servers = [...retired.keys(), ...(current === undefined ? [] : [current.server])];
    current = undefined;
    reason = 'it has ended';
    await Promise.all(servers.map((server) => server.close(options)));
    await Promise.all(retired.values());
  }
}

const isBusy = (error: unknown) => error instanceof ServerError && error.code === 'BUSY';

function isSamePlace(a: ServingConfig, b: ServingConfig): boolean {
  const placeOf = ({ paths: { root, images, streams }, server: { listen } }: ServingConfig) =>
    [root, images, streams, listen].join('\0');
  return placeOf(a) === placeOf(b);
}

function sharePort(a: ServingConfig, b: ServingConfig): boolean {
  return parseListen(a.server.listen).port === parseListen(b.server.listen).port;
}

/** What the daemon answers over HTTP, put together: to everyone over HTTPS, and to the nginx of this host. */
import type { Config } from '../config.js';
import type { Logger } from '../log.js';
import { createDocuments } from '../server/documents.js';
import { createServing, type Serving } from '../server/following.js';
import { createImageRedirects } from '../server/image-redirects.js';
import { createLocalServer, type LocalServer } from '../server/local.js';
import { keepFlag } from '../server/redirect-flag.js';
import type { Redirects } from '../server/redirects.js';
import type { HttpService } from '../server/service.js';
import { createTraffic, type Traffic } from '../server/traffic.js';

export interface FrontOptions {
  paths: Config['paths'];
  /** In force now. */
  configuration: () => Pick<Config, 'server'>;
  /** What is answered beside the published tree; the first that claims a request has it. */
  services: readonly HttpService[];
  redirects: Redirects;
  log: Logger;
}

export interface Front {
  /** The embedded server. */
  serving: Serving;
  /** What went over each. */
  traffic: { https: Traffic; nginx: Traffic };
  /** Opens the socket for nginx. @throws ServerError as {@link createLocalServer} */
  openToNginx(): Promise<void>;
  /** Has nginx know whether it is to ask where clients get images from. */
  tellNginx(): Promise<void>;
  /** Ends both; what is under way may go on for `graceMs` milliseconds. */
  close(options: { graceMs: number }): Promise<void>;
}

export function createFront(options: FrontOptions): Front {
  const { paths, configuration, services, redirects, log } = options;
  const { root, images: imagesDir, run: runDir, streams } = paths;
  const traffic = { https: createTraffic(), nginx: createTraffic() };
  const documents = createDocuments({ dir: streams, log });
  const trustedProxies = () => configuration().server.trustedProxies;
  const serving = createServing({
    ...{ log, services, redirects, trustedProxies, documents },
    traffic: traffic.https,
  });
  const imageRedirects = createImageRedirects({ root, imagesDir, documents, redirects });
  let local: LocalServer | undefined;
  const flag = keepFlag({ runDir, enabled: () => local !== undefined && redirects.enabled() });

  return {
    serving,
    traffic,
    async openToNginx() {
      local = await createLocalServer({
        ...{ runDir, services: [...services, imageRedirects], log },
        ...{ traffic: traffic.nginx, group: configuration().server.socketGroup },
      });
    },
    async tellNginx() {
      await flag.refresh().catch((err: unknown) => {
        log.error({ err }, 'cannot tell nginx whether clients are redirected');
      });
    },
    async close(end) {
      const [embedded, forNginx] = await Promise.allSettled([serving.close(end), closeLocal(end)]);
      for (const each of [embedded, forNginx]) if (each.status === 'rejected') throw each.reason;
    },
  };

  /** nginx asks no more, before there is nobody to answer. */
  async function closeLocal(end: { graceMs: number }): Promise<void> {
    try {
      await flag.close();
    } finally {
      await local?.close(end);
    }
  }
}

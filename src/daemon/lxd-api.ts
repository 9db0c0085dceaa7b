/** The LXD API of the daemon: what it is made of, and what it tells of this server. */
import type { Config } from '../config.js';
import type { Logger } from '../log.js';
import { readShownCertificate, type ShownCertificate } from '../server/certificate.js';
import { createLxdApi, type LxdApi } from '../server/lxd/api.js';
import type { Callers, Library } from '../server/lxd/contract.js';
import { createOperations } from '../server/lxd/operations.js';
import { createUploads } from '../server/lxd/uploads/uploads.js';
import { clientAddresses } from './trusting.js';

export interface DaemonApiOptions {
  /** Absolute; what the paths of images' files are below. */
  root: string;
  /** Of the program. */
  version: string;
  library: Library;
  callers: Callers;
  log: Logger;
}

export interface DaemonApi {
  /** For whatever serves HTTP. */
  service: LxdApi;
  /** Goes by another configuration, and by a certificate that was renewed. */
  follow(config: Pick<Config, 'server' | 'uploads'>): Promise<void>;
  /** Ends what is under way. */
  close(): Promise<void>;
}

export function createDaemonApi(options: DaemonApiOptions): DaemonApi {
  const { root, version, library, callers, log } = options;
  let shown: ShownCertificate | undefined;
  let addresses: readonly string[] = [];
  let largest = 0;
  const operations = createOperations({ log });
  const self = () => ({ addresses, fingerprints: shown === undefined ? [] : [shown.fingerprint] });
  const uploads = createUploads({ library, operations, self, maxSize: () => largest, log });
  const about = () => ({ version, addresses, ...(shown && { certificate: shown.pem }) });
  const service = createLxdApi({
    ...{ library, callers, operations, uploads, about, root, log },
  });
  return {
    service,
    async follow({ server, uploads: { maxSize } }) {
      largest = maxSize;
      addresses = await clientAddresses(server);
      try {
        shown = await readShownCertificate(server.tlsCert);
      } catch (err) {
        // Whoever needs one is told: a server over HTTPS does not start, and no token can be made.
        log.debug({ err }, 'clients are told of no certificate');
      }
    },
    async close() {
      // Those who listen to events are to hear how operations ended.
      await operations.close();
      await uploads.close();
      await service.close();
    },
  };
}

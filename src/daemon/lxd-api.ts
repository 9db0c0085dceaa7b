/** The LXD API of the daemon: what it is made of, and what it tells of this server. */
import type { Config } from '../config.js';
import type { Logger } from '../log.js';
import { readShownCertificate, type ShownCertificate } from '../server/certificate.js';
import { createLxdApi, type LxdApi } from '../server/lxd/api.js';
import type { Callers, Library } from '../server/lxd/contract.js';
import { createOperations, type OperationCounts } from '../server/lxd/operations.js';
import { createUploads } from '../server/lxd/uploads/uploads.js';
import { clientAddresses } from './trusting.js';

export interface DaemonApiOptions {
  /** Absolute; what the paths of images' files are below. */
  root: string;
  /** Of the program. */
  version: string;
  /** In force now. */
  configuration: () => Pick<Config, 'server' | 'uploads'>;
  library: Library;
  callers: Callers;
  log: Logger;
}

export interface DaemonApi {
  /** For whatever serves HTTP. */
  service: LxdApi;
  /** Tells clients of another configuration's addresses and certificate, and of a certificate that was renewed. */
  follow(server: Config['server']): Promise<void>;
  /** Of what clients have started. */
  operations(): OperationCounts;
  /** Ends what is under way. */
  close(): Promise<void>;
}

export function createDaemonApi(options: DaemonApiOptions): DaemonApi {
  const { root, version, configuration, library, callers, log } = options;
  let shown: ShownCertificate | undefined;
  let addresses: readonly string[] = [];
  const operations = createOperations({ log });
  const self = () => ({ addresses, fingerprints: shown === undefined ? [] : [shown.fingerprint] });
  const maxSize = () => configuration().uploads.maxSize;
  const uploads = createUploads({ library, operations, self, maxSize, log });
  const about = () => ({ version, addresses, ...(shown && { certificate: shown.pem }) });
  const service = createLxdApi({
    ...{ library, callers, operations, uploads, about, root, log },
  });
  return {
    service,
    async follow(server) {
      addresses = await clientAddresses(server);
      try {
        shown = await readShownCertificate(server.tlsCert);
      } catch (err) {
        // Whoever needs one is told: a server over HTTPS does not start, and no token can be made.
        log.debug({ err }, 'clients are told of no certificate');
      }
    },
    operations: () => operations.counts(),
    async close() {
      // Those who listen to events are to hear how operations ended.
      await operations.close();
      await uploads.close();
      await service.close();
    },
  };
}

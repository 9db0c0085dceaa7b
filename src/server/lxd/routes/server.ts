/** The routes about the server itself: what it is, its one project, the certificates of clients. */
import { X509Certificate } from 'node:crypto';
import { nullish, object, string } from 'valibot';
import { ServerError } from '../../../errors.js';
import { readJson } from '../body.js';
import type { Callers, TrustedClient } from '../contract.js';
import type { Answer, Call } from '../exchange.js';
import type { RouteEntry } from '../routing.js';
import { requireTrust } from '../who.js';

/** What the server tells clients that it trusts. */
export interface ServerFacts {
  /** Of the program. */
  version: string;
  /** PEM of the certificate that clients meet. */
  certificate?: string;
  /** `host:port` where clients find it, beside the one that they have used. */
  addresses: readonly string[];
}

export interface ServerRoutesOptions {
  callers: Callers;
  about: () => ServerFacts;
}

/**
 * What clients need to know of beside version 1.0: Incus sends aliases a second time unless an image's creation takes
 * them, and no client asks for a refresh that the server does not know. Without filtering, which they repeat
 * themselves, they do not even ask for containers, and so never read that there are none here.
 */
const apiExtensions = ['api_filtering', 'image_create_aliases', 'image_force_refresh'];

export function serverRoutes({ callers, about }: ServerRoutesOptions): RouteEntry[] {
  return [
    { method: 'GET', path: '/', access: 'anyone', route: async () => sync(['/1.0']) },
    { method: 'GET', path: '/1.0', access: 'anyone', route: async (call) => describe(call) },
    { method: 'GET', path: '/1.0/projects', access: 'anyone', route: async (call) => list(call) },
    {
      method: 'GET',
      path: '/1.0/projects/default',
      access: 'anyone',
      route: async () => sync(project),
    },
    { method: 'GET', path: '/1.0/certificates', route: async (call) => ownCertificates(call) },
    { method: 'POST', path: '/1.0/certificates', access: 'anyone', route: admit },
    { method: 'GET', path: '/1.0/certificates/:fingerprint', route: ownCertificate },
  ];

  function describe({ caller: { client } }: Call): Answer {
    const known = {
      ...{ api_extensions: apiExtensions, api_status: 'stable', api_version: '1.0' },
      // Not true though images are: clients would then take the server for one that is read only.
      ...{ auth: client === undefined ? 'untrusted' : 'trusted', public: false },
      auth_methods: ['tls'],
    };
    if (client === undefined) return sync(known);
    const user = { auth_user_name: client.fingerprint, auth_user_method: 'tls' };
    return sync({ ...known, ...user, config: {}, environment: environment(about()) });
  }

  async function admit({ caller, body }: Call): Promise<Answer> {
    const {
      certificate: other,
      password,
      trust_token,
    } = await readJson(body, admission, {
      limit: mostAdmission,
    });
    if (other) throw otherCertificate();
    const { certificate, address } = caller;
    const token = trust_token || password || '';
    if (token === '' || certificate === undefined) return added(requireTrust(caller));
    return added(await callers.admit({ token, certificate, address }));
  }
}

const sync = (metadata: unknown): Answer => ({ kind: 'sync', metadata });

/** Anyone may send so much, and on many connections at once; a token has some hundred bytes. */
const mostAdmission = 32 * 1024;

const admission = object({
  certificate: nullish(string()),
  password: nullish(string()),
  trust_token: nullish(string()),
});

function otherCertificate(): ServerError {
  return new ServerError('FORBIDDEN', 'A client can only have its own certificate trusted', {
    hint: 'for another, run "lxd-image-server trust add NAME --certificate FILE" on the server',
  });
}

const added = ({ fingerprint }: TrustedClient): Answer => ({
  ...{ kind: 'sync', metadata: null, status: 201 },
  location: `/1.0/certificates/${fingerprint}`,
});

function environment({ version, certificate, addresses }: ServerFacts) {
  return {
    addresses,
    ...{ architectures: [], server: 'lxd-image-server', server_version: version },
    certificate: certificate ?? '',
    certificate_fingerprint: certificate === undefined ? '' : fingerprintOf(certificate),
  };
}

function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase();
}

const project = { name: 'default', description: 'All images', config: {}, used_by: [] };

function list({ query }: Call): Answer {
  return sync(query.get('recursion') === '1' ? [project] : ['/1.0/projects/default']);
}

function ownCertificates({ caller, query }: Call): Answer {
  const client = requireTrust(caller);
  if (query.get('recursion') === '1') return sync([certificateView(client, caller.certificate)]);
  return sync([`/1.0/certificates/${client.fingerprint}`]);
}

async function ownCertificate({ caller, params }: Call): Promise<Answer> {
  const client = requireTrust(caller);
  if (params.fingerprint !== client.fingerprint) {
    throw new ServerError('NOT_FOUND', 'Clients see no certificate but their own', {
      hint: 'run "lxd-image-server trust list" on the server',
    });
  }
  return sync(certificateView(client, caller.certificate));
}

function certificateView({ name, fingerprint }: TrustedClient, der: Uint8Array | undefined) {
  const certificate = der === undefined ? '' : new X509Certificate(der).toString();
  return { certificate, fingerprint, name, type: 'client', restricted: false, projects: [] };
}

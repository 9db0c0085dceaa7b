/** Taking the host key of a mirror for the right one, once somebody has compared it. */
import { ServerError } from '../errors.js';
import { knownHostsFile, loadHostTrust, recordHostKey } from './host-keys.js';
import { type SftpMirrorConfig, seenHostKey } from './sftp.js';

export type TrustConfig = Pick<
  SftpMirrorConfig,
  'name' | 'user' | 'remote' | 'hostKey' | 'knownHosts'
>;

/** The host key that a mirror shows, and what is known of it. */
export interface ShownKey {
  /** `ssh-ed25519` */
  type: string;
  /** `SHA256:…`, as `ssh-keygen -l` prints it. */
  fingerprint: string;
  trusted: boolean;
  /** Why it is not. */
  reason?: string;
  /** Where it is written down when it is accepted. */
  file: string;
}

/** @throws ServerError MIRROR_DOWN where the mirror cannot be reached; MIRROR_AUTH where no file can be read. */
export async function showHostKey(
  config: TrustConfig,
  options: { signal?: AbortSignal } = {},
): Promise<ShownKey> {
  const trust = await loadHostTrust(config);
  const { key, type, fingerprint } = await seenHostKey(config, { ...options, trust });
  const refusal = trust.judge(key);
  return {
    type,
    fingerprint,
    trusted: refusal === undefined,
    ...(refusal && { reason: refusal.message }),
    file: knownHostsFile(config),
  };
}

/**
 * Writes down that the mirror has the host key with `fingerprint`, if it shows just that key now.
 *
 * @throws ServerError as {@link showHostKey}; MIRROR_AUTH where it shows another; CONFIG where host_key says which.
 */
export async function acceptHostKey(
  config: TrustConfig,
  { fingerprint, signal }: { fingerprint: string; signal?: AbortSignal },
): Promise<void> {
  const { name, hostKey, remote } = config;
  if (hostKey !== undefined && hostKey.replace(/=+$/, '') !== fingerprint.replace(/=+$/, '')) {
    throw new ServerError('CONFIG', `The configuration says which host key mirror ${name} has`, {
      hint: `if it is another now, set host_key = "${fingerprint}"`,
    });
  }
  const trust = await loadHostTrust(config);
  const seen = await seenHostKey(config, { trust, signal });
  if (seen.fingerprint !== fingerprint.replace(/=+$/, '')) {
    const text = `Mirror ${name} shows another host key now: ${seen.type} ${seen.fingerprint}`;
    throw new ServerError('MIRROR_AUTH', text, {
      hint: 'compare it with the one that the mirror itself has',
    });
  }
  if (hostKey !== undefined) return;
  await recordHostKey(knownHostsFile(config), { remote, key: seen.key });
  // What is marked as revoked stays so, whatever else is written down.
  const refusal = (await loadHostTrust(config)).judge(seen.key);
  if (refusal !== undefined) throw refusal;
}

/** What logs us in at a mirror: a private key from its file, or the same key in an agent. */
import { createPrivateKey } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import ssh2, { type AnyAuthMethod, type IdentityCallback, type ParsedKey } from 'ssh2';
import { ServerError, systemCode, systemText } from '../errors.js';

/** The environment variable with the passphrase of the private keys. */
export const passphraseVariable = 'LXD_IMAGE_SERVER_KEY_PASSPHRASE';

/** How to log in, as ssh2 takes it. */
export interface Credentials {
  method: AnyAuthMethod;
  /** The line for the mirror's authorized_keys. */
  publicKey: string;
}

export interface CredentialsOptions {
  /** The mirror's name, for errors. */
  name: string;
  user: string;
  keyPath: string;
  /** Default: the environment of this process. `SSH_AUTH_SOCK` is where an agent listens. */
  env?: NodeJS.ProcessEnv;
}

/**
 * Reads the private key `keyPath`: OpenSSH's own form, or PEM; with a passphrase where it has one. Where it cannot be
 * had (no passphrase given, or only `keyPath.pub` is there), an agent that holds the same key does as well.
 *
 * @throws ServerError MIRROR_AUTH that says what is wrong with the key
 */
export async function loadCredentials(options: CredentialsOptions): Promise<Credentials> {
  const { name, user, keyPath, env = process.env } = options;
  const refuse = refusalOf(name);
  const text = await readKeyFile(keyPath, refuse);
  const key =
    text === undefined ? refuse.missing(keyPath) : readKey(text, { env, keyPath, refuse });
  if (!(key instanceof ServerError)) {
    return { method: { type: 'publickey', username: user, key }, publicKey: publicLine(key) };
  }
  const fromAgent = await findInAgent(await publicHalf(keyPath, text), env);
  if (fromAgent === undefined) throw key;
  const { agent, identity } = fromAgent;
  return { method: { type: 'agent', username: user, agent }, publicKey: publicLine(identity) };
}

type Refusal = ReturnType<typeof refusalOf>;

/** The ways in which a key is of no use. */
function refusalOf(name: string) {
  const because = (message: string, hint: string, cause?: unknown) =>
    new ServerError('MIRROR_AUTH', `Mirror ${name}: ${message}`, { hint, cause });
  return {
    because,
    missing: (file: string) =>
      because(
        `there is no key ${file}`,
        `make one with: ssh-keygen -t ed25519 -f ${file}, and add ${file}.pub to the mirror's authorized_keys`,
      ),
  };
}

async function readKeyFile(file: string, refuse: Refusal): Promise<string | undefined> {
  try {
    const { mode } = await stat(file);
    const text = await readFile(file, 'latin1');
    if ((mode & 0o077) !== 0 && text.includes('PRIVATE KEY')) {
      const octal = (mode & 0o777).toString(8).padStart(4, '0');
      const text = `others than its owner may read or change the key ${file} (mode ${octal})`;
      throw refuse.because(text, `chmod 600 ${file}`);
    }
    return text;
  } catch (cause) {
    if (systemCode(cause) === 'ENOENT') return undefined;
    if (cause instanceof ServerError) throw cause;
    const hint = 'let the user that the server runs as own the file';
    throw refuse.because(`cannot read the key ${file}: ${systemText(cause)}`, hint, cause);
  }
}

interface KeyContext {
  env: NodeJS.ProcessEnv;
  keyPath: string;
  refuse: Refusal;
}

/** The private key in `text`, or why there is none. */
function readKey(text: string, { env, keyPath, refuse }: KeyContext): ParsedKey | ServerError {
  const passphrase = env[passphraseVariable] || undefined;
  if (isPublicKey(text)) {
    const hint = `name the private key with key_path: ${keyPath.replace(/\.pub$/, '')}`;
    return refuse.because(`${keyPath} is a public key`, hint);
  }
  if (passphrase === undefined && isEncrypted(text)) {
    const hint = `set ${passphraseVariable} in the server's environment, or add the key to its ssh-agent`;
    return refuse.because(`the key ${keyPath} needs a passphrase`, hint);
  }
  try {
    const key = parsePrivate(text, passphrase);
    if (key.isPrivateKey()) return key;
    throw new Error('there is no private key in it');
  } catch (cause) {
    if (passphrase !== undefined && isEncrypted(text)) {
      const hint = `set ${passphraseVariable} to the passphrase of this key`;
      return refuse.because(`the passphrase does not open the key ${keyPath}`, hint, cause);
    }
    const hint = 'make a new one with: ssh-keygen -t ed25519';
    const reason = cause instanceof Error ? cause.message : String(cause);
    return refuse.because(`cannot make use of the key ${keyPath}: ${reason}`, hint, cause);
  }
}

function isPublicKey(text: string): boolean {
  return (
    /^(?:ssh-|ecdsa-|sk-)\S+ [A-Za-z\d+/=]+/.test(text) ||
    /BEGIN (?:SSH2 )?(?:RSA )?PUBLIC KEY/.test(text)
  );
}

function isEncrypted(text: string): boolean {
  if (/ENCRYPTED PRIVATE KEY|^Proc-Type: 4,ENCRYPTED/m.test(text)) return true;
  const cipher = openSshParts(text)?.cipher;
  return cipher !== undefined && cipher !== 'none';
}

function parsePrivate(text: string, passphrase: string | undefined): ParsedKey {
  const form = /BEGIN (?:ENCRYPTED )?PRIVATE KEY/.test(text) ? fromPkcs8(text, passphrase) : text;
  const key = ssh2.utils.parseKey(form.trim(), passphrase);
  // A file may hold several keys by its form, but has one.
  const first: unknown = Array.isArray(key) ? key[0] : key;
  if (first instanceof Error) throw first;
  return first as ParsedKey;
}

/** PKCS #8, which newer tools write, in the older form of PEM that ssh2 reads. */
function fromPkcs8(text: string, passphrase: string | undefined): string {
  const key = createPrivateKey({ key: text, ...(passphrase === undefined ? {} : { passphrase }) });
  if (key.asymmetricKeyType === 'rsa')
    return key.export({ type: 'pkcs1', format: 'pem' }) as string;
  if (key.asymmetricKeyType === 'ec') return key.export({ type: 'sec1', format: 'pem' }) as string;
  throw new Error(`${key.asymmetricKeyType} keys have to be in OpenSSH's own form`);
}

/** What stands in the open in a key of OpenSSH's form (PROTOCOL.key). */
function openSshParts(text: string): { cipher: string; publicKey: Buffer } | undefined {
  const [, base64] = /BEGIN OPENSSH PRIVATE KEY-----([\s\S]*?)-----END/.exec(text) ?? [];
  if (base64 === undefined) return undefined;
  const bytes = Buffer.from(base64, 'base64');
  let at = 'openssh-key-v1\0'.length;
  const field = () => {
    const length = bytes.readUInt32BE(at);
    at += 4 + length;
    return bytes.subarray(at - length, at);
  };
  try {
    const cipher = field().toString('latin1');
    field();
    field();
    at += 4;
    return { cipher, publicKey: field() };
  } catch {
    return undefined;
  }
}

/** The public half as the protocol carries it: from the key, from the file beside it, or `undefined`. */
async function publicHalf(keyPath: string, text: string | undefined): Promise<Buffer | undefined> {
  const own = text === undefined ? undefined : openSshParts(text)?.publicKey;
  if (own !== undefined) return own;
  const line = text !== undefined && isPublicKey(text) ? text : await readPublic(`${keyPath}.pub`);
  const base64 = line?.trim().split(/\s+/)[1];
  return base64 === undefined ? undefined : Buffer.from(base64, 'base64');
}

async function readPublic(file: string): Promise<string | undefined> {
  return await readFile(file, 'latin1').catch((error: unknown) => {
    if (['ENOENT', 'EACCES'].includes(systemCode(error) ?? '')) return undefined;
    throw error;
  });
}

/** An agent that has one key and no other, so that the server is not asked about keys that were not meant. */
class AgentWithOneKey extends ssh2.OpenSSHAgent {
  readonly #key: ParsedKey;

  constructor(socket: string, key: ParsedKey) {
    super(socket);
    this.#key = key;
  }

  override getIdentities(callback: IdentityCallback<ParsedKey>): void {
    callback(undefined, [this.#key]);
  }
}

async function findInAgent(publicKey: Buffer | undefined, env: NodeJS.ProcessEnv) {
  const socket = env.SSH_AUTH_SOCK;
  if (publicKey === undefined || !socket) return undefined;
  const identities = await new Promise<ParsedKey[]>((resolve) => {
    // An agent that is gone holds no key; what is wrong with the file is what is told then.
    new ssh2.OpenSSHAgent(socket).getIdentities((error, keys) =>
      resolve(error ? [] : ((keys ?? []) as ParsedKey[])),
    );
  });
  const identity = identities.find((key) => key.getPublicSSH().equals(publicKey));
  return identity && { agent: new AgentWithOneKey(socket, identity), identity };
}

function publicLine(key: ParsedKey): string {
  const blob = key.getPublicSSH();
  return `${key.type} ${blob.toString('base64')}`;
}

/**
 * An SFTP server for development: what `npm start` has its mirror on where the machine has no sshd. One user, who
 * logs in with a key, and the files below one folder; `sftp-session.ts` serves them.
 *
 * ssh2's server side answers the greeting with a fixed text that names no extensions, so there is none: files are
 * replaced in two steps, not synced, and never linked, as with any plain server of SFTP version 3.
 */
import { once } from 'node:events';
import { realpath } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import ssh2, { type AuthContext, type Connection, type ParsedKey } from 'ssh2';
import { describeHostKey } from '../../src/mirror/host-keys.js';
import { serveFiles } from './sftp-session.js';

export interface SftpServerOptions {
  /** The folder that clients see as `/`. */
  root: string;
  /** Who may log in. */
  user: string;
  /** The server's private key, in a form of OpenSSH's. */
  hostKey: string;
  /** Keys that log in, as authorized_keys has them. */
  authorizedKeys: readonly string[];
  /** Port 0 is any that is free. */
  listen: { host: string; port: number };
}

export interface SftpServer {
  port: number;
  /** Of the host key: `SHA256:…` */
  fingerprint: string;
  /** Ends all connections. Resolves when every file is closed. */
  close(): Promise<void>;
}

const loginMs = 30_000;

export async function startSftpServer(options: SftpServerOptions): Promise<SftpServer> {
  const root = await realpath(options.root);
  const keys = options.authorizedKeys.map(parseKey);
  const hostKey = parseKey(options.hostKey);
  /** By the port of the client's. */
  const sockets = new Map<number | undefined, Socket>();
  const sessions = new Set<Promise<void>>();

  const ssh = new ssh2.Server(
    { hostKeys: [options.hostKey], ident: 'lxd-image-server-development' },
    (client, { port }) => serve(client, sockets.get(port)),
  );
  // The sockets are ours, so that a client which asks for more than is answered can be made to wait.
  const server = createServer({ noDelay: true }, (socket) => {
    const port = socket.remotePort;
    sockets.set(port, socket);
    socket.once('close', () => sockets.delete(port));
    socket.setTimeout(loginMs, () => socket.destroy());
    ssh.injectSocket(socket);
  });
  server.listen(options.listen);
  await once(server, 'listening');

  return {
    port: (server.address() as AddressInfo).port,
    fingerprint: describeHostKey(hostKey.getPublicSSH()).fingerprint,
    async close() {
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets.values()) socket.destroy();
      await closed;
      await Promise.all(sessions);
    },
  };

  function serve(client: Connection, socket: Socket | undefined): void {
    // A connection that breaks ends by itself.
    client.on('error', () => {});
    client.on('authentication', (login) => {
      if (mayLogIn(login, { user: options.user, keys })) login.accept();
      else login.reject(['publickey']);
    });
    client.once('ready', () => {
      socket?.setTimeout(0);
      client.once('session', (accept) => {
        accept().once('sftp', (acceptSftp) => {
          const session = serveFiles(acceptSftp(), {
            root,
            wait: () => void socket?.pause(),
            goOn: () => void socket?.resume(),
          });
          client.once('close', session.end);
          sessions.add(session.ended);
          void session.ended.then(() => sessions.delete(session.ended));
        });
      });
    });
  }
}

/** Whether a login is that of the user, with one of the keys; at first a client only asks whether a key would do. */
function mayLogIn(
  login: AuthContext,
  { user, keys }: { user: string; keys: readonly ParsedKey[] },
): boolean {
  if (login.method !== 'publickey' || login.username !== user) return false;
  const key = keys.find((each) => each.getPublicSSH().equals(login.key.data));
  if (key === undefined) return false;
  const { blob, signature, hashAlgo } = login;
  if (signature === undefined) return true;
  return blob !== undefined && key.verify(blob, signature, hashAlgo);
}

function parseKey(text: string): ParsedKey {
  const key = ssh2.utils.parseKey(text);
  if (key instanceof Error) throw key;
  return Array.isArray(key) ? (key[0] as ParsedKey) : key;
}

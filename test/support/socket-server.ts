/** Answers HTTP on a unix socket in the daemon's place, and keeps what it was asked. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';

export type Asked = Pick<IncomingMessage, 'method' | 'url' | 'headers'>;

export interface SocketServer {
  /** The oldest first. */
  asked: Asked[];
  /** Cuts every connection; like a kill, but that the socket's file goes too. */
  close(): Promise<void>;
}

export async function startSocketServer(
  path: string,
  answer: RequestListener,
): Promise<SocketServer> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    asked.push({ method: request.method, url: request.url, headers: request.headers });
    answer(request, response);
  });
  server.listen(path);
  await once(server, 'listening');
  const close = async () => {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  };
  return { asked, close };
}

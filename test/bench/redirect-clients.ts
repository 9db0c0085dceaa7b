/** Clients of the socket for nginx, for redirect.ts: a process that asks on connections that it keeps, and counts. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { requestsOf } from './redirect.js';

interface SocketLoad {
  socket: string;
  paths: readonly string[];
  seconds: number;
  connections: number;
}

process.once('message', (load: SocketLoad) => void run(load));

async function run({ socket, paths, seconds, connections }: SocketLoad): Promise<void> {
  const requests = requestsOf(paths).map(({ path, client }) =>
    Buffer.from(`GET ${path} HTTP/1.1\r\nHost: images.example.org\r\nX-Real-IP: ${client}\r\n\r\n`),
  );
  let [answered, next] = [0, 0];
  for (let count = 0; count < connections; count++) {
    const connection = connect(socket);
    await once(connection, 'connect');
    const ask = () => connection.write(requests[next++ % requests.length] as Buffer);
    let said = '';
    connection.on('data', (chunk: Buffer) => {
      said += chunk.toString('latin1');
      // The text of a redirect is one line, and there is no other in it.
      if (!said.endsWith('\n') || said.endsWith('\r\n')) return;
      if (!said.startsWith('HTTP/1.1 302 ')) throw new Error(`Not redirected: ${said}`);
      said = '';
      answered += 1;
      ask();
    });
    ask();
  }
  const [started, before] = [performance.now(), answered];
  setTimeout(() => {
    const rate = ((answered - before) * 1000) / (performance.now() - started);
    process.send?.(rate);
  }, seconds * 1000);
}

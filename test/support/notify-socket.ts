/** A service manager's end of sd_notify(3): a datagram socket, which perl holds, as Node has none. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';

export interface NotifySocket {
  /** What NOTIFY_SOCKET is set to. */
  address: string;
  /** The next message, its lines joined by newlines. Waits until it is there. */
  next(): Promise<string>;
  /** The next messages, as many as `count`. */
  take(count: number): Promise<string[]>;
}

/**
 * Binds the socket, says so, and then gives each datagram as a line in hexadecimal. A descriptor that comes
 * with one is closed: that is what the sender of a barrier waits for.
 */
const receiver = `
use Socket;
$| = 1;
my $address = $ARGV[0];
$address =~ s/^@/\\0/;
socket(my $socket, PF_UNIX, SOCK_DGRAM, 0) or die $!;
bind($socket, sockaddr_un($address)) or die "$address: $!";
print "bound\\n";
while (defined recv($socket, my $message, 65536, 0)) { print unpack("H*", $message), "\\n" }
`;

/** Listens on `address`, a path or an abstract name that begins with `@`, until the test is over. */
export async function listenAsServiceManager(
  t: Pick<TestContext, 'after'>,
  address: string,
): Promise<NotifySocket> {
  const child = spawn('perl', ['-e', receiver, address], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(async () => {
    const gone = once(child, 'exit');
    child.kill();
    await gone;
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error('The receiver of notifications has ended');
    return value;
  };
  await line();
  const next = async (): Promise<string> => {
    const message = Buffer.from(await line(), 'hex').toString();
    return message === 'BARRIER=1' ? next() : message;
  };
  const take = async (count: number) => {
    const messages: string[] = [];
    while (messages.length < count) messages.push(await next());
    return messages;
  };
  return { address, next, take };
}

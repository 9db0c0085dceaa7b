/** SSH keys without ssh-keygen, which a machine without OpenSSH does not have. */
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import ssh2 from 'ssh2';

export interface SshKey {
  /** Where the private key is, as OpenSSH writes it. The public one stands beside it, in `.pub`. */
  file: string;
  private: string;
  /** A line for authorized_keys. */
  public: string;
}

/** The ed25519 key in `file`, made where there is none, so that a server that is started again is the same. */
export async function sshKey(file: string, comment: string): Promise<SshKey> {
  if (!existsSync(file)) {
    const made = makeKeyPair(comment);
    await writeFile(`${file}.pub`, `${made.public}\n`);
    await writeFile(file, made.private, { mode: 0o600 });
  }
  const [secret, line] = await Promise.all([
    readFile(file, 'utf8'),
    readFile(`${file}.pub`, 'utf8'),
  ]);
  return { file, private: secret, public: line.trim() };
}

/** One in 256 keys that ssh2 1.17 makes is a byte short, for it drops a leading zero: that is made again. */
export function makeKeyPair(comment: string): { private: string; public: string } {
  for (;;) {
    const made = ssh2.utils.generateKeyPairSync('ed25519', { comment });
    if (!(ssh2.utils.parseKey(made.private) instanceof Error)) return made;
  }
}

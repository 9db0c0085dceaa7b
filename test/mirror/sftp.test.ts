import type { TestContext } from 'node:test';
import { needs, needsRoot } from '../support/programs.js';
import { createSftpServer, type SftpServerOptions } from '../support/sftp-mirror.js';
import { conformance } from './conformance.js';

const programs = ['sshd', 'ssh-keygen'];
const lacking = 'internal-sftp -P posix-rename,hardlink,copy-data,fsync';

const setUp = (options: SftpServerOptions) => async (t: TestContext) => {
  const { open, folder } = await createSftpServer(t, options);
  return { mirror: open(), folder };
};

conformance('behind a real sshd', {
  // A umask that would hide everything from the web server.
  setUp: setUp({ subsystem: 'internal-sftp -u 0077' }),
  ...needs(...programs),
});
conformance('behind a real sshd that shuts the account in', {
  setUp: setUp({ chroot: true }),
  ...needsRoot(...programs),
});
conformance('without the extensions of OpenSSH', {
  setUp: setUp({ subsystem: lacking }),
  extensions: false,
  ...needs(...programs),
});

/** A master must not be its own mirror: what replication takes for too much there would be removed from the tree. */
import { randomBytes } from 'node:crypto';
import { ServerError } from '../errors.js';
import { ownFolder } from './names.js';
import { makeOwnFolder, type Work } from './work.js';

/**
 * Writes a file on the mirror and looks for it here, once a process, before anything else is done there.
 *
 * @throws ServerError CONFIG where the mirror is this master's own root
 */
export async function checkApart(work: Work): Promise<void> {
  const { mirror, knowledge, isHere, signal } = work;
  if (knowledge.isApart || isHere === undefined) return;
  const word = randomBytes(8).toString('hex');
  const path = `${ownFolder}/.apart-${word}.tmp`;
  await makeOwnFolder(work, ownFolder);
  await mirror.write(path, [Buffer.from(word)], signal);
  const isOwn = await isHere(path, word);
  await mirror.remove(path, signal);
  if (isOwn) {
    throw new ServerError('CONFIG', 'The mirror is the root of this very server', {
      hint: 'give the mirror a root of its own, or a host of its own',
    });
  }
  knowledge.isApart = true;
}

/** Who this master is, so that two of them do not write to one mirror. */
import { createHmac } from 'node:crypto';
import { readFile, realpath } from 'node:fs/promises';
import { hostname } from 'node:os';

export interface MasterIdentity {
  /** 32 hexadecimal digits, the same for as long as the root stands on this machine. */
  id: string;
  /** What the machine is called. */
  host: string;
}

/** What tells machines apart; machine-id(5) asks that it is not shown to others as it is. */
const machineIdFile = '/etc/machine-id';

/** The identity of the master of `root`. It needs no state: deleting all of that must not shut a master out. */
export async function masterOf(root: string): Promise<MasterIdentity> {
  const host = hostname();
  const machine = await readFile(machineIdFile, 'utf8').catch(() => '');
  // Images of machines may come without one, or with a word in its place.
  const key = /^[0-9a-f]{32}\n?$/.test(machine) ? machine.trim() : host;
  const place = await realpath(root).catch(() => root);
  const id = createHmac('sha256', key).update(`lxd-image-server master\0${place}`).digest('hex');
  return { id: id.slice(0, 32), host };
}

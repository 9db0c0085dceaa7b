/** The kernel's limits for watching, and what to say where one is reached. inotify(7) describes them. */
import { readFileSync } from 'node:fs';
import { systemCode, systemText } from '../errors.js';

const limits = '/proc/sys/fs/inotify';
const sysctlFile = '/etc/sysctl.d/60-lxd-image-server.conf';

/** What the kernel takes where nothing else is set. */
const defaultQueue = 16384;

/** How many events the kernel keeps for a process before it drops the rest without a word. */
export function queuedEventsLimit(): number {
  return readLimit('max_queued_events') ?? defaultQueue;
}

export interface Obstacle {
  reason: string;
  cure: string;
}

/** Whether `error` says that no further watch will succeed for now. */
export function isExhausted(error: unknown): boolean {
  return ['ENOSPC', 'EMFILE', 'ENFILE', 'ENOMEM'].includes(systemCode(error) ?? '');
}

/**
 * Why folders could not be watched, and the cure.
 *
 * @param folders how many folders there are in all.
 */
export function obstacleOf(error: unknown, folders: number): Obstacle {
  switch (systemCode(error)) {
    case 'ENOSPC': {
      const limit = readLimit('max_user_watches') ?? 0;
      return {
        reason: 'the limit of inotify watches is reached',
        cure: settingOf('max_user_watches', fittingLimit(limit, folders)),
      };
    }
    case 'EMFILE': {
      const limit = readLimit('max_user_instances') ?? 0;
      const setting = settingOf('max_user_instances', fittingLimit(limit, 1));
      return {
        reason: 'the limit of inotify instances, or of open files, is reached',
        cure: `${setting}; or set a higher LimitNOFILE= for the service`,
      };
    }
    default:
      return { reason: systemText(error), cure: 'see to the disk and to the system log' };
  }
}

/** Room for twice the folders beside all that uses the limit now, as a power of two. */
export function fittingLimit(limit: number, folders: number): number {
  return 2 ** Math.ceil(Math.log2(limit + 2 * folders));
}

function settingOf(name: string, value: number): string {
  const setting = `fs.inotify.${name}=${value}`;
  return `run "sysctl ${setting}", and put that setting into ${sysctlFile} to keep it`;
}

function readLimit(name: string): number | undefined {
  try {
    const limit = Number(readFileSync(`${limits}/${name}`, 'utf8'));
    return Number.isSafeInteger(limit) ? limit : undefined;
  } catch {
    return undefined;
  }
}

/** Mirrors in words. */
import type { MirrorConfig } from '../config.js';
import type { MirrorStatus, MirrorWork } from '../daemon/status.js';
import { formatHostPort } from '../units.js';
import { counted, formatBytes, formatDuration } from './format.js';

/** `user@host:port` */
export function remoteText({ user, remote }: Pick<MirrorConfig, 'user' | 'remote'>): string {
  return `${user}@${formatHostPort(remote)}`;
}

/** How far a mirror is behind: `3 versions, 2 min`. */
export function lagText({ lag, state }: Pick<MirrorStatus, 'lag' | 'state'>): string {
  const { versions, seconds } = lag;
  const parts = [
    versions !== undefined && versions > 0 && counted(versions, 'version'),
    seconds > 0 && formatDuration(seconds * 1000),
  ].filter(Boolean);
  if (parts.length > 0) return parts.join(', ');
  return state === 'unknown' ? '?' : '-';
}

export function failureText({ message, hint }: { message: string; hint?: string }): string {
  return hint === undefined ? message : `${message}; ${hint}`;
}

/** Why no clients are sent to a mirror that should get some; `undefined` where nothing is wrong. */
export function servingText(serving: MirrorStatus['serving']): string | undefined {
  if (serving?.state !== 'failing') return undefined;
  const why = serving.failure === undefined ? 'it does not answer' : failureText(serving.failure);
  return `gets no clients: ${why}`;
}

/** `12 of 40 files, 93.1 MiB/s, 12.0 s left` */
export function aboutWork({ files, rate, secondsLeft }: MirrorWork): string {
  const parts = [
    files.total > 0 && `${files.done} of ${files.total} files`,
    rate !== undefined && rate > 0 && `${formatBytes(rate)}/s`,
    secondsLeft !== undefined && secondsLeft > 0 && `${formatDuration(secondsLeft * 1000)} left`,
  ];
  return parts.filter(Boolean).join(', ');
}

/** Counts uploads: those under way, what came of the others, and how much they brought. */
import { type ErrorCode, ServerError } from '../errors.js';

/**
 * `refused`: something was wrong with the image or what was asked for. `cancelled`: the client went away or took it
 * back, or the server ended. `failed`: something was wrong here, or with the server it was fetched from.
 */
export type UploadResult = 'added' | 'refused' | 'cancelled' | 'failed';

export interface UploadCounts {
  /** Under way, those that are being published too. */
  running: number;
  /** Whole, and on their way into the documents. */
  publishing: number;
  /** That have come, also of those that came to nothing. */
  bytes: number;
  ended: Record<UploadResult, number>;
}

const refusals: readonly ErrorCode[] = [
  ...(['IMAGE_EXISTS', 'IMAGE_INVALID', 'ALIAS_EXISTS'] as const),
  ...(['TOO_LARGE', 'UPLOADS_OFF', 'FORBIDDEN'] as const),
];

/** What has become of an upload that ended with `error`; `undefined` where it just ended, before it was whole. */
export function resultOf(error: unknown): Exclude<UploadResult, 'added'> {
  if (error === undefined) return 'cancelled';
  if (!(error instanceof ServerError)) return 'failed';
  if (error.code === 'INTERRUPTED') return 'cancelled';
  return refusals.includes(error.code) ? 'refused' : 'failed';
}

export function noUploads(): UploadCounts {
  return {
    ...{ running: 0, publishing: 0, bytes: 0 },
    ended: { added: 0, refused: 0, cancelled: 0, failed: 0 },
  };
}

/** Secrets that stand for the right to one thing: an upload, a look at an operation. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';

/** 64 hexadecimal digits that nobody guesses. */
export function newSecret(): string {
  return randomBytes(32).toString('hex');
}

/** Compares in a time that tells nothing of either. */
export function isSameSecret(expected: string, given: string): boolean {
  return timingSafeEqual(digest(expected), digest(given));
}

const digest = (text: string) => createHash('sha256').update(text).digest();

/**
 * Keeps what happens thousands of times a second from filling the log.
 */

/**
 * Calls `say` at most once a minute; the calls between are lost.
 *
 * @param now milliseconds of a clock that never goes back; default: since the process started
 */
export function onceAMinute<Args extends unknown[]>(
  say: (...args: Args) => void,
  now: () => number = () => performance.now(),
): (...args: Args) => void {
  let saidAt = Number.NEGATIVE_INFINITY;
  return (...args) => {
    if (now() - saidAt < 60_000) return;
    saidAt = now();
    say(...args);
  };
}

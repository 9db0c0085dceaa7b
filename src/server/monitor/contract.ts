/** What is told of the server over HTTP, and who gives it: the daemon implements this, `service.ts` asks for it. */

export interface Health {
  ok: boolean;
  /** Why not, in a few words that anyone may read: `the tree has not been looked at yet`. */
  reason?: string;
  /** The same with names of files, for those who may see the status. */
  detail?: string;
}

export interface MetricsText {
  /** For the header. */
  contentType: string;
  text: string;
}

export interface Monitored {
  /** `/status.json`: with the last day of every mirror. */
  status(): unknown;
  /** What `/status/events` sends when it has changed: the same without the days, and without what changes always. */
  live(): unknown;
  metrics(): Promise<MetricsText>;
  health(): Health;
}

/** Clients that ask for an image file can be sent to a mirror: what the servers need to know for that. */

export interface WantedFile {
  /** Relative to the server's root: `images/ENV/RELEASE/ARCH/TYPE/VERSION/FILE`. */
  path: string;
  /** As `images.json` names it: 64 lower-case hexadecimal digits. */
  sha256: string;
  /** Bytes. */
  size: number;
}

export interface Redirects {
  /** Whether clients are to be redirected at all. */
  enabled(): boolean;
  /**
   * Where `client` is to get `file` from: a mirror that has just that content, answers, and is nearest.
   *
   * @param client IP address; '' where it is not known
   * @returns an absolute URL; `undefined` where this server is to send it itself
   */
  locate(file: WantedFile, client: string): string | undefined;
}

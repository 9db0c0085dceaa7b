/** Redirects that do as a test says, and note what they are asked. */
import type { Redirects, WantedFile } from '../../src/server/redirects.js';

export interface TestRedirects extends Redirects {
  isEnabled: boolean;
  /** Where the next file is; `undefined`: nowhere else. Default: {@link mirrorUrl} and its path. */
  place: (file: WantedFile) => string | undefined;
  /** What was asked since the last {@link TestRedirects.take}. */
  asked: (WantedFile & { client: string })[];
  /** Empties {@link TestRedirects.asked}. */
  take(): TestRedirects['asked'];
}

export const mirrorUrl = 'https://eu.images.example.org:8443';

export function testRedirects(): TestRedirects {
  const redirects: TestRedirects = {
    isEnabled: true,
    place: ({ path }) => `${mirrorUrl}/${path}`,
    asked: [],
    take: () => redirects.asked.splice(0),
    enabled: () => redirects.isEnabled,
    locate(file, client) {
      redirects.asked.push({ ...file, client });
      return redirects.place(file);
    },
  };
  return redirects;
}

/** Where on a mirror, relative to its root, the work of replication is kept. No web server shows hidden folders. */
export const ownFolder = '.lxd-image-server';
export const manifestPath = `${ownFolder}/manifest.json`;
/** What becomes the manifest of a mirror that has none. Cleared away where it is left. */
export function claimPath(master: string): string {
  return `${ownFolder}/.claim-${master}.tmp`;
}

/** What is under way, each file named after the SHA-256 of what it has to become. */
export const stagingFolder = `${ownFolder}/staging`;

export function listPath(sha256: string): string {
  return `${ownFolder}/files-${sha256}.json`;
}

export function stagingPath(sha256: string): string {
  return `${stagingFolder}/${sha256}`;
}

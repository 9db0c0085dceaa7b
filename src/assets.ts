/** Where the files are that come with the program, beside its code. */
import { fileURLToPath } from 'node:url';

/** In the project the code is in dist/src; the package has all in one folder, which is what debian/bundle.mjs makes. */
const isProject = import.meta.url.endsWith('/dist/src/assets.js');
const home = new URL(isProject ? '../../' : './', import.meta.url);

/** Absolute paths. */
export const assets = {
  package: fileURLToPath(new URL('package.json', home)),
  /** Templates of nginx's sites. */
  nginx: fileURLToPath(new URL('nginx/', home)),
  /** Pages, each one file. */
  pages: fileURLToPath(new URL(isProject ? 'dist/pages/' : 'pages/', home)),
};

/** A process that changes the images of a root in every way, for tests that kill it: `node library-child.js ROOT`. */
import { librarySite, splitParts, upload } from './library-site.js';

const [root = ''] = process.argv.slice(2);
const ends: (() => unknown)[] = [];
const site = await librarySite(
  { after: (end) => void ends.push(end as () => unknown) },
  { root, removalGrace: 0 },
);
await site.library.sweep();
await site.runner.update({ passing: true });
const first = await upload(site, await splitParts('first'), { aliases: ['one'] });
await upload(site, await splitParts('second', { os: 'new', release: 'box' }), { aliases: ['two'] });
await upload(site, await splitParts('third'));
await site.library.addAlias('more', first.fingerprint);
await site.library.edit(first.fingerprint, { properties: { note: 'edited' } });
await site.library.renameAlias('more', 'other');
await site.library.remove(first.fingerprint);
await site.library.ran();
for (const end of ends.reverse()) await end();

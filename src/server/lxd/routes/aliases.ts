/** The routes of aliases. An alias is a name of a product: it stands for the newest image of that. */
import { nullish, object, string } from 'valibot';
import { ServerError } from '../../../errors.js';
import { readJson } from '../body.js';
import type { Library, LibraryAlias } from '../contract.js';
import type { Answer, Call } from '../exchange.js';
import { aliasEtag, aliasUrl, aliasView } from '../image-view.js';
import type { RouteEntry } from '../routing.js';

const path = '/1.0/images/aliases';
const one = `${path}/:name`;

/** To stand before the routes of images, for which `aliases` is a fingerprint. */
export function aliasRoutes(library: Library): RouteEntry[] {
  return [
    { method: 'GET', path, access: 'anyone', route: list },
    { method: 'POST', path, route: add },
    { method: 'GET', path: one, access: 'anyone', route: async (call) => show(await find(call)) },
    { method: 'PUT', path: one, route: describe },
    { method: 'PATCH', path: one, route: describe },
    { method: 'POST', path: one, route: rename },
    { method: 'DELETE', path: one, route: remove },
  ];

  async function list({ query }: Call): Promise<Answer> {
    const aliases = await library.aliases();
    const whole = query.get('recursion') === '1';
    const metadata = aliases.map((alias) => (whole ? aliasView(alias) : aliasUrl(alias.name)));
    return { kind: 'sync', metadata };
  }

  async function find({ params: { name = '' } }: Call): Promise<LibraryAlias> {
    const alias = (await library.aliases()).find((each) => each.name === name);
    if (alias !== undefined) return alias;
    throw new ServerError('ALIAS_MISSING', `There is no alias ${shown(name)}`);
  }

  async function add({ body }: Call): Promise<Answer> {
    const { name, target } = await readJson(body, newAlias);
    await library.addAlias(name, target);
    return { kind: 'sync', metadata: null, status: 201, location: aliasUrl(name) };
  }

  /** Descriptions have no place in the tree, and are dropped. */
  async function describe(call: Call): Promise<Answer> {
    const alias = await find(call);
    const { target } = await readJson(call.body, aliasEdit);
    if (target && !alias.image.fingerprint.startsWith(target.toLowerCase())) throw cannotMove();
    return { kind: 'sync', metadata: null };
  }

  async function rename({ params: { name = '' }, body }: Call): Promise<Answer> {
    const { name: to } = await readJson(body, newName);
    await library.renameAlias(name, to);
    return { kind: 'sync', metadata: null, status: 201, location: aliasUrl(to) };
  }

  async function remove({ params: { name = '' } }: Call): Promise<Answer> {
    await library.removeAlias(name);
    return { kind: 'sync', metadata: null };
  }
}

const show = (alias: LibraryAlias): Answer => ({
  ...{ kind: 'sync', metadata: aliasView(alias) },
  etag: aliasEtag(alias),
});

const newAlias = object({ name: string(), target: string() });
const newName = object({ name: string() });
const aliasEdit = object({ target: nullish(string()), description: nullish(string()) });

function cannotMove(): ServerError {
  return new ServerError('DENIED', 'An alias stands for the newest image of its product', {
    hint: 'delete it and create it again for an image of another product',
  });
}

const shown = (name: string) => JSON.stringify(name.slice(0, 200));

/** Parts what a configuration file says into known keys, the earlier server's forms, and problems. Pure. */
import { dotted, isTable, keyHint, type Problem, shown, type Table } from './problems.js';
import { mirrorTable, tables } from './schema.js';

export interface SortedOut {
  /** Known keys only, for the schema to check. */
  input: Record<string, unknown>;
  /** Where in the file each mirror of `input` stands. */
  mirrorPaths: string[][];
  /** Keys of `[logging]` that belong to the earlier server. */
  oldLogging: string[];
  problems: Problem[];
}

/** @param raw the file's top table, as the TOML parser gives it */
export function sortOut(raw: Table): SortedOut {
  const problems: Problem[] = [];
  const mirrors = findMirrors(raw, problems);
  const oldLogging = isTable(raw.logging) ? oldLoggingKeys(raw.logging) : [];
  const topKeys = [...Object.keys(tables), 'mirrors'];
  const passedOver = Object.entries(raw)
    .filter(isOldMirror)
    .map(([name]) => name);
  pick(raw, { path: [], known: topKeys, passedOver, problems });
  const input: Table = {};
  for (const [name, { entries }] of Object.entries(tables)) {
    const passedOver = name === 'logging' ? oldLogging : [];
    const known = Object.keys(entries);
    input[name] = pick(raw[name] ?? {}, { path: [name], known, passedOver, problems });
  }
  input.mirrors = mirrors.map(({ name, path, table }) => ({
    ...pick(table, { path, known: mirrorKeys, problems }),
    name,
  }));
  return { input, mirrorPaths: mirrors.map(({ path }) => path), oldLogging, problems };
}

const mirrorKeys = Object.keys(mirrorTable.entries).filter((key) => key !== 'name');

interface PickOptions {
  path: string[];
  known: string[];
  /** Keys that are no problem, though not known. */
  passedOver?: string[];
  problems: Problem[];
}

/** The known keys of a table; each other one becomes a problem. */
function pick(value: unknown, options: PickOptions): Table {
  const { path, known, passedOver = [], problems } = options;
  if (!isTable(value)) {
    problems.push(notATable(path, value));
    return {};
  }
  for (const key of Object.keys(value)) {
    if (known.includes(key) || passedOver.includes(key)) continue;
    const at = [...path, key];
    problems.push({ path: at, text: `unknown key "${dotted(at)}"`, hint: keyHint(at, known) });
  }
  return Object.fromEntries(Object.entries(value).filter(([key]) => known.includes(key)));
}

function notATable(path: string[], value: unknown): Problem {
  return { path, text: `${dotted(path)} must be a table, not ${shown(value)}` };
}

interface FoundMirror {
  name: string;
  path: string[];
  table: Table;
}

/** The mirrors of `[mirrors.NAME]` and those of the old form. */
function findMirrors(raw: Table, problems: Problem[]): FoundMirror[] {
  const listed = raw.mirrors ?? {};
  if (!isTable(listed)) problems.push(notATable(['mirrors'], listed));
  const old = Object.entries(raw).filter(isOldMirror);
  const found = [
    ...Object.entries(isTable(listed) ? listed : {}).map(foundUnder('mirrors')),
    ...old.map(foundUnder()),
  ];
  for (const [name] of old.filter(([name]) => Object.hasOwn(listed, name))) {
    const text = `mirror ${shown(name)} is defined twice`;
    problems.push({
      path: [name],
      text,
      hint: `rename it, or drop [${dotted(['mirrors', name])}]`,
    });
  }
  problems.push(...found.flatMap(mirrorProblems));
  return found.flatMap(({ table, ...rest }) => (isTable(table) ? { table, ...rest } : []));
}

const foundUnder =
  (...parents: string[]) =>
  ([name, table]: [string, unknown]) => ({ name, path: [...parents, name], table });

function mirrorProblems(mirror: { name: string; path: string[]; table: unknown }): Problem[] {
  const { name, path, table } = mirror;
  if (!isTable(table)) return [notATable(path, table)];
  if (/^[A-Za-z\d][\w.-]{0,63}$/.test(name)) return [];
  const hint = 'use letters, digits, ".", "_" and "-", a letter or digit first';
  return [{ path, text: `${shown(name)} cannot name a mirror`, hint }];
}

/** The form that the earlier server's manual shows: an empty `[mirrors]`, then `[mirror1]`, `[mirror2]`. */
function isOldMirror([name, table]: [string, unknown]): boolean {
  if (!/^mirror.+/.test(name) || name === 'mirrors' || !isTable(table)) return false;
  return ['user', 'url', 'key_path'].some((key) => Object.hasOwn(table, key));
}

/** What Python's logging.config.dictConfig has at its top. */
const pythonLogging = new Set([
  'version',
  'disable_existing_loggers',
  'incremental',
  'formatters',
  'filters',
  'handlers',
  'loggers',
  'root',
]);

function oldLoggingKeys(logging: Table): string[] {
  return Object.entries(logging)
    .filter(([key, value]) => pythonLogging.has(key) || isTable(value))
    .map(([key]) => key);
}

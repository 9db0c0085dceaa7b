/**
 * Where in a TOML text a key stands: the parser gives values without positions, and an error message
 * that names a line saves its reader a search.
 */

/** The line, counted from 1, on which the key with this path is set. */
export type LineOf = (path: readonly string[]) => number;

interface Statement {
  kind: 'table' | 'key';
  key: string[];
  line: number;
}

/**
 * Indexes a TOML 1.0 text that a parser has accepted; no text makes it throw.
 *
 * The returned function answers with the line of the key or of the table's header. A key inside an inline
 * table or an array, and one that is missing, answers with its nearest ancestor that has a line of its own;
 * with none, 1.
 */
export function indexLines(text: string): LineOf {
  const defined = new Map<string, number>();
  const implied = new Map<string, number>();
  let table: string[] = [];
  for (const { kind, key, line } of statements(text)) {
    const path = kind === 'table' ? key : [...table, ...key];
    if (kind === 'table') table = key;
    for (let length = 1; length <= path.length; length++) {
      setOnce(length === path.length ? defined : implied, nameOf(path.slice(0, length)), line);
    }
  }
  return (path) => {
    for (let length = path.length; length > 0; length--) {
      const name = nameOf(path.slice(0, length));
      const line = defined.get(name) ?? implied.get(name);
      if (line !== undefined) return line;
    }
    return 1;
  };
}

const nameOf = (path: readonly string[]): string => JSON.stringify(path);

function setOnce(map: Map<string, number>, name: string, line: number): void {
  if (!map.has(name)) map.set(name, line);
}

/** Every piece of a TOML text; a multi-line string may end in up to two quotes of its own. */
const tokens = new RegExp(
  [
    /(?<blank>[ \t\r]+|#[^\n]*)/,
    /(?<newline>\n)/,
    /(?<string>"""(?:\\[\s\S]|[^\\])*?"""(?:"{0,2})|'''[\s\S]*?'''(?:'{0,2})|"(?:\\.|[^"\\\n])*"|'[^'\n]*')/,
    /(?<mark>[[\]{}=.,])/,
    /(?<bare>[^\s#"'[\]{}=.,]+|[\s\S])/,
  ]
    .map((part) => part.source)
    .join('|'),
  'g',
);

/** The table headers and the keys that are set, in the order of the text; values are passed over. */
function* statements(text: string): Generator<Statement> {
  let line = 1;
  let kind: Statement['kind'] = 'key';
  let key: string[] = [];
  let told = false;
  let depth = 0;
  for (const { groups = {}, 0: token } of text.matchAll(tokens)) {
    const { newline, string, mark, bare } = groups;
    if (newline !== undefined && depth <= 0) [kind, key, told, depth] = ['key', [], false, 0];
    else if (told) depth += mark === undefined ? 0 : nesting(mark);
    else if (mark === '[') kind = 'table';
    else if (mark === '=' || mark === ']') {
      yield { kind, key, line };
      told = true;
    } else if (string !== undefined) key.push(unquoted(string));
    else if (bare !== undefined) key.push(bare);
    if (newline !== undefined || string !== undefined) line += token.split('\n').length - 1;
  }
}

function nesting(mark: string): number {
  if (mark === '[' || mark === '{') return 1;
  return mark === ']' || mark === '}' ? -1 : 0;
}

const escapes: Record<string, string> = {
  b: '\b',
  t: '\t',
  n: '\n',
  f: '\f',
  r: '\r',
  e: '\u001b',
};

/** What a quoted key names. */
function unquoted(token: string): string {
  const inner = token.slice(1, -1);
  if (token.startsWith("'")) return inner;
  return inner.replace(
    /\\(?:x([\dA-Fa-f]{2})|u([\dA-Fa-f]{4})|U([\dA-Fa-f]{8})|(.))/g,
    (_all, x?: string, u?: string, long?: string, letter?: string) => {
      if (letter !== undefined) return escapes[letter] ?? letter;
      const code = Number.parseInt(x ?? u ?? long ?? '', 16);
      return code <= 0x10ffff ? String.fromCodePoint(code) : '';
    },
  );
}

/**
 * Writes the man page and the completion of bash from the command line itself, which has its --help from the same
 * place, and from debian/lxd-image-server.1.in, which has all else.
 *
 *     node debian/manual.mjs OUTDIR
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { descriptions } from '../dist/src/cli/descriptions.js';
import { createProgram, nameOf } from '../dist/src/cli/program.js';

const [outdir] = process.argv.slice(2);
if (outdir === undefined) throw new Error('usage: node debian/manual.mjs OUTDIR');
const root = join(import.meta.dirname, '..');

const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
const program = createProgram({ version, execute: async () => {} });
const verbs = program.commands.flatMap((command) =>
  command.commands.length > 0 ? command.commands : [command],
);
const globalNames = new Set(program.options.map(({ long }) => long));
/** Folders, which every verb has. */
const pathNames = new Set(['--root-dir', '--img-dir', '--streams-dir']);

const roff = (text) =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/^(?=[.'])/gm, '\\&');
const bold = (text) => `\\fB${roff(text)}\\fR`;

/** `--ssl-dir <folder>` with the option bold and what it takes italic. */
function flagsText({ long, flags }) {
  const value = /[<[]([^>\]]+)[>\]]/.exec(flags)?.[1];
  if (value === undefined) return bold(long);
  return `${bold(long)} \\fI${roff(value.toUpperCase())}\\fR`;
}

function argumentText(argument) {
  const value = `\\fI${roff(argument.name().toUpperCase())}\\fR${argument.variadic ? '...' : ''}`;
  return argument.required ? value : `[${value}]`;
}

function optionText(option) {
  const preset = option.defaultValue === undefined ? '' : ` (${option.defaultValue})`;
  return `.TP\n${flagsText(option)}\n${roff(`${option.description}${preset}`)}`;
}

function verbText(verb) {
  const name = nameOf(verb);
  const head = [bold(name), ...verb.registeredArguments.map(argumentText)].join(' ');
  const text = roff(descriptions[name]).replaceAll(/`([^`]+)`/g, '\\fB$1\\fR');
  const own = verb.options.filter(({ long }) => !globalNames.has(long) && !pathNames.has(long));
  const options = own.length === 0 ? [] : ['.RS', ...own.map(optionText), '.RE'];
  return ['.TP', head, text, ...options].join('\n');
}

function manualText(template) {
  const [sample] = verbs;
  const everywhere = sample.options.filter(({ long }) => pathNames.has(long));
  const parts = {
    version,
    commands: verbs.map(verbText).join('\n'),
    options: [...program.options.filter(({ long }) => long !== '--version'), ...everywhere]
      .map(optionText)
      .join('\n'),
  };
  return template.replaceAll(/@(version|commands|options)@/g, (_mark, name) => parts[name]);
}

/** For each word that is typed: what can stand there. */
function completionText() {
  const words = (options) => options.map(({ long }) => long).join(' ');
  const takesFiles = (verb) =>
    verb.registeredArguments.some((argument) => argument.name() === 'file') ? ' files=yes' : '';
  const cases = verbs.map(
    (verb) => `    '${nameOf(verb)}') options='${words(verb.options)}'${takesFiles(verb)} ;;`,
  );
  const groups = program.commands.filter(({ commands }) => commands.length > 0);
  const parts = groups.map(
    (group) =>
      `    ${group.name()}) verbs='${group.commands.map((each) => each.name()).join(' ')}' ;;`,
  );
  const takesPath = verbs
    .flatMap(({ options }) => options)
    .filter(({ flags }) => /<(?:file|folder)>/.test(flags));
  const paths = [...new Set(takesPath.map(({ long }) => long))].join('|');
  return `# bash completion for lxd-image-server
_lxd_image_server() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]}
  local verbs='${program.commands.map((each) => each.name()).join(' ')}'
  local options='${words(program.options)} --help' name='' files='' word
  case $previous in
    ${paths})
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      compopt -o filenames 2>/dev/null
      return
      ;;
  esac
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      -*) continue ;;
    esac
    [[ " $verbs " == *" $word "* ]] || continue
    name="\${name:+$name }$word"
    verbs=''
    case $name in
${parts.join('\n')}
    esac
  done
  case $name in
${cases.join('\n')}
  esac
  if [[ $files && $current != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
    compopt -o filenames 2>/dev/null
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$verbs $options" -- "$current")
}
complete -F _lxd_image_server lxd-image-server
`;
}

await mkdir(outdir, { recursive: true });
const template = await readFile(join(root, 'debian/lxd-image-server.1.in'), 'utf8');
await writeFile(join(outdir, 'lxd-image-server.1'), manualText(template));
await writeFile(join(outdir, 'lxd-image-server.bash'), completionText());

/** `import`: puts image files into the tree. The command reads them: the daemon may not, and has a /tmp of its own. */
import { isAlias, readProperties } from '../catalog/metadata.js';
import { type ImportedImage, importImage } from '../daemon/import.js';
import { exitCodes, ServerError } from '../errors.js';
import type { Command } from './command.js';
import { callDaemonOrSelf } from './daemon.js';
import { type ImageFiles, openImage } from './image-files.js';
import { withLibrary } from './library-work.js';
import { createProgress } from './progress.js';

export interface ImportOptions {
  /** Metadata and root file system, or one file that has both. */
  args: string[];
  alias?: string[];
  property?: Record<string, string>;
}

/** Has the daemon take the files, or takes them here. */
export async function importFiles(command: Command, options: ImportOptions): Promise<number> {
  const facts = factsOf(options);
  const image = await openImage(options.args);
  try {
    tell(command, await send(command, { image, facts }));
  } finally {
    await image.close();
  }
  return exitCodes.done;
}

interface Facts {
  aliases: string[];
  properties: Record<string, string>;
}

/** @throws ServerError USAGE */
function factsOf({ alias: aliases = [], property: properties = {} }: ImportOptions): Facts {
  const wrong = aliases.find((name) => !isAlias(name));
  if (wrong !== undefined) {
    throw new ServerError('USAGE', `${JSON.stringify(wrong)} cannot be an alias`, {
      hint: 'take letters, digits and . _ : + - /, as in "ubuntu/noble"',
    });
  }
  const read = readProperties(properties);
  if ('fault' in read) throw new ServerError('USAGE', `Wrong property: ${read.fault.reason}`);
  return { aliases, properties };
}

async function send(
  command: Command,
  { image, facts }: { image: ImageFiles; facts: Facts },
): Promise<ImportedImage> {
  const { config, signal, terminal } = command;
  const { parts, bytes } = image;
  let done = 0;
  const progress = await createProgress({ terminal, bytesRead: () => done });
  /** From the beginning, as often as it is asked for. */
  const content = async function* () {
    done = 0;
    progress.stage('Sending', bytes);
    for await (const piece of image.content()) {
      yield piece;
      done += piece.length;
    }
    progress.stage('Publishing', 0);
  };
  try {
    return await callDaemonOrSelf<ImportedImage>(command, {
      command: 'import',
      args: { root: config.paths.root, images: config.paths.images, parts, ...facts },
      stream: content,
      self: () =>
        withLibrary(command, (library) =>
          importImage(library, { parts, source: content(), facts, signal }),
        ),
    });
  } finally {
    progress.stop();
  }
}

function tell({ json, print }: Command, image: ImportedImage): void {
  const { path, fingerprint, aliases } = image;
  const names = aliases.length > 0 ? [`aliases: ${aliases.join(', ')}`] : [];
  const lines = [path, `fingerprint: ${fingerprint}`, ...names];
  print(json ? JSON.stringify(image) : lines.join('\n'));
}

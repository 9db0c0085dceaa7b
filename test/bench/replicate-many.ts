/** A process that sends one large file to several mirrors at once, and tells what that took. */
import { readFile } from 'node:fs/promises';
import { createImagesDocumentBuilder } from '../../src/catalog/images-document.js';
import { versionsText } from '../../src/catalog/streams.js';
import { createSharedFiles } from '../../src/disk/shared-files.js';
import { type Generation, makeGeneration } from '../../src/mirror/generation.js';
import type { SshServer } from '../support/slow-upload.js';
import { replicate } from './replicating.js';
import { openMirror, wayTo } from './way.js';

export interface Task {
  folder: string;
  server: Pick<SshServer, 'port' | 'user' | 'keyFile'>;
  /** The master's root. */
  source: string;
  /** Relative to the root. */
  file: { path: string; size: number; sha256: string };
  /** How many mirrors. */
  count: number;
}

export interface Told {
  /** Bytes read from the disk. */
  read: number;
  /** The most resident memory. */
  peakMiB: number;
}

function generationWith(file: Task['file']): Generation {
  const head = {
    ...{ env: 'demo', release: 'large', arch: 'amd64', type: 'default', os: 'demo' },
    ...{ releaseTitle: 'large', aliases: [], requirements: {}, updated: 0 },
  };
  const item = { key: 'rootfs.squashfs', ftype: 'squashfs', ...file };
  const versions = Buffer.from(versionsText([{ name: '20260101', items: [item] }]));
  const facts = { products: [{ head, versions }], aliases: new Map(), updated: 0 };
  const paths = { images: 'streams/v1/images.json', index: 'streams/v1/index.json' };
  const content = createImagesDocumentBuilder()(facts);
  return makeGeneration({ ...facts, at: 0, documents: [{ path: paths.images, content }], paths });
}

async function sendToAll({ folder, server, source, file, count }: Task): Promise<Told> {
  const shared = createSharedFiles({ root: source });
  const generation = generationWith(file);
  await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const way = await wayTo(server, { folder, port: server.port, target: `mirror-${index}` });
      const mirror = openMirror(way);
      await replicate(mirror, shared.openSource)(generation);
      await mirror.close();
    }),
  );
  const status = await readFile('/proc/self/status', 'utf8');
  const peakKiB = Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]);
  return { read: shared.bytesRead(), peakMiB: peakKiB / 1024 };
}

const told = await sendToAll(JSON.parse(process.argv[2] ?? '') as Task);
process.send?.(told, () => process.disconnect());

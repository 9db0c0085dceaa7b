/**
 * The story on one page: scan → digest → catalogue → publish → what mirrors are to get.
 */
import { join, relative } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { resolveAliases, withoutTwins } from './catalog/aliases.js';
import type { CatalogueOptions } from './catalog/completeness.js';
import { createDeparted } from './catalog/departed.js';
import { createImagesDocumentBuilder, type ProductEntry } from './catalog/images-document.js';
import type { ProductHead } from './catalog/product.js';
import {
  draftRecord,
  type KnownDigests,
  knownDigests,
  makeRecord,
  type ProductRecord,
  type Scanned,
  type Totals,
  withoutDigests,
} from './catalog/record.js';
import { indexText, newest } from './catalog/streams.js';
import { compareNames, type Problem, productPath } from './catalog/tree.js';
import { digestProducts } from './digesting.js';
import { imagesFolder, imagesFolderError } from './disk/images-folder.js';
import { createPageKeeper, pageName } from './disk/page.js';
import type { Pool } from './disk/pool.js';
import { createPublisher, type Documents, type Publisher } from './disk/publish.js';
import { createRecordStore, type Kept } from './disk/record-store.js';
import { ServerError, systemCode } from './errors.js';
import type { Logger } from './log.js';
import { type Generation, makeGeneration } from './mirror/generation.js';
import { type Scan, scanTree, stillSame } from './scanning.js';

export interface PipelineOptions {
  /** Absolute. */
  paths: { root: string; images: string; streams: string; state: string };
  /** `settle` in milliseconds. */
  publish: { settle: number; gzip: boolean };
  /** Where the program has the catalogue page, absolute. Default: the root's page is left alone. */
  pagesDir?: string | undefined;
  pool: Pool;
  log: Logger;
  /** How often to keep what has been read so far, in milliseconds. Default: 30,000. */
  saveEvery?: number;
}

/** What is being done, for whoever shows progress. */
export type Stage = 'scan' | 'digest' | 'settle' | 'publish';

export interface RunOptions {
  signal?: AbortSignal;
  /** Is told the stage, and for `digest` how many bytes there are to read. */
  onStage?: (stage: Stage, bytes: number) => void;
  /**
   * Reads every file again, whatever is remembered of it. A later run does so where this one comes to no end
   * of reading. Default: no.
   */
  rebuild?: boolean;
  /**
   * Folders below the images folder in which something may have changed since the last run: products, or
   * folders above them for all that is below. Default: everywhere. The first run looks everywhere.
   */
  folders?: readonly string[];
  /**
   * For an owner that runs again and again: does not wait for versions to settle, and leaves it to
   * {@link Pipeline.save} to keep what was learned. Default: no.
   */
  passing?: boolean;
}

/** What a run found and did. */
export interface RunResult {
  products: number;
  versions: number;
  /** Size of the published files in bytes; a file that stands under two names counts once. */
  bytes: number;
  /** What had to be read. */
  read: { files: number; bytes: number };
  /** The documents that were replaced; none where nothing was new. */
  published: string[];
  /** What was held back or passed over, and why. */
  problems: Problem[];
  /** How long it took, in milliseconds; `publish` is all that came after the digests. */
  ms: { scan: number; digest: number; publish: number };
}

export interface Pipeline {
  /**
   * Brings the documents up to date with the tree as it is now. One run at a time.
   *
   * @throws ServerError NOT_INITIALISED, CONFIG, DENIED, DISK_FULL, IO, or INTERRUPTED after an abort.
   */
  run(options?: RunOptions): Promise<RunResult>;
  /** Goes by other settings from the next run on. */
  configure(publish: PipelineOptions['publish']): void;
  /** Keeps for other processes what the runs have learned, unless that is done. */
  save(): Promise<void>;
  /** What the last run published, or found published; `undefined` before there was one that came to its end. */
  generation(): Promise<Generation | undefined>;
  /** Products that are to be looked at again though nothing changes, and when, in milliseconds since 1970. */
  pending(): Map<string, number>;
  /**
   * Takes the digests of files that are about to come to a version or a product, from whoever wrote them: then they
   * need not be read.
   */
  learn(digests: KnownDigests): void;
  /** Versions that were taken out and whose files are still there, as the last run found them. */
  removed(): string[];
  /** Other products with symbolic links that lead into `product`, as the last run found them. */
  linking(product: string): string[];
}

/** A pipeline that remembers what it published: a later run costs as much as what has changed. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const { paths, pool, log, saveEvery = 30_000 } = options;
  const prefix = relative(paths.root, paths.images);
  const pathOf = (document: string) => relative(paths.root, join(paths.streams, document));
  const store = createRecordStore({ stateDir: paths.state, imagesDir: paths.images, prefix, log });
  const publisherFor = ({ gzip }: PipelineOptions['publish']) =>
    createPublisher({ streamsDir: paths.streams, gzip, log });
  const page = createPageKeeper({ root: paths.root, pagesDir: options.pagesDir, log });
  let settings = options.publish;
  let publisher = publisherFor(settings);
  const buildImages = createImagesDocumentBuilder();
  let last: Kept | undefined;
  let isSaved = true;
  /** Whether what is remembered is to be read again, and was not given up yet. */
  let rebuilding = false;
  const departed = createDeparted();
  let admitted: Admitted | undefined;
  let current: Publication | undefined;
  /** What lies above the products and cannot be published. */
  let above: Problem[] = [];

  return {
    async run({ signal, onStage = () => {}, rebuild = false, passing = false, ...where } = {}) {
      const clock = stopwatch();
      onStage('scan', 0);
      rebuilding ||= rebuild;
      if (rebuilding) departed.forget();
      const imagesDir = await imagesFolder(paths.images);
      const folders = last === undefined || rebuilding ? undefined : where.folders;
      const keeping = rebuilding ? withoutReading(last) : (last ?? store.load());
      const context = { imagesDir, folders, signal, onStage, wait: !passing };
      const tree = await look(context, keeping);
      rebuilding = false;
      const ms = { scan: clock(), digest: 0, publish: 0 };

      const kept = await keeping;
      const { read, ...stock } = await digest(tree, { ...context, kept });
      ms.digest = clock();

      onStage('publish', 0);
      const records = inProductOrder(stock.records);
      admitted = admit(records, admitted);
      const published = await publish(admitted, { records, kept });
      const shown = await page.present();
      if (current?.of !== admitted || current.publisher !== publisher || current.page !== shown) {
        current = { of: admitted, publisher, page: shown, at: Date.now() };
      }
      ms.publish = clock();
      if (!passing) await save();

      const ofRecords = records.flatMap((record) => record.problems);
      const problems = [...stock.problems, ...ofRecords, ...admitted.problems];
      const products = admitted.entries.length;
      return { products, ...sumTotals(records), read, published, problems, ms };
    },
    configure(publish) {
      if (publish.gzip !== settings.gzip) publisher = publisherFor(publish);
      settings = publish;
    },
    save,
    async generation() {
      if (current === undefined) return undefined;
      const publication = current;
      try {
        publication.generation ??= generationOf(publication);
        return await publication.generation;
      } catch (error) {
        // Whoever asks again may have more luck.
        publication.generation = undefined;
        throw error;
      }
    },
    pending() {
      const records = [...(last?.records.values() ?? [])];
      return new Map(
        records.flatMap(({ path, again }) => (again === undefined ? [] : [[path, again]])),
      );
    },
    learn: (digests) => departed.note(digests),
    removed() {
      const records = [...(last?.records.values() ?? [])];
      return records.flatMap(({ path, removed = [] }) => removed.map((name) => `${path}/${name}`));
    },
    linking(product) {
      const records = [...(last?.records.values() ?? [])];
      return records.filter(({ links }) => links?.includes(product)).map(({ path }) => path);
    },
  };

  async function look(
    { imagesDir, folders, signal }: Pick<DigestContext, 'imagesDir' | 'folders' | 'signal'>,
    keeping: Kept | Promise<Kept>,
  ): Promise<Scan> {
    const records = Promise.resolve(keeping).then((kept) => kept.records);
    const options = { imagesDir, pool, folders, signal, problems: above };
    const scan = await scanTree(records, options).catch((error: unknown) => {
      const isOfSystem = !(error instanceof ServerError) && systemCode(error) !== undefined;
      throw isOfSystem ? imagesFolderError(imagesDir, error) : error;
    });
    followMoves(scan, await records);
    return scan;
  }

  /** Gives files of `scan` what is known of them under the places in `records` from which they have gone. */
  function followMoves({ unchanged, changed }: Scan, records: Kept['records']): void {
    const there = new Set(unchanged.map(({ path }) => path));
    for (const { folder, known = {} } of changed) {
      there.add(productPath(folder));
      departed.note(known, folder);
    }
    for (const record of records.values()) {
      if (!there.has(record.path)) departed.note(knownDigests(record));
    }
    for (const { folder } of changed) departed.recall(folder);
  }

  /**
   * Reads what is missing. That can take hours, in which the tree goes on changing: so it is looked at
   * again until it has stayed the same. What is restless beyond that is published as far as it is known.
   */
  async function digest(tree: Scan, context: DigestContext & { kept: Kept }): Promise<Stock> {
    const read = { files: 0, bytes: -pool.bytesRead() };
    const record = (product: Scanned) => {
      const made = makeRecord(product, catalogueOptions());
      return withOldEntry(made, context.kept.records.get(made.path));
    };
    let { unchanged, changed, problems } = tree;
    for (let round = 1; changed.length > 0; round++) {
      read.files += await readMissing({ unchanged, changed }, context);
      const records = byPath([...unchanged, ...changed.map(record)]);
      const now = await look(context, { records }).catch(async (error: unknown) => {
        await keep([...records.values()]);
        throw error;
      });
      problems = now.problems;
      ({ unchanged, changed } = stillSame(now, records));
      if (round === mostRounds) break;
    }
    above = problems;
    read.bytes += pool.bytesRead();
    return { records: [...unchanged, ...changed.map(record)], problems, read };
  }

  /** Reads the files that lack digests, and keeps what was learned: now and then, and at an early end. */
  async function readMissing(
    { unchanged, changed }: Pick<Scan, 'unchanged' | 'changed'>,
    context: DigestContext,
  ): Promise<number> {
    const { onStage } = context;
    const drafts = () => [...unchanged, ...changed.map(draftRecord)];
    let saving = Promise.resolve();
    let savedAt = performance.now();
    const onRead = () => {
      if (performance.now() - savedAt < saveEvery) return;
      savedAt = performance.now();
      saving = saving.then(() => store.save(drafts()));
    };
    const reading = digestProducts(changed, {
      ...context,
      pool,
      catalogueOptions,
      onDigest: (bytes) => onStage('digest', bytes),
      onSettle: () => onStage('settle', 0),
      onRead,
    });
    try {
      return await reading.finally(() => saving);
    } catch (error) {
      await keep(drafts());
      throw error;
    }
  }

  /** Publishes, unless nothing has changed and the documents are the ones made of these very entries. */
  async function publish(
    admitted: Admitted,
    { records, kept }: { records: ProductRecord[]; kept: Kept },
  ): Promise<string[]> {
    const isOld = (record: ProductRecord) => kept.records.get(record.path) === record;
    isSaved &&= kept.records.size === records.length && records.every(isOld);
    const isShown = (record: ProductRecord) =>
      kept.records.get(record.path)?.entry === record.entry;
    const shown = [...kept.records.values()].filter(({ entry }) => entry !== undefined);
    const isNew = shown.length !== entriesOf(records).length || !records.every(isShown);
    if (!isNew && kept.documents === (await present())) {
      last = { records: byPath(records), documents: kept.documents };
      return [];
    }
    isSaved = false;
    const pages = await page.publish();
    const published = await publisher
      .publish(documentsOf(admitted))
      .catch(async (error: unknown) => {
        await keep(records);
        throw error;
      });
    last = { records: byPath(records), documents: await present() };
    return [...pages, ...published];
  }

  /** All that is published, as it is on the disk: equal texts mean that nothing has replaced it. */
  async function present(): Promise<string> {
    return (await Promise.all([publisher.present(), page.present()])).join('\n');
  }

  function documentsOf({ entries, aliases }: Admitted): Documents {
    const heads = entries.map(({ head }) => head);
    const updated = newest(heads);
    return {
      images: buildImages({ products: entries, aliases, updated }),
      index: Buffer.from(indexText(heads, { updated, path: pathOf('images.json') })),
    };
  }

  async function generationOf({ of, publisher, at }: Publication): Promise<Generation> {
    const files = await publisher.filesOf(documentsOf(of));
    const html = await page.content();
    const pages = html === undefined ? [] : [{ path: pageName, content: [html] }];
    return makeGeneration({
      products: of.entries,
      aliases: of.aliases,
      updated: newest(of.entries.map(({ head }) => head)),
      at,
      documents: [...pages, ...files.map(({ name, content }) => ({ path: pathOf(name), content }))],
      paths: { images: pathOf('images.json'), index: pathOf('index.json') },
    });
  }

  async function save(): Promise<void> {
    if (isSaved || last === undefined) return;
    isSaved = true;
    await store.save(last.records.values(), last.documents);
  }

  /** Has the next run go on from here, of this pipeline and of others, where the documents are not up to date. */
  async function keep(records: readonly ProductRecord[]): Promise<void> {
    last = { records: byPath(records) };
    isSaved = true;
    await store.save(records);
  }

  function catalogueOptions(): CatalogueOptions {
    return { now: Date.now(), settle: settings.settle, prefix };
  }
}

type DigestContext = Required<Pick<RunOptions, 'onStage'>> & {
  imagesDir: string;
  folders: readonly string[] | undefined;
  signal: AbortSignal | undefined;
  wait: boolean;
};

/** All that is known of the tree at last. */
interface Stock extends Pick<RunResult, 'read' | 'problems'> {
  records: ProductRecord[];
}

/** What stands in the documents. */
interface Publication {
  of: Admitted;
  publisher: Publisher;
  /** The catalogue page that stands beside them. */
  page: string;
  /** When it was published or first found so, in milliseconds since 1970. */
  at: number;
  /** Made when somebody asks for it. */
  generation?: Promise<Generation> | undefined;
}

/** What a run may still know that is to read everything again. */
function withoutReading(kept: Kept | undefined): Kept {
  return { records: byPath([...(kept?.records.values() ?? [])].map(withoutDigests)) };
}

/** How often the tree is read and looked at again before a restless one is published as it is known. */
const mostRounds = 3;

/** `record` with the very entry of `old` where both say the same: what is made of it need not be made again. */
function withOldEntry(record: ProductRecord, old: ProductRecord | undefined): ProductRecord {
  const { entry } = record;
  if (entry === undefined || old?.entry === undefined) return record;
  const isSame =
    entry.versions.equals(old.entry.versions) && isDeepStrictEqual(entry.head, old.entry.head);
  return isSame ? { ...record, entry: old.entry } : record;
}

function entriesOf(records: readonly ProductRecord[]): ProductEntry[] {
  return records.flatMap(({ entry }) => entry ?? []);
}

interface Admitted {
  /** Of which this was made. */
  offered: readonly ProductEntry[];
  entries: ProductEntry[];
  aliases: ReadonlyMap<ProductHead, readonly string[]>;
  problems: Problem[];
}

/** What is published of `records`, in product order, and who keeps which alias; `last` where that is the same. */
function admit(records: readonly ProductRecord[], last: Admitted | undefined): Admitted {
  const offered = entriesOf(records);
  const isSame = offered.length === last?.offered.length;
  if (isSame && offered.every((entry, at) => entry === last.offered[at])) return last;
  const { products, problems: twins } = withoutTwins(offered);
  const { aliases, problems } = resolveAliases(products.map(({ head }) => head));
  return { offered, entries: products, aliases, problems: [...twins, ...problems] };
}

function byPath(records: readonly ProductRecord[]): Kept['records'] {
  return new Map(records.map((record) => [record.path, record]));
}

/** Products in the order of their IDs. */
function inProductOrder(records: readonly ProductRecord[]): ProductRecord[] {
  const keyed = records.map((record) => ({ id: record.path.replaceAll('/', ':'), record }));
  return keyed.sort((a, b) => compareNames(a.id, b.id)).map(({ record }) => record);
}

function sumTotals(records: readonly ProductRecord[]): Totals {
  return records.reduce(
    (sum, { totals }) => ({
      versions: sum.versions + totals.versions,
      bytes: sum.bytes + totals.bytes,
    }),
    { versions: 0, bytes: 0 },
  );
}

/** A function that tells the milliseconds since it was last called. */
function stopwatch(): () => number {
  let last = performance.now();
  return () => {
    const elapsed = performance.now() - last;
    last += elapsed;
    return Math.round(elapsed * 10) / 10;
  };
}

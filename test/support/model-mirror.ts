/** A mirror as plans see it, in memory, on which any part of a stage can be done, and the rest left. */
import assert from 'node:assert/strict';
import type { DocumentFacts, Wanted } from '../../src/catalog/generation.js';
import type { Manifest } from '../../src/catalog/manifest.js';
import { nextDocuments, type Stage } from '../../src/catalog/plan.js';
import {
  type Found,
  noteNames,
  noteRecord,
  type Present,
  recall,
} from '../../src/catalog/present.js';

/** Content stands for itself, and for its hash: 'b2' is two bytes. */
export type Content = string;
export const sizeOf = (content: Content) => Number(content.slice(1));

export interface ModelGeneration extends Wanted {
  id: string;
  tree: ReadonlyMap<string, Content>;
}

/** A generation that names `tree`, and its documents, compressed ones too where `gzip`. */
export function modelGeneration(
  tree: ReadonlyMap<string, Content>,
  { gzip }: { gzip: boolean },
): ModelGeneration {
  const id = JSON.stringify([...tree].sort());
  const names = ['images.json', 'index.json'].flatMap((name) =>
    gzip ? [`${name}.gz`, name] : [name],
  );
  // Sizes that tell nothing, as in life.
  const documents = names.map((path) => ({ path, size: id.length % 3, sha256: `${path} ${id}` }));
  const files = new Map(
    [...tree].map(([path, content]) => [path, { size: sizeOf(content), sha256: content }]),
  );
  return { id, tree, files, documents };
}

/** `generation` without the versions of which a file is in `missing`, not compressed. */
export function modelWithout(
  { tree }: ModelGeneration,
  missing: ReadonlySet<string>,
): ModelGeneration {
  const folder = (path: string) => path.slice(0, path.lastIndexOf('/'));
  const gone = new Set([...missing].map(folder));
  const left = new Map([...tree].filter(([path]) => !gone.has(folder(path))));
  return modelGeneration(left, { gzip: false });
}

interface ModelDocument extends DocumentFacts {
  names: ReadonlyMap<string, Content>;
}

/** Leaves the rest of a stage undone. */
export class Cut extends Error {}

export interface ModelMirror {
  files: Map<string, { content: Content; mtime: number }>;
  documents: Map<string, ModelDocument>;
  manifest: Manifest | undefined;
  /** When each file was named by a document for the last time, or got there. */
  lastNamed: Map<string, number>;
  /** Lets a second go by. */
  tick(): number;
  now(): number;
  /** What a process that knows nothing sees. */
  look(wanted: Wanted, inspect: boolean): Present;
  /** Does what `stage` says, in an order and up to a point that `choose` decides. */
  run(stage: Stage, context: RunContext): void;
  /** What the documents name and is not there with that content. */
  lies(): string[];
}

interface RunContext {
  generation: ModelGeneration;
  present: Present;
  /** Called before each change to the mirror; throws {@link Cut} to leave it at that. */
  step(): void;
  /** Puts the parts of a stage in some order. */
  shuffle<T>(items: readonly T[]): T[];
  grace: number;
}

export function modelMirror(): ModelMirror {
  let time = 1000;
  let manifestTime = 0;
  const mirror: ModelMirror = {
    files: new Map(),
    documents: new Map(),
    manifest: undefined,
    lastNamed: new Map(),
    tick: () => ++time,
    now: () => time * 1000,
    look(wanted, inspect) {
      const isSettled = mirror.manifest !== undefined && mirror.manifest.documents.length > 0;
      const found = new Map<string, Found>();
      for (const [path, { content, mtime }] of mirror.files) {
        found.set(path, { size: sizeOf(content), mtime, linked: false });
      }
      return recall({
        manifest: mirror.manifest,
        documents: new Map([...mirror.documents].map(([path, { size }]) => [path, size])),
        wanted: wanted.files,
        ...(isSettled && !inspect ? {} : { found, mtime: manifestTime }),
      });
    },
    run(stage, context) {
      const { generation, present, step, shuffle } = context;
      switch (stage.do) {
        case 'check':
          for (const { path, sha256 } of shuffle(stage.files)) {
            step();
            const there = mirror.files.get(path)?.content;
            if (there === sha256) present.entries.set(path, { size: sizeOf(there), sha256 });
            else present.entries.delete(path);
          }
          return;
        case 'record':
          step();
          writeManifest(stage.record, present);
          return;
        case 'send': {
          const parts = shuffle([...stage.files, ...(stage.record ? [stage.record] : [])]);
          for (const part of parts) {
            step();
            if ('entries' in part) writeManifest(part, present);
            else send(part, present);
          }
          return;
        }
        case 'retract':
          publish(modelWithout(generation, stage.missing), context);
          return;
        case 'withdraw':
        case 'publish':
          publish(generation, context);
          return;
        case 'remove':
          step();
          writeManifest(stage.record, present);
          for (const path of stage.files) present.entries.delete(path);
          for (const path of shuffle(stage.files)) {
            step();
            const named = mirror.lastNamed.get(path) ?? Number.NEGATIVE_INFINITY;
            assert.ok(mirror.now() - named >= context.grace, `${path} is removed too early`);
            assert.ok(path.startsWith('images/'), `${path} is removed`);
            mirror.files.delete(path);
          }
          return;
      }
    },
    lies() {
      const lies: string[] = [];
      for (const { path: document, names } of mirror.documents.values()) {
        for (const [path, content] of names) {
          const there = mirror.files.get(path)?.content;
          if (there !== content) lies.push(`${document}: ${path} is ${there}, not ${content}`);
        }
      }
      return lies;
    },
  };
  return mirror;

  function writeManifest(record: Manifest, present: Present): void {
    mirror.manifest = record;
    manifestTime = time;
    noteRecord(present, record);
  }

  function send(
    { path, sha256, from, hold }: Extract<Stage, { do: 'send' }>['files'][number],
    present: Present,
  ): void {
    if (from !== undefined && !present.held.has(sha256)) {
      // What is not there, or has another size, would be sent after all.
      const there = mirror.files.get(from)?.content;
      assert.equal(there, sha256, `${from} is taken for ${sha256}`);
    }
    present.held.add(sha256);
    if (hold) return;
    mirror.files.set(path, { content: sha256, mtime: time });
    present.held.delete(sha256);
    present.entries.set(path, { size: sizeOf(sha256), sha256 });
  }

  function publish(target: ModelGeneration, { present, step, shuffle }: RunContext): void {
    noteNames(present, target.files);
    let next = nextDocuments(target.documents, present);
    for (; next !== undefined; next = nextDocuments(target.documents, present)) {
      if (next.do === 'withdraw') {
        for (const path of shuffle(next.documents)) {
          step();
          mirror.documents.delete(path);
          present.documents.delete(path);
        }
      } else {
        for (const document of shuffle(next.documents)) {
          step();
          mirror.documents.set(document.path, { ...document, names: target.tree });
          present.documents.set(document.path, document.sha256);
        }
      }
    }
    present.named = new Set(target.files.keys());
  }
}

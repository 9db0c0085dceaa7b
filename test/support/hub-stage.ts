/** What every scenario with a hub needs: a manager with its client, a hub that trusts it, and images to copy there. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe } from 'node:test';
import { missingPrograms } from './command.js';
import { createHub, type Hub, type Way, ways } from './hub.js';
import { type Manager, type ManagerKind, managerKinds, startManager } from './managers.js';
import { makeSample, type Sample, type Shape, samplePrograms } from './sample-images.js';
import { temporaryFolder } from './temporary.js';

export interface Stage {
  readonly kind: ManagerKind;
  /** `lxc` or `incus` with its own daemon. It has the server as its remote `hub`, and is trusted there as `me`. */
  readonly manager: Manager;
  readonly hub: Hub;
  /** Makes an image that no other is the same as. */
  sample(shape: Shape, properties?: Record<string, string>): Promise<Sample>;
  /** The same, and imports it into the client's own daemon under `alias`. */
  local(shape: Shape, alias: string): Promise<Sample>;
  /** An empty folder, gone after the suite. */
  folder(): Promise<string>;
}

/** One suite for each manager and each way to the hub. What `define` gets is complete when the tests run. */
export async function describeWithHub(
  title: string,
  define: (stage: Stage, way: Way) => void,
): Promise<void> {
  for (const kind of managerKinds) {
    const missing = (await kind.missing()) || missingPrograms(...samplePrograms, 'timeout');
    for (const way of ways) {
      const skip = missing || (way === 'behind nginx' && missingPrograms('nginx'));
      describe(`${kind.title} and a hub, met ${way}: ${title}`, { skip }, () => {
        const stage = {} as Stage;
        const endings: (() => unknown)[] = [];
        const t = { after: (ending: () => unknown) => void endings.unshift(ending) };
        before(async () => {
          Object.assign(stage, await setUp(t, { kind, way }));
        });
        after(async () => {
          for (const end of endings) await end();
        });
        define(stage, way);
      });
    }
  }
}

type Ending = { after: (ending: () => unknown) => void };

async function setUp(t: Ending, { kind, way }: { kind: ManagerKind; way: Way }): Promise<Stage> {
  const manager = await startManager(kind);
  t.after(() => manager.close());
  const hub = await createHub(t, { kind, way });
  await manager.run('remote', 'add', 'hub', await hub.token('me'));
  const work = await temporaryFolder(t);
  let folders = 0;
  const folder = async () => {
    folders += 1;
    const path = join(work, String(folders));
    await mkdir(path);
    return path;
  };
  const sample = async (shape: Shape, properties: Record<string, string> = {}) => {
    const path = await folder();
    const own = { release: `r${folders}`, serial: String(folders), ...properties };
    return await makeSample(path, { shape, properties: own });
  };
  const local = async (shape: Shape, alias: string) => {
    const image = await sample(shape);
    await manager.run('image', 'import', ...image.files, '--alias', alias);
    return image;
  };
  return { kind, manager, hub, sample, local, folder };
}

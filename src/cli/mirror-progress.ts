/** Progress of several mirrors on a terminal, a line for each: how far, how fast, how long still. */
import type { MirrorActivity } from '../daemon/status.js';
import { aboutWork } from './mirror-text.js';

export interface MirrorProgress {
  show(mirrors: readonly MirrorActivity[]): void;
  /** Clears the lines. */
  stop(): void;
}

const stageNames: Record<string, string> = {
  look: 'looking',
  check: 'reading',
  send: 'sending',
  record: 'noting',
  publish: 'publishing',
  withdraw: 'publishing',
  retract: 'publishing',
  remove: 'removing',
};

/** Shows nothing where `terminal` is `undefined`. */
export async function createMirrorProgress(
  terminal: NodeJS.WriteStream | undefined,
): Promise<MirrorProgress> {
  if (terminal === undefined) return { show: () => {}, stop: () => {} };
  const { default: cliProgress } = await import('cli-progress');
  const bars = new cliProgress.MultiBar(
    {
      stream: terminal,
      clearOnComplete: true,
      hideCursor: true,
      format: '{name}  {stage}  {bar} {percentage}%  {about}',
    },
    cliProgress.Presets.shades_classic,
  );
  const known = new Map<string, ReturnType<typeof bars.create>>();
  return {
    show(mirrors) {
      const width = Math.max(...mirrors.map(({ name }) => name.length));
      for (const { name, state, work } of mirrors) {
        const bar = known.get(name) ?? bars.create(1, 0, { name, stage: '', about: '' });
        known.set(name, bar);
        const { total = 0, done = 0 } = work?.bytes ?? {};
        bar.setTotal(Math.max(total, 1));
        const stage = (work ? (stageNames[work.stage] ?? work.stage) : state).padEnd(10);
        bar.update(work === undefined ? 1 : done, {
          name: name.padEnd(width),
          stage,
          about: work === undefined ? '' : aboutWork(work),
        });
      }
    },
    stop: () => bars.stop(),
  };
}

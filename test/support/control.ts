/** A control server and what its tests ask of it. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { ServerError } from '../../src/errors.js';
import {
  type ControlCommand,
  type ControlLimits,
  type ControlServer,
  createControlServer,
} from '../../src/server/control.js';
import { type LogEvent, memoryLog } from './memory-log.js';
import { temporaryFolder } from './temporary.js';

export interface Started {
  runDir: string;
  server: ControlServer;
  events: LogEvent[];
}

/** A control server in a folder of its own, closed after the test. */
export async function startControl(
  t: TestContext,
  commands: Record<string, ControlCommand>,
  limits: Partial<ControlLimits> = {},
): Promise<Started> {
  const runDir = join(await temporaryFolder(t), 'run');
  const { log, events } = memoryLog();
  const server = await createControlServer({ runDir, commands, log, limits });
  t.after(() => server.close());
  return { runDir, server, events };
}

/** What {@link callDaemon} throws. */
export async function failure(calling: Promise<unknown>): Promise<ServerError> {
  try {
    await calling;
  } catch (error) {
    assert.ok(error instanceof ServerError, String(error));
    return error;
  }
  return assert.fail('The call succeeded');
}

/** A promise, and what settles it. */
export function defer<T = void>() {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

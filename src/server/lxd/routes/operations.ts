/** The routes of operations: what is under way, how it ended, waiting, cancelling. */
import { ServerError } from '../../../errors.js';
import type { Answer, Call, Operation } from '../exchange.js';
import type { OperationsStore } from '../operations.js';
import type { RouteEntry } from '../routing.js';
import { requireTrust } from '../who.js';

const path = '/1.0/operations';

export function operationRoutes(operations: OperationsStore): RouteEntry[] {
  return [
    { method: 'GET', path, route: async (call) => list(call) },
    {
      method: 'GET',
      path: `${path}/:id`,
      access: 'anyone',
      route: async (call) => answer(find(call)),
    },
    { method: 'GET', path: `${path}/:id/wait`, access: 'anyone', route: wait },
    { method: 'DELETE', path: `${path}/:id`, route: cancel },
  ];

  /** By status, as `running` and `success`. */
  function list({ query }: Call): Answer {
    const whole = query.get('recursion') === '1';
    const byStatus: Record<string, unknown[]> = {};
    for (const operation of operations.list()) {
      const view = operation.view();
      const status = view.status.toLowerCase();
      byStatus[status] ??= [];
      byStatus[status].push(whole ? view : `${path}/${operation.id}`);
    }
    return { kind: 'sync', metadata: byStatus };
  }

  async function wait(call: Call): Promise<Answer> {
    const operation = find(call);
    const ms = timeoutOf(call.query.get('timeout'));
    if (ms === undefined) await operation.ended(call.signal);
    else await endedWithin(operation, ms, call.signal);
    return answer(operation);
  }

  async function cancel({ params: { id = '' }, signal }: Call): Promise<Answer> {
    if (operations.get(id) === undefined) throw unknown(id);
    await operations.cancel(id, signal);
    return { kind: 'sync', metadata: null };
  }

  /** For who is trusted, or has the secret of the operation. */
  function find({ caller, params: { id = '' }, query }: Call): Operation {
    const secret = query.get('secret');
    if (secret === null || !operations.opensWith(id, secret)) requireTrust(caller);
    const operation = operations.get(id);
    if (operation === undefined) throw unknown(id);
    return operation;
  }
}

const answer = (operation: Operation): Answer => ({ kind: 'sync', metadata: operation.view() });

function unknown(id: string): ServerError {
  return new ServerError('NOT_FOUND', `There is no operation ${JSON.stringify(id.slice(0, 100))}`, {
    hint: 'it ended some time ago, or the server was started again',
  });
}

/** The longest time that a timer knows. */
const longestMs = 2 ** 31 - 1;

/** Milliseconds of a text in seconds; `undefined` is for ever. */
function timeoutOf(text: string | null): number | undefined {
  if (text === null || text === '') return undefined;
  if (!/^-?\d{1,15}$/.test(text)) {
    throw new ServerError('USAGE', 'The timeout is not a number of seconds');
  }
  const seconds = Number(text);
  return seconds < 0 ? undefined : Math.min(seconds * 1000, longestMs);
}

async function endedWithin(operation: Operation, ms: number, signal: AbortSignal): Promise<void> {
  const controller = new AbortController();
  const abort = () => controller.abort();
  const timer = setTimeout(abort, ms);
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  await operation.ended(controller.signal);
  clearTimeout(timer);
  signal.removeEventListener('abort', abort);
}

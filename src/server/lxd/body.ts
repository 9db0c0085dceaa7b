/** The JSON that clients send. */
import type { Readable } from 'node:stream';
import { type BaseIssue, type BaseSchema, getDotPath, type InferOutput, safeParse } from 'valibot';
import { ServerError } from '../../errors.js';

type Schema = BaseSchema<unknown, unknown, BaseIssue<unknown>>;

/**
 * Reads all of a body that holds JSON; none stands for `{}`.
 *
 * @param schema what is needed of it; what else is there is passed over
 * @param options.limit bytes; default: 1 MiB
 * @throws ServerError USAGE where it is something else, TOO_LARGE
 */
export async function readJson<const S extends Schema>(
  body: Readable,
  schema: S,
  { limit = 1024 * 1024 }: { limit?: number } = {},
): Promise<InferOutput<S>> {
  const result = safeParse(schema, parse(await readAll(body, limit)));
  if (result.success) return result.output;
  const [issue] = result.issues;
  const where = getDotPath(issue);
  const found = where === null ? '' : ` at "${where}"`;
  throw notUnderstood(`${issue.expected ?? 'something else'} was expected${found}`);
}

async function readAll(body: Readable, limit: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  // Destroying a request cuts its connection, and with it the answer that says what was wrong.
  const iterator = body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
  for await (const chunk of iterator) {
    size += chunk.length;
    if (size > limit) {
      throw new ServerError('TOO_LARGE', `The body of this request has more than ${limit} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parse(text: string): unknown {
  if (text.trim() === '') return {};
  try {
    return JSON.parse(text);
  } catch {
    throw notUnderstood('it is not JSON');
  }
}

function notUnderstood(why: string): ServerError {
  return new ServerError('USAGE', `The body of this request is not understood: ${why}`);
}

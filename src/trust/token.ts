/** The tokens that clients take in place of an address: base64 of JSON, as LXD and Incus write them. */
import * as v from 'valibot';

/** Field for field what the JSON says. */
export interface TokenContent {
  client_name: string;
  /** Of the server's certificate: SHA-256 of the DER, lower-case hexadecimal. */
  fingerprint: string;
  /** `host:port`, in the order in which the client tries them. */
  addresses: readonly string[];
  secret: string;
  /** ISO 8601. */
  expires_at: string;
}

/** What counts of a token that came in. */
export interface ReceivedToken {
  secret: string;
  fingerprint: string;
  /** In milliseconds since 1970; `undefined` where it does not say. */
  expires: number | undefined;
}

/** The longest text that is looked at, in characters. Ours have some hundreds. */
const mostLength = 16_384;

const receivedSchema = v.object({
  secret: v.pipe(v.string(), v.minLength(1)),
  fingerprint: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  expires_at: v.optional(v.string()),
});

export function formatToken(content: TokenContent): string {
  // Without a `type`: with one, newer clients turn to an API that is not ours.
  const { client_name, fingerprint, addresses, secret, expires_at } = content;
  const json = JSON.stringify({ client_name, fingerprint, addresses, secret, expires_at });
  return Buffer.from(json).toString('base64');
}

/** What a client sent for a token; `undefined` where it is none. */
export function parseToken(text: string): ReceivedToken | undefined {
  if (text.length > mostLength) return undefined;
  const compact = text.replace(/\s+/g, '');
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(compact)) return undefined;
  const { success, output } = v.safeParse(receivedSchema, parseJson(compact));
  if (!success) return undefined;
  const { secret, fingerprint, expires_at } = output;
  const expires = Date.parse(expires_at ?? '');
  // LXD writes the year 1 where a token has no end.
  return { secret, fingerprint, expires: expires > 0 ? expires : undefined };
}

function parseJson(base64: string): unknown {
  try {
    return JSON.parse(Buffer.from(base64, 'base64').toString('utf8'));
  } catch {
    return undefined;
  }
}

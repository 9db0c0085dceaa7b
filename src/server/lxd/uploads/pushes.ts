/**
 * Pushes that were announced: a trusted client says what comes, and a server that nobody knows brings it with the
 * secret that the client got. Each is a token operation, for one use and for a time.
 */
import type { TrustedClient, UploadFacts } from '../contract.js';
import type { Caller, Operation, Operations } from '../exchange.js';
import { isSameSecret, newSecret } from '../secrets.js';
import { createSlots } from './slots.js';

/** What the client said. */
export interface AnnouncedPush {
  client: TrustedClient;
  caller: Caller;
  facts: UploadFacts & { fingerprint: string };
}

export interface Pushes {
  /** @returns the token operation, whose metadata has the secret @throws ServerError BUSY for too many */
  announce(push: AnnouncedPush): Operation;
  /** Uses the token; `undefined` where the two do not belong together, or its time is over. */
  redeem(token: { fingerprint: string; secret: string }): AnnouncedPush | undefined;
  /** Ends those that wait. */
  close(): Promise<void>;
}

export interface PushLimits {
  all: number;
  each: number;
  /** How long the secret is good for, in milliseconds. */
  expireMs: number;
}

interface Waiting extends AnnouncedPush {
  operation: Operation;
  secret: string;
  /** Resolves when nothing is kept of it any more. */
  gone: Promise<void>;
}

export function createPushes(operations: Operations, limits: PushLimits): Pushes {
  const slots = createSlots('announced pushes', limits);
  const waiting = new Map<string, Waiting>();

  /** Forgets a push when its operation ends, in whatever way; and ends it when its time is over. */
  async function follow(operation: Operation, free: () => void): Promise<void> {
    const timer = setTimeout(() => operations.end(operation.id, 'cancelled'), limits.expireMs);
    try {
      await operation.ended();
    } finally {
      clearTimeout(timer);
      waiting.delete(operation.id);
      free();
    }
  }

  function announce(push: AnnouncedPush): Operation {
    const free = slots.take(push.client.fingerprint);
    const secret = newSecret();
    let operation: Operation;
    try {
      operation = operations.begin({
        class: 'token',
        description: 'Waiting for an image',
        resources: { images: [`/1.0/images/${push.facts.fingerprint}`] },
        metadata: { secret },
      });
    } catch (error) {
      free();
      throw error;
    }
    const gone = follow(operation, free);
    waiting.set(operation.id, { ...push, operation, secret, gone });
    return operation;
  }

  return {
    announce,
    redeem: ({ fingerprint, secret }) => {
      const found = [...waiting.values()].find((push) => {
        return push.facts.fingerprint === fingerprint && isSameSecret(push.secret, secret);
      });
      if (found === undefined) return undefined;
      waiting.delete(found.operation.id);
      operations.end(found.operation.id, 'success');
      return { client: found.client, caller: found.caller, facts: found.facts };
    },
    close: async () => {
      const pushes = [...waiting.values()];
      for (const { operation } of pushes) operations.end(operation.id, 'cancelled');
      await Promise.all(pushes.map(({ gone }) => gone));
    },
  };
}

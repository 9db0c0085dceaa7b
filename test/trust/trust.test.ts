import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { writeFileAtomically } from '../../src/disk/files.js';
import { ServerError } from '../../src/errors.js';
import { createLogger } from '../../src/log.js';
import { openTrust, type Trust } from '../../src/trust/trust.js';
import { createClient, type TestClient } from '../support/client-certificate.js';
import type { LogEvent } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';

const hour = 3_600_000;
const day = 24 * hour;
const start = Date.parse('2026-03-01T12:00:00Z');
const address = '192.0.2.1';
const addresses = ['images.example.org:443'];
const own = 'ab'.repeat(32);
const other = 'cd'.repeat(32);
const retry = /^get another: on the server, "lxd-image-server trust add NAME" prints a token$/;

let alice: TestClient;
let bob: TestClient;
before(async () => {
  const dates = { from: start - day, until: start + 3650 * day };
  [alice, bob] = await Promise.all([createClient(dates), createClient(dates)]);
});

interface Site {
  trust: Trust;
  file: string;
  clock: { now: number };
  events: LogEvent[];
  /** What the file was replaced with, one text a time. */
  writes: string[];
  /** What happens while the file is written. */
  onWrite: { call?: () => void };
  /** What the next writes fail with. */
  failing: { error?: ServerError };
  /** The same, opened anew. */
  again(): Promise<Trust>;
  /** A token for somebody. */
  token(name: string, lifetime?: number): Promise<string>;
  admit(client: TestClient, token: string, from?: string): ReturnType<Trust['admit']>;
}

async function site(t: TestContext): Promise<Site> {
  const file = join(await temporaryFolder(t), 'trust.json');
  const clock = { now: start };
  const events: LogEvent[] = [];
  const writes: string[] = [];
  const failing: Site['failing'] = {};
  const onWrite: Site['onWrite'] = {};
  const destination = { write: (line: string) => void events.push(JSON.parse(line) as LogEvent) };
  const again = () =>
    openTrust({
      file,
      async write(path, text) {
        if (failing.error !== undefined) throw failing.error;
        onWrite.call?.();
        await writeFileAtomically(path, [Buffer.from(text)], { mode: 0o600 });
        writes.push(text);
      },
      serverFingerprint: async () => own,
      log: createLogger({ level: 'trace', format: 'json', destination }),
      now: () => clock.now,
    });
  const trust = await again();
  return {
    ...{ trust, file, clock, events, writes, failing, onWrite, again },
    token: async (name, lifetime = day) =>
      (await trust.invite({ name, lifetime, addresses })).token,
    admit: ({ der }, token, from = address) =>
      trust.admit({ token, certificate: der, address: from }),
  };
}

const isTrusted = (trust: Trust, { der }: TestClient) => 'client' in trust.judge(der);

function refusalOf(trust: Trust, { der }: TestClient): string {
  const judgement = trust.judge(der);
  return 'refusal' in judgement ? judgement.refusal : assert.fail('it is trusted');
}

/** A token that the server did not make, or not like this. */
function forged(change: object, token?: string): string {
  const like = token ?? Buffer.from(JSON.stringify(fresh)).toString('base64');
  const content = JSON.parse(Buffer.from(like, 'base64').toString()) as object;
  return Buffer.from(JSON.stringify({ ...content, ...change })).toString('base64');
}
const fresh = {
  ...{ client_name: 'alice', fingerprint: own, addresses, secret: '00'.repeat(32) },
  expires_at: new Date(start + day).toISOString(),
};

describe('a token', () => {
  test('says what a client has to know, and the answer says it too', async (t) => {
    const { trust } = await site(t);
    const { token, ...told } = await trust.invite({ name: 'alice', lifetime: 2 * hour, addresses });
    const expires = '2026-03-01T14:00:00.000Z';
    assert.deepEqual(told, { name: 'alice', fingerprint: own, addresses, expires });
    const { secret, ...content } = JSON.parse(Buffer.from(token, 'base64').toString());
    const { name: client_name, fingerprint } = told;
    assert.deepEqual(content, { client_name, fingerprint, addresses, expires_at: expires });
    assert.match(secret, /^[0-9a-f]{64}$/);
  });

  test('has one client trusted under its name, at once and from then on', async (t) => {
    const { trust, again, token, admit } = await site(t);
    const made = await token('alice');
    assert.equal(isTrusted(trust, alice), false);
    const client = { name: 'alice', fingerprint: alice.fingerprint };
    assert.deepEqual(await admit(alice, made), client);
    assert.deepEqual(trust.judge(alice.der), { client });
    assert.deepEqual((await again()).judge(alice.der), { client });
    assert.equal(isTrusted(trust, bob), false);
  });

  test('lets in one of two that bring it at once', async (t) => {
    const { trust, token, admit } = await site(t);
    const made = await token('alice');
    const both = await Promise.allSettled([admit(alice, made), admit(bob, made)]);
    assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
    assert.notEqual(isTrusted(trust, alice), isTrusted(trust, bob));
    assert.equal((await trust.list()).clients.length, 1);
  });

  test('is as good when it was made by a process that has ended', async (t) => {
    const { token, again } = await site(t);
    const made = await token('alice');
    const later = await again();
    await later.admit({ token: made, certificate: alice.der, address });
    assert.ok(isTrusted(later, alice));
  });

  test('is good until its last moment', async (t) => {
    const { token, admit, clock } = await site(t);
    const made = await token('alice', hour);
    clock.now += hour - 1;
    assert.equal((await admit(alice, made)).name, 'alice');
  });

  for (const lifetime of [0, -1, Number.NaN, 367 * day, Number.MAX_SAFE_INTEGER]) {
    test(`cannot last for ${lifetime} ms`, async (t) => {
      const { trust, writes } = await site(t);
      const wish = { name: 'alice', lifetime, addresses };
      await assert.rejects(trust.invite(wish), { code: 'USAGE', hint: /such as "24h" or "7d"/ });
      assert.deepEqual(writes, []);
    });
  }

  test('is kept and logged without its secret', async (t) => {
    const { token, admit, file, events, writes, trust } = await site(t);
    const made = await token('alice');
    const { secret } = JSON.parse(Buffer.from(made, 'base64').toString());
    await assert.rejects(admit(alice, forged({ fingerprint: other, secret: `${secret}0` }, made)));
    await admit(alice, made);
    await assert.rejects(admit(bob, made));
    await trust.remove('alice');
    await assert.rejects(admit(bob, made));
    const told = [...writes, await readFile(file, 'utf8'), JSON.stringify(events)].join('\n');
    assert.ok(events.length >= 6);
    for (const part of [secret, made, Buffer.from(secret, 'hex').toString('base64')]) {
      assert.equal(told.includes(part), false);
    }
    assert.ok(writes[0]?.includes(createHash('sha256').update(secret).digest('hex')));
  });
});

/** Tokens that let nobody in, and what is said about each. */
describe('nobody is let in with a token that', () => {
  const cases: {
    what: string;
    make: (site: Site) => Promise<string> | string;
    message: RegExp;
    hint?: RegExp;
  }[] = [
    {
      what: 'was used already',
      make: async ({ token, admit, clock }) => {
        const made = await token('bob');
        await admit(bob, made);
        clock.now += hour;
        return made;
      },
      message: /^This token was used already, on 2026-03-01 12:00 UTC$/,
    },
    {
      what: 'has expired',
      make: async ({ token, clock }) => {
        const made = await token('alice', hour);
        clock.now += hour;
        return made;
      },
      message: /^This token expired on 2026-03-01 13:00 UTC$/,
    },
    {
      what: 'has expired so long ago that nobody remembers it',
      make: async ({ token, clock }) => {
        const made = await token('alice', hour);
        clock.now += 2 * hour;
        await token('somebody else');
        return made;
      },
      message: /^This token expired on 2026-03-01 13:00 UTC$/,
    },
    {
      what: 'has expired, and says that it has not',
      make: async ({ token, clock }) => {
        const made = await token('alice', hour);
        clock.now += hour;
        return forged({ expires_at: '2036-03-01T12:00:00Z' }, made);
      },
      message: /^This token expired on 2026-03-01 13:00 UTC$/,
    },
    {
      what: 'was taken back',
      make: async ({ token, trust }) => {
        const made = await token('alice');
        await trust.remove('alice');
        return made;
      },
      message: /^This token is not known here, or was taken back$/,
    },
    {
      what: 'was never made here',
      make: () => forged({}),
      message: /^This token is not known here, or was taken back$/,
    },
    {
      what: 'is of another server',
      make: () => forged({ fingerprint: other }),
      message:
        /^This token is of another server: its certificate is cdcdcdcdcdcd, the one here abababababab$/,
    },
    {
      what: 'is of another server, and has expired',
      make: () => forged({ fingerprint: other, expires_at: '2020-01-01T00:00:00Z' }),
      message: /^This token is of another server/,
    },
    ...[
      { what: 'is only the secret of one', make: () => fresh.secret },
      { what: 'is cut off', make: async ({ token }: Site) => (await token('alice')).slice(0, 200) },
      { what: 'is empty', make: () => '' },
      { what: 'is a password', make: () => 'sekret' },
      { what: 'is longer than any', make: () => 'A'.repeat(1_000_000) },
    ].map((each) => ({
      ...each,
      message: /^This is no token, or only a part of one$/,
      hint: /^take all of the long line that "lxd-image-server trust add NAME" prints on the server$/,
    })),
  ];
  for (const { what, make, message, hint = retry } of cases) {
    test(what, async (t) => {
      const here = await site(t);
      const made = await make({
        ...here,
        token: (name, lifetime) => here.token(name.replace(/ /g, '-'), lifetime),
      });
      const before = here.writes.length;
      await assert.rejects(here.admit(alice, made), { code: 'FORBIDDEN', message, hint });
      assert.equal(isTrusted(here.trust, alice), false);
      assert.equal(here.writes.length, before);
    });
  }

  test('is anything at all', async (t) => {
    const { admit, trust } = await site(t);
    let number = 0;
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.jsonValue().map((v) => forged({ v })),
    );
    await fc.assert(
      fc.asyncProperty(text, async (token) => {
        const from = `10.0.${number >> 8}.${number++ & 255}`;
        await assert.rejects(admit(alice, token, from), { code: 'FORBIDDEN' });
      }),
    );
    assert.equal(isTrusted(trust, alice), false);
  });
});

describe('a client that is trusted already', () => {
  test('is let in again with the token that it has used', async (t) => {
    const { token, admit, writes } = await site(t);
    const made = await token('alice');
    const client = await admit(alice, made);
    const before = writes.length;
    assert.deepEqual(await admit(alice, made), client);
    assert.equal(writes.length, before);
  });

  test('stays who it is with a token for another name, which is used up', async (t) => {
    const { trust, token, admit } = await site(t);
    await admit(alice, await token('alice'));
    const made = await token('laptop');
    assert.equal((await admit(alice, made)).name, 'alice');
    await assert.rejects(admit(bob, made), { message: /used already/ });
    const { clients, tokens } = await trust.list();
    assert.deepEqual([clients.map(({ name }) => name), tokens], [['alice'], []]);
  });

  test('is let in whatever it brings, and however often', async (t) => {
    const { token, admit } = await site(t);
    await admit(alice, await token('alice'));
    for (let count = 0; count < 30; count++) {
      assert.equal((await admit(alice, 'nonsense')).name, 'alice');
    }
    assert.equal((await admit(bob, await token('bob'))).name, 'bob');
  });

  test('is so no more once it is removed, with nothing that it has used', async (t) => {
    const { trust, again, token, admit } = await site(t);
    const made = await token('alice');
    await admit(alice, made);
    const removed = { name: 'alice', clients: [alice.fingerprint], tokens: 0 };
    assert.deepEqual(await trust.remove('alice'), removed);
    assert.equal(isTrusted(trust, alice), false);
    assert.equal(isTrusted(await again(), alice), false);
    await assert.rejects(admit(alice, made), { code: 'FORBIDDEN' });
    assert.equal((await admit(alice, await token('alice'))).name, 'alice');
  });
});

describe('too many wrong tokens', () => {
  async function tenWrong(here: Site) {
    for (let count = 0; count < 10; count++) {
      await assert.rejects(here.admit(bob, forged({})), { message: /not known here/ });
    }
  }

  test('from one address: no more are looked at for ten minutes, right ones neither', async (t) => {
    const here = await site(t);
    const made = await here.token('alice');
    await tenWrong(here);
    here.clock.now += 30_000;
    await assert.rejects(here.admit(alice, made), {
      code: 'FORBIDDEN',
      message: 'Too many wrong tokens have come from 192.0.2.1',
      hint: /^try again in 10 min; on the server, /,
    });
    assert.equal(isTrusted(here.trust, alice), false);
    here.clock.now += 570_000;
    assert.equal((await here.admit(alice, made)).name, 'alice');
  });

  test('leave other addresses alone, and who is trusted already', async (t) => {
    const here = await site(t);
    await here.admit(alice, await here.token('alice'));
    await tenWrong(here);
    assert.equal((await here.admit(alice, 'again')).name, 'alice');
    assert.equal((await here.admit(bob, await here.token('bob'), '192.0.2.2')).name, 'bob');
  });
});

describe('the dates of a certificate', () => {
  test('count when it comes with a token, which stays good', async (t) => {
    const { admit, token, clock } = await site(t);
    const [old, young] = await Promise.all([
      createClient({ from: start - 2 * day, until: start - day }),
      createClient({ from: start + hour, until: start + day }),
    ]);
    const made = await token('alice');
    await assert.rejects(admit(old, made), {
      code: 'FORBIDDEN',
      message: 'Your client certificate expired on 2026-02-28 12:00 UTC',
      hint: /^remove client\.crt and client\.key from ~\/\.config\/lxc/,
    });
    await assert.rejects(admit(young, made), {
      code: 'FORBIDDEN',
      message: 'Your client certificate is not valid before 2026-03-01 13:00 UTC',
      hint: /^see that the clocks of both hosts are right/,
    });
    clock.now += hour;
    assert.equal((await admit(young, made)).name, 'alice');
  });

  test('count at each judgement', async (t) => {
    const { trust, admit, token, clock } = await site(t);
    const brief = await createClient({ from: start - day, until: start + hour });
    await admit(brief, await token('alice'));
    assert.ok(isTrusted(trust, brief));
    clock.now += hour + 1000;
    assert.match(
      refusalOf(trust, brief),
      /^Your client certificate expired on 2026-03-01 13:00 UTC; remove client\.crt .* "lxd-image-server trust remove alice", then "lxd-image-server trust add alice"$/,
    );
    await assert.rejects(admit(brief, 'again'), { code: 'FORBIDDEN', message: /expired/ });
    clock.now = start - 2 * day;
    assert.match(refusalOf(trust, brief), /is not valid before .*; see that the clocks/);
  });

  test('do not make a certificate of what is none', async (t) => {
    const { trust, token } = await site(t);
    const made = await token('alice');
    for (const certificate of [Buffer.alloc(0), Buffer.from(alice.cert), Buffer.from('x')]) {
      await assert.rejects(trust.admit({ token: made, certificate, address }), {
        code: 'FORBIDDEN',
        message: 'Your client certificate cannot be read',
      });
      assert.ok('refusal' in trust.judge(certificate));
    }
  });
});

test('a certificate that nobody knows is told how to be trusted', async (t) => {
  const { trust } = await site(t);
  assert.equal(
    refusalOf(trust, alice),
    `This server does not trust your client certificate (${alice.fingerprint.slice(0, 12)}); on the server, "lxd-image-server trust add NAME" prints a token, which "lxc remote add" or "incus remote add" takes here`,
  );
});

describe('a name', () => {
  for (const name of ['', '-a', '.a', 'a b', 'a\nb', 'a/b', 'ä', 'a'.repeat(65)]) {
    test(`cannot be ${JSON.stringify(name)}`, async (t) => {
      const { trust, writes } = await site(t);
      const refused = { code: 'USAGE', message: /^A client cannot be called / };
      await assert.rejects(trust.invite({ name, lifetime: day, addresses }), refused);
      await assert.rejects(trust.add({ name, certificate: alice.der }), refused);
      await assert.rejects(trust.remove(name), { code: 'USAGE', message: /^Nobody called / });
      assert.deepEqual(writes, []);
    });
  }

  test('is for one client, and for one token at a time', async (t) => {
    const { trust, token, admit, clock } = await site(t);
    const first = await token('alice', hour);
    const pending = {
      code: 'USAGE',
      message: 'There is a token for "alice" already, good until 2026-03-01 13:00 UTC',
      hint: /take it back first: lxd-image-server trust remove alice$/,
    };
    await assert.rejects(token('alice'), pending);
    await assert.rejects(trust.add({ name: 'alice', certificate: bob.der }), pending);
    clock.now += hour;
    const second = await token('alice');
    await assert.rejects(admit(alice, first), { message: /expired/ });
    await admit(alice, second);
    const taken = { code: 'USAGE', message: 'A client called "alice" is trusted already' };
    await assert.rejects(token('alice'), taken);
    await assert.rejects(trust.add({ name: 'alice', certificate: bob.der }), taken);
    assert.equal((await trust.list()).clients.length, 1);
  });
});

describe('a certificate that is added directly', () => {
  test('is trusted at once, until it ends', async (t) => {
    const { trust } = await site(t);
    const added = {
      ...{ name: 'alice', fingerprint: alice.fingerprint, added: '2026-03-01T12:00:00.000Z' },
      expires: new Date(start + 3650 * day).toISOString(),
    };
    assert.deepEqual(await trust.add({ name: 'alice', certificate: alice.der }), added);
    assert.deepEqual(await trust.list(), { clients: [added], tokens: [] });
    assert.equal(trust.clients(), 1);
    assert.ok(isTrusted(trust, alice));
  });

  test('is refused where it is trusted under another name, or is of no use', async (t) => {
    const { trust } = await site(t);
    await trust.add({ name: 'alice', certificate: alice.der });
    await assert.rejects(trust.add({ name: 'bob', certificate: alice.der }), {
      code: 'USAGE',
      message: 'This certificate is trusted already, as "alice"',
    });
    const old = await createClient({ from: start - 2 * day, until: start - day });
    await assert.rejects(trust.add({ name: 'old', certificate: old.der }), {
      code: 'USAGE',
      message: 'The certificate expired on 2026-02-28 12:00 UTC',
    });
    await assert.rejects(trust.add({ name: 'none', certificate: Buffer.from('x') }), {
      code: 'USAGE',
      message: 'The certificate cannot be read',
    });
    assert.equal((await trust.list()).clients.length, 1);
  });
});

test('the list has tokens that can still be used, without anything secret', async (t) => {
  const { trust, token, admit, clock } = await site(t);
  await admit(alice, await token('alice'));
  await token('bob', hour);
  const added = new Date(clock.now).toISOString();
  const pending = { name: 'bob', added, expires: new Date(clock.now + hour).toISOString() };
  assert.deepEqual((await trust.list()).tokens, [pending]);
  clock.now += hour;
  assert.deepEqual((await trust.list()).tokens, []);
});

test('tokens that have expired do not pile up in the file', async (t) => {
  const { token, clock, writes } = await site(t);
  for (let count = 0; count < 20; count++) {
    await token(`client-${count}`, hour);
    clock.now += hour;
  }
  assert.equal(JSON.parse(writes.at(-1) ?? '').tokens.length, 1);
});

describe('when a client was last seen', () => {
  const usedOf = (text = '') =>
    (JSON.parse(text).clients as { name: string; used?: string }[]).map(({ used }) => used);

  test('is told to the moment, and written once in ten minutes and at the end', async (t) => {
    const { trust, writes, clock, again } = await site(t);
    await trust.add({ name: 'alice', certificate: alice.der });
    await trust.add({ name: 'bob', certificate: bob.der });
    for (let step = 0; step < 120; step++) {
      clock.now += 10_000;
      assert.ok(isTrusted(trust, alice));
      await trust.list();
    }
    const now = new Date(clock.now).toISOString();
    assert.deepEqual(
      (await trust.list()).clients.map(({ used }) => used),
      [now, undefined],
    );
    // Two to add them, and two in twenty minutes.
    assert.equal(writes.length, 4);
    clock.now += 1000;
    assert.ok(isTrusted(trust, bob));
    assert.equal(writes.length, 4);
    await trust.close();
    assert.deepEqual(usedOf(writes[4]), [now, new Date(clock.now).toISOString()]);
    assert.equal(writes.length, 5);
    const { clients } = await (await again()).list();
    assert.deepEqual(
      clients.map(({ used }) => used),
      usedOf(writes[4]),
    );
  });

  test('is not put off by a clock that is set back', async (t) => {
    const { trust, writes, clock } = await site(t);
    await trust.add({ name: 'alice', certificate: alice.der });
    clock.now -= hour;
    assert.ok(isTrusted(trust, alice));
    await trust.list();
    assert.deepEqual(usedOf(writes[1]), [new Date(clock.now).toISOString()]);
  });

  test('is written with whatever else is', async (t) => {
    const { trust, token, writes, clock } = await site(t);
    await trust.add({ name: 'alice', certificate: alice.der });
    clock.now += 1000;
    assert.ok(isTrusted(trust, alice));
    await token('bob');
    assert.deepEqual(usedOf(writes.at(-1)), [new Date(clock.now).toISOString()]);
    await trust.close();
    assert.equal(writes.length, 2);
  });

  test('is not forgotten while something else is being written', async (t) => {
    const here = await site(t);
    const { trust, writes, clock } = here;
    await trust.add({ name: 'alice', certificate: alice.der });
    assert.ok(isTrusted(trust, alice));
    here.onWrite.call = () => {
      clock.now += 1000;
      assert.ok(isTrusted(trust, alice));
    };
    await here.token('bob');
    delete here.onWrite.call;
    await trust.close();
    assert.deepEqual(usedOf(writes.at(-1)), [new Date(clock.now).toISOString()]);
    assert.equal(writes.length, 3);
  });

  test('costs no one anything where it cannot be written', async (t) => {
    const { trust, clock, failing, events } = await site(t);
    await trust.add({ name: 'alice', certificate: alice.der });
    failing.error = new ServerError('DISK_FULL', 'Cannot write: no space');
    for (let minute = 0; minute < 30; minute++) {
      clock.now += 60_000;
      assert.ok(isTrusted(trust, alice));
      await trust.list();
    }
    const warnings = events.filter(({ level }) => level >= 40).map(({ msg }) => msg);
    assert.deepEqual(warnings, Array(3).fill('when clients were last seen cannot be kept'));
    delete failing.error;
    await trust.close();
    assert.deepEqual((await trust.list()).clients[0]?.used, new Date(clock.now).toISOString());
  });

  test('brings back no one who is gone from the file', async (t) => {
    const { trust, file, again, writes } = await site(t);
    await trust.add({ name: 'alice', certificate: alice.der });
    assert.ok(isTrusted(trust, alice));
    const beside = await again();
    await beside.remove('alice');
    const before = writes.length;
    await trust.close();
    assert.equal(writes.length, before);
    assert.deepEqual(JSON.parse(await readFile(file, 'utf8')).clients, []);
  });
});

describe('where the file cannot be written', () => {
  test('nobody is let in, and what cannot be kept does not count', async (t) => {
    const { trust, token, admit, failing } = await site(t);
    const made = await token('alice');
    await trust.add({ name: 'bob', certificate: bob.der });
    failing.error = new ServerError('DISK_FULL', 'Cannot write: no space');
    const full = { code: 'DISK_FULL' };
    await assert.rejects(admit(alice, made), full);
    await assert.rejects(trust.add({ name: 'carol', certificate: alice.der }), full);
    await assert.rejects(trust.remove('bob'), full);
    await assert.rejects(token('dave'), full);
    assert.equal(isTrusted(trust, alice), false);
    assert.ok(isTrusted(trust, bob));
    delete failing.error;
    assert.equal((await admit(alice, made)).name, 'alice');
  });
});

describe('a damaged file', () => {
  const damage = '{"format":1,"clients":[';

  test('has nobody trusted, is told to the log, and is never written over', async (t) => {
    const { trust: first, file, again, events, writes } = await site(t);
    await first.add({ name: 'alice', certificate: alice.der });
    const whole = await readFile(file, 'utf8');
    await writeFile(file, damage);
    events.length = 0;
    const trust = await again();
    const [event] = events;
    assert.equal(event?.msg, 'cannot read who is trusted');
    assert.match(JSON.stringify(event), /is damaged: it is not JSON/);
    const before = writes.length;
    const refused = {
      code: 'FORBIDDEN',
      message: 'This server cannot read whom it trusts',
      hint: 'its log says why; tell whoever looks after it',
    };
    assert.equal(refusalOf(trust, alice), `${refused.message}; ${refused.hint}`);
    const offer = { token: forged({}), certificate: alice.der, address };
    await assert.rejects(trust.admit(offer), refused);
    const damaged = { code: 'DAMAGED', message: /is damaged: it is not JSON/, hint: /put a copy/ };
    await assert.rejects(trust.invite({ name: 'bob', lifetime: day, addresses }), damaged);
    await assert.rejects(trust.add({ name: 'bob', certificate: bob.der }), damaged);
    await assert.rejects(trust.remove('alice'), damaged);
    await assert.rejects(trust.list(), damaged);
    await trust.close();
    assert.equal(await readFile(file, 'utf8'), damage);
    assert.equal(writes.length, before);
    await writeFile(file, whole);
    await trust.refresh();
    assert.ok(isTrusted(trust, alice));
  });

  test('changes nothing for those who were trusted before', async (t) => {
    const { trust, file, clock, events } = await site(t);
    await trust.add({ name: 'alice', certificate: alice.der });
    await writeFile(file, damage);
    clock.now += hour;
    await trust.refresh();
    assert.ok(isTrusted(trust, alice));
    await trust.close();
    assert.equal(await readFile(file, 'utf8'), damage);
    assert.ok(events.some(({ msg }) => msg === 'cannot read who is trusted'));
  });
});

test('a file that somebody has replaced counts when it is read again', async (t) => {
  const { trust, again, file } = await site(t);
  await trust.add({ name: 'alice', certificate: alice.der });
  const text = (await readFile(file, 'utf8')).replace(alice.fingerprint, bob.fingerprint);
  await writeFile(file, text);
  await trust.refresh();
  assert.equal(isTrusted(trust, alice), false);
  assert.ok(isTrusted(trust, bob));
  assert.ok(isTrusted(await again(), bob));
});

test('what is asked for at once is done one after the other', async (t) => {
  const { trust, token, admit } = await site(t);
  const names = Array.from({ length: 20 }, (_, number) => `client-${number}`);
  const tokens = await Promise.all(names.map((name) => token(name)));
  assert.equal((await trust.list()).tokens.length, 20);
  await Promise.all([
    ...names.slice(10).map((name) => trust.remove(name)),
    admit(alice, tokens[0] ?? ''),
    admit(bob, tokens[1] ?? ''),
  ]);
  const { clients: trusted, tokens: left } = await trust.list();
  assert.deepEqual(trusted.map(({ name }) => name).sort(), ['client-0', 'client-1']);
  assert.deepEqual(
    left.map(({ name }) => name),
    names.slice(2, 10),
  );
});

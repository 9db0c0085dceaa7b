/**
 * What each key of the configuration file may hold, and its default. The message of each check is what was
 * expected, worded to follow "must be".
 */
import { isAbsolute, resolve } from 'node:path';
import * as v from 'valibot';
import { logLevels } from '../log.js';
import { isCronExpression, isNetwork, parseDuration, parseHostPort, parseSize } from '../units.js';

/** A text that `read` turns into a value; `undefined` refuses it. */
function textAs<T>(expected: string, read: (text: string) => T | undefined) {
  return v.pipe(
    v.string(expected),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      const value = read(dataset.value);
      if (value !== undefined) return value;
      addIssue({ message: expected });
      return NEVER;
    }),
  );
}

/** A text that passes `test`, as it is. */
const textThat = (expected: string, test: (text: string) => boolean) =>
  textAs(expected, (text) => (test(text) ? text : undefined));

const flag = v.boolean('true or false');
const duration = textAs('a duration such as "500ms", "2s", "5m", "2h" or "1d"', parseDuration);
const cron = textThat(
  'a cron expression such as "*/10 * * * *", or "" for never',
  (text) => text === '' || isCronExpression(text),
);
const folder = textAs('an absolute path such as "/srv/images"', absolutePath);
const file = textAs('an absolute path such as "/etc/file"', absolutePath);

const sizeText = 'a size such as "512MiB", "20GiB" or "10MB"';
const size = v.union(
  [
    textAs(sizeText, parseSize),
    v.pipe(v.number(), v.safeInteger(sizeText), v.minValue(0, sizeText)),
  ],
  sizeText,
);

function wholeNumber(from: number, to: number) {
  const expected = `a whole number from ${from} to ${to}`;
  return v.pipe(
    v.number(expected),
    v.integer(expected),
    v.minValue(from, expected),
    v.maxValue(to, expected),
  );
}

const networks = v.array(
  textThat('networks such as "10.0.0.0/8" or "2001:db8::/32"', isNetwork),
  'a list of networks such as ["10.0.0.0/8"]',
);

/** This host, and the networks that are nobody's on the Internet (RFC 1918, 4193, 4291, 3927). */
const ownNetworks = [
  ...['127.0.0.0/8', '10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '169.254.0.0/16'],
  ...['::1/128', 'fc00::/7', 'fe80::/10'],
];

function absolutePath(text: string): string | undefined {
  return isAbsolute(text) && !text.includes('\0') ? resolve(text) : undefined;
}

function isWebAddress(text: string): boolean {
  return URL.canParse(text) && /^https?:\/\/[^/]/.test(text);
}

/** Each of our own tables; a missing one is an empty one. */
export const tables = {
  paths: v.object({
    root: v.optional(folder, '/var/www/simplestreams'),
    state: v.optional(folder, '/var/lib/lxd-image-server'),
    run: v.optional(folder, '/run/lxd-image-server'),
  }),
  publish: v.object({
    settle: v.optional(duration, '2s'),
    gzip: v.optional(flag, true),
    removal_grace: v.optional(duration, '2h'),
  }),
  schedule: v.object({
    rescan: v.optional(cron, '*/10 * * * *'),
    verify: v.optional(cron, ''),
    prune: v.optional(cron, ''),
  }),
  server: v.object({
    listen: v.optional(
      textThat(
        'an address and a port such as "127.0.0.1:8443" or ":8443", or "" for no server',
        (text) => text === '' || parseHostPort(text.replace(/^:/, '[::]:')) !== undefined,
      ),
      '127.0.0.1:8443',
    ),
    addresses: v.optional(
      v.array(
        textThat(
          'hosts such as "images.example.org" or "192.0.2.1:8443"',
          (text) => parseHostPort(text, { port: 1 }) !== undefined,
        ),
        'a list of hosts such as ["images.example.org"]',
      ),
      [],
    ),
    tls_cert: v.optional(file, '/etc/nginx/ssl/nginx.crt'),
    tls_key: v.optional(file, '/etc/nginx/ssl/nginx.key'),
    socket_group: v.optional(
      textThat('a group such as "www-data", or "" for that of the daemon', (text) =>
        /^[\w.@-]{0,255}$/.test(text),
      ),
      'www-data',
    ),
    redirect: v.optional(flag, false),
    probe_interval: v.optional(
      v.pipe(
        duration,
        v.check((ms) => ms >= 1000, 'a duration of a second or more'),
      ),
      '10s',
    ),
    trusted_proxies: v.optional(networks, []),
    status_from: v.optional(networks, [...ownNetworks]),
  }),
  uploads: v.object({
    enabled: v.optional(flag, true),
    max_size: v.optional(size, '20GiB'),
  }),
  retention: v.object({
    keep: v.optional(wholeNumber(0, 1_000_000), 0),
    days: v.optional(wholeNumber(0, 1_000_000), 0),
  }),
  logging: v.object({
    level: v.optional(v.picklist(logLevels, `one of ${logLevels.join(', ')}`), 'info'),
    file: v.optional(
      textAs('an absolute path, or "" for standard error', (text) =>
        text === '' ? text : absolutePath(text),
      ),
      '',
    ),
  }),
};

/** One mirror, `[mirrors.NAME]`; the name stands beside its keys. */
export const mirrorTable = v.object({
  name: v.string(),
  user: v.optional(v.pipe(v.string('a user name'), v.minLength(1, 'a user name')), 'lxdadm'),
  url: textThat('a web address such as "https://mirror.example.org:8443"', isWebAddress),
  remote: v.optional(
    textAs('a host such as "mirror.example.org" or "mirror.example.org:2222", or ""', (text) =>
      text === '' ? null : parseHostPort(text, { port: 22 }),
    ),
    '',
  ),
  key_path: file,
  host_key: v.optional(
    textThat('a fingerprint such as ssh-keygen -l prints, "SHA256:…"', (text) =>
      /^SHA256:[A-Za-z\d+/]{43}=?$/.test(text),
    ),
  ),
  known_hosts: v.optional(file),
  root: v.optional(folder, '/var/www/simplestreams'),
  connections: v.optional(wholeNumber(1, 64), 4),
  bandwidth: v.optional(
    textAs('a size for each second such as "10MiB", or "" for no limit', (text) =>
      text === '' ? null : parseSize(text) || undefined,
    ),
    '',
  ),
  schedule: v.optional(cron, ''),
  weight: v.optional(wholeNumber(0, 1000), 1),
  networks: v.optional(networks, []),
  tls_ca: v.optional(
    textAs('an absolute path, or ""', (text) => (text === '' ? text : absolutePath(text))),
    '',
  ),
});

export const configSchema = v.object({ ...tables, mirrors: v.array(mirrorTable) });

/** What the file says, checked, with defaults and units applied; keys as in the file. */
export type FileConfig = v.InferOutput<typeof configSchema>;

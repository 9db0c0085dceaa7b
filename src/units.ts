/**
 * The values that people write as text: durations, sizes, host and port, cron expressions, networks.
 * Each reader returns `undefined` for a text that is none; the caller says what it expected.
 */
import { isIP, isIPv6 } from 'node:net';

export const durationUnits = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** Decimal units as the SI has them, binary ones as the IEC has them. */
export const sizeUnits = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
} as const;

/** Milliseconds of `500ms`, `2s`, `1.5h`, `1d`. */
export function parseDuration(text: string): number | undefined {
  return parseQuantity(text, durationUnits);
}

/** Bytes of `512MiB`, `1.5GB`, `4096`; a number without a unit counts bytes. */
export function parseSize(text: string): number | undefined {
  return parseQuantity(/^\d+$/.test(text) ? `${text}B` : text, sizeUnits);
}

function parseQuantity(text: string, units: Record<string, number>): number | undefined {
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?) ?([A-Za-z]+)$/.exec(text) ?? [];
  if (number === undefined || !Object.hasOwn(units, unit)) return undefined;
  const value = Math.round(Number(number) * (units[unit] ?? Number.NaN));
  return Number.isSafeInteger(value) ? value : undefined;
}

/** A number of bytes as {@link parseSize} takes it, in the largest unit of which it is a whole number: `20GiB`. */
export function formatSize(bytes: number): string {
  let best: [unit: string, factor: number] = ['B', 1];
  for (const [unit, factor] of Object.entries(sizeUnits)) {
    if (factor > best[1] && factor <= bytes && bytes % factor === 0) best = [unit, factor];
  }
  return `${bytes / best[1]}${best[0]}`;
}

/** A host and a TCP port. */
export interface HostPort {
  /** A name or an address; an IPv6 address without its brackets. */
  host: string;
  port: number;
}

/** `host:port`, as {@link parseHostPort} takes it. */
export function formatHostPort({ host, port }: HostPort): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/**
 * Reads `host:port`, `192.0.2.1:port` and `[2001:db8::1]:port`.
 * With `options.port` the port may be left out, and a bare IPv6 address is understood too.
 */
export function parseHostPort(text: string, options: { port?: number } = {}): HostPort | undefined {
  if (options.port !== undefined && isIPv6(text)) return { host: text, port: options.port };
  const [, address, name, digits] = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = address ?? name ?? '';
  const port = digits === undefined ? options.port : Number(digits);
  if (port === undefined || port > 65535) return undefined;
  return (address === undefined ? isHostName(host) : isIPv6(host)) ? { host, port } : undefined;
}

function isHostName(text: string): boolean {
  return text.length <= 253 && /^[A-Za-z\d_](?:[\w-]*\w)?(?:\.\w(?:[\w-]*\w)?)*\.?$/.test(text);
}

/** Whether the text is a network in CIDR form, `10.0.0.0/8` or `2001:db8::/32`. */
export function isNetwork(text: string): boolean {
  const [, address = '', prefix] = /^([^/%]+)\/(\d{1,3})$/.exec(text) ?? [];
  const version = isIP(address);
  return version !== 0 && Number(prefix) <= (version === 4 ? 32 : 128);
}

const months = 'jan feb mar apr may jun jul aug sep oct nov dec'.split(' ');
const weekdays = 'sun mon tue wed thu fri sat'.split(' ');

interface CronField {
  from: number;
  to: number;
  /** Names that stand for `from`, `from` + 1, … */
  names?: string[];
}

/** Second, minute, hour, day of the month, month, day of the week (0 and 7 are Sunday). */
const cronFields: CronField[] = [
  { from: 0, to: 59 },
  { from: 0, to: 59 },
  { from: 0, to: 23 },
  { from: 1, to: 31 },
  { from: 1, to: 12, names: months },
  { from: 0, to: 7, names: weekdays },
];

/** The days of each month, January first, in the year in which it has most. */
const monthLengths = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/**
 * Whether the text is a cron expression of five fields, or of six with the second first, for days that
 * exist: 30 February does not.
 */
export function isCronExpression(text: string): boolean {
  const parts = text.split(/ +/);
  if (parts.length !== 5 && parts.length !== 6) return false;
  const fields = cronFields.slice(-parts.length);
  const values = fields.map((field, index) =>
    (parts[index] ?? '').split(',').map((item) => cronValues(item, field)),
  );
  if (values.flat().includes(undefined)) return false;
  const [days = [], inMonths = []] = values.slice(-3).map((items) => items.flat() as number[]);
  const firstDay = Math.min(...days);
  return inMonths.some((month) => firstDay <= (monthLengths[month - 1] ?? 0));
}

/** What one item of a field's list stands for: `*`, `5`, `mon-fri`, or `*` and a range with a step of `/10`. */
function cronValues(item: string, field: CronField): number[] | undefined {
  const [, range = '', step = '1'] = /^(\*|[^/]+-[^/]+|[^/]+$)(?:\/(\d{1,3}))?$/.exec(item) ?? [];
  const ends = range.split('-').map((end) => cronNumber(end, field));
  const [from, to] = range === '*' ? [field.from, field.to] : [ends[0], ends.at(-1)];
  if (ends.length > 2 || from === undefined || to === undefined || from > to) return undefined;
  if (Number(step) === 0) return undefined;
  const count = Math.floor((to - from) / Number(step)) + 1;
  return Array.from({ length: count }, (_, index) => from + index * Number(step));
}

function cronNumber(text: string, { from, to, names = [] }: CronField): number | undefined {
  const named = names.indexOf(text.toLowerCase());
  if (named >= 0) return from + named;
  const number = /^\d{1,2}$/.test(text) ? Number(text) : -1;
  return number >= from && number <= to ? number : undefined;
}

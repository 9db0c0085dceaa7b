/** Figures as people read them. No DOM. */

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `bytes` with a binary unit, three digits at least: `1.5 GiB`. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 100 ? 1 : 0)} ${units[unit]}`;
}

/** A number with its thousands set apart: `12,000`. */
export function formatCount(count: number): string {
  return String(count).replace(/\B(?=(?:\d{3})+$)/g, ',');
}

/** A number and its noun, in the plural where that is due. */
export function counted(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? '' : 's'}`;
}

export interface VersionDate {
  /** As people read it: `2026-07-16 12:05`. */
  text: string;
  /** As machines do: `2026-07-16T12:05Z`. */
  machine: string;
}

/** When a version was made as its name tells; `undefined` where that is no date. */
export function versionDate(name: string): VersionDate | undefined {
  const [, year = '', month = '', day = '', hours, minutes] =
    /^(\d{4})(\d{2})(\d{2})(?:[_T-]?([01]\d|2[0-3]):?([0-5]\d)(?:(?!\d)|:?[0-5]\d(?!\d)))?/.exec(
      name,
    ) ?? [];
  const date = `${year}-${month}-${day}`;
  const time = Date.parse(`${date}T00:00:00Z`);
  // A 31st of February is none.
  if (Number.isNaN(time) || new Date(time).getUTCDate() !== Number(day)) return undefined;
  if (hours === undefined) return { text: date, machine: date };
  return { text: `${date} ${hours}:${minutes}`, machine: `${date}T${hours}:${minutes}Z` };
}

/** A moment, in milliseconds since 1970. */
export function formatTime(time: number): string {
  return `${new Date(time).toISOString().slice(0, 16).replace('T', ' ')} UTC`;
}

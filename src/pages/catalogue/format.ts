/** Times as people read them. No DOM. */

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

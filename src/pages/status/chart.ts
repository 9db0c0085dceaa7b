/** A mirror's day as a chart and as figures. No DOM. */

import { formatSize } from '../figures.js';
import type { Day } from './status.js';
import { formatClock, formatSpan } from './words.js';

/** The size of a chart, in its own units: two for each step. */
export const chartWidth = 288;
export const chartHeight = 40;
/** A lag of less seconds does not fill the chart. */
const leastLag = 60;
/** What is there is seen. */
const leastHeight = 1;

export interface Chart {
  /** Paths of SVG: bars, the line, and what is not known. */
  bars: string;
  line: string;
  gaps: string;
  /** All of it in one sentence. */
  summary: string;
}

/** Draws a day. Bars are bytes sent, against the most; the line is the lag, against the longest or a minute. */
export function chartOf(day: Day): Chart {
  const width = chartWidth / Math.max(1, day.bytes.length);
  const most = Math.max(1, ...day.bytes);
  const longest = day.lag.reduce<number>((max, lag) => Math.max(max, lag ?? 0), leastLag);
  const bars = day.bytes.map((bytes, index) => {
    if (bytes === 0) return '';
    const height = Math.max(leastHeight, (bytes / most) * chartHeight);
    return box(index * width, { width: width * 0.8, height });
  });
  const gaps = runsOf(day.lag, (lag) => lag === null).map(({ from, to }) =>
    box(from * width, { width: (to - from) * width, height: chartHeight }),
  );
  const line = runsOf(day.lag, (lag) => lag !== null).map(({ from, to }) => {
    const points = day.lag.slice(from, to).map((lag, index) => {
      const y = chartHeight - ((lag ?? 0) / longest) * (chartHeight - 1) - 0.5;
      return `${round((from + index) * width)} ${round(y)}H${round((from + index + 1) * width)}`;
    });
    return `M${points.join('L')}`;
  });
  return { bars: bars.join(''), line: line.join(''), gaps: gaps.join(''), summary: summaryOf(day) };
}

function box(x: number, { width, height }: { width: number; height: number }): string {
  return `M${round(x)} ${chartHeight}v-${round(height)}h${round(width)}v${round(height)}z`;
}

const round = (value: number) => Math.round(value * 100) / 100;

/** The runs of values that are so, each from its first up to the one behind its last. */
function runsOf<T>(values: readonly T[], isSo: (value: T) => boolean) {
  const runs: { from: number; to: number }[] = [];
  values.forEach((value, index) => {
    const last = runs.at(-1);
    if (!isSo(value)) return;
    if (last?.to === index) last.to += 1;
    else runs.push({ from: index, to: index + 1 });
  });
  return runs;
}

/** `1.2 GiB sent, up to 3.1 MiB/s; lag up to 3 min; not known for 2 h` */
export function summaryOf({ step, bytes, lag }: Day): string {
  const sent = bytes.reduce((sum, each) => sum + each, 0);
  const most = Math.round(Math.max(0, ...bytes) / step);
  const longest = lag.reduce<number>((max, each) => Math.max(max, each ?? 0), 0);
  const unknown = lag.filter((each) => each === null).length;
  const parts = [
    sent === 0 ? 'Nothing sent' : `${formatSize(sent)} sent, up to ${formatSize(most)}/s`,
    unknown < lag.length && (longest === 0 ? 'no lag' : `lag up to ${formatSpan(longest)}`),
    unknown > 0 && `not known for ${formatSpan(unknown * step)}`,
  ];
  return parts.filter(Boolean).join('; ');
}

export interface HourFigures {
  /** `14:00–15:00`; the last hour ends with now. */
  time: string;
  sent: string;
  lag: string;
}

/** The figures of a day, hour by hour, the newest first. */
export function hoursOf({ start, step, bytes, lag }: Day): HourFigures[] {
  const perHour = Math.max(1, Math.round(3600 / step));
  const clock = (index: number) => formatClock(Date.parse(start) + index * step * 1000);
  const hours: HourFigures[] = [];
  for (let end = bytes.length; end > 0; end -= perHour) {
    const from = Math.max(0, end - perHour);
    const sent = bytes.slice(from, end).reduce((sum, each) => sum + each, 0);
    const known = lag.slice(from, end).filter((each) => each !== null);
    hours.push({
      time: `${clock(from)}–${clock(end)}`,
      sent: formatSize(sent),
      lag: known.length === 0 ? 'not known' : formatSpan(Math.max(...known)),
    });
  }
  return hours;
}

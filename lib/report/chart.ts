/** A line chart as inline SVG. */
import { type Html, html } from './html.js';

export interface Series {
  name: string;
  /** CSS class that colours it. */
  className: string;
  points: readonly { x: number; y: number }[];
}

const width = 720;
const height = 220;
const margin = { left: 56, right: 12, top: 10, bottom: 34 };

const short = (value: number): string => Number(value.toPrecision(3)).toString();

/** Charts the finite points of the series on common axes; undefined where there are fewer than two. */
export function lineChart(series: readonly Series[], xLabel: string, yLabel: string): Html | undefined {
  const finite = series.map((one) => ({
    ...one,
    points: one.points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y)),
  }));
  const all = finite.flatMap(({ points }) => points);
  if (all.length < 2) return undefined;
  const xs = all.map(({ x }) => x);
  const ys = all.map(({ y }) => y);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(0, ...ys), Math.max(...ys)];
  const place = (value: number, from: number, to: number, start: number, end: number): number =>
    start + ((value - from) / (to - from || 1)) * (end - start);
  const px = (x: number): number => place(x, left, right, margin.left, width - margin.right);
  const py = (y: number): number => place(y, low, high, height - margin.bottom, margin.top);
  const lines = finite.map(({ points, className, name }) => {
    const path = points.map(({ x, y }) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(' ');
    return html`<polyline class="${className}" points="${path}"><title>${name}</title></polyline>`;
  });
  const ticks = [low, (low + high) / 2, high].map(
    (
      y,
    ) => html`<line class="grid" x1="${margin.left}" x2="${width - margin.right}" y1="${py(y)}" y2="${py(y)}"/>
<text x="${margin.left - 6}" y="${py(y) + 4}" text-anchor="end">${short(y)}</text>`,
  );
  const labels = [left, right].map(
    (x) =>
      html`<text x="${px(x)}" y="${height - margin.bottom + 16}" text-anchor="middle">${short(x)}</text>`,
  );
  const legend = finite.map(
    ({ name, className }, i) =>
      html`<text class="${className}" x="${width - margin.right - 100 * (finite.length - i - 1)}" y="${height - 4}" text-anchor="end">— ${name}</text>`,
  );
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${yLabel} over ${xLabel}">
${ticks}${lines}${labels}
<text x="${margin.left}" y="${height - 4}">${yLabel} over ${xLabel}</text>${legend}</svg>`;
}

/**
 * Curves over optimizer steps from metrics.jsonl. Step lines have `loss` and `learning_rate`; probe lines have the loss
 * and entropy of critical and other tokens; anything named `validation_...` is charted under its own name. Lines and
 * fields that are not there leave their curve out.
 */
import type { Curve, Point, Series } from './data.js';
import { type Fields, numberIn } from './run-files.js';

/** The metrics of one strategy. */
export interface Metrics {
  strategy: string;
  lines: readonly Fields[];
}

function pointsOf(lines: readonly Fields[], field: string, drawn = (_: Fields) => true): Point[] {
  return lines.flatMap((line): Point[] => {
    const step = numberIn(line, 'step');
    if (step === undefined || !(field in line)) return [];
    return [[step, drawn(line) ? (numberIn(line, field) ?? null) : null]];
  });
}

/** Stretches of a longer curve; each keeps at most three points. */
const stretches = 666;

/** The lowest and the highest point of each stretch of a long curve, and a gap where it has one. */
function thinned(points: Point[]): Point[] {
  if (points.length <= 3 * stretches) return points;
  const size = Math.ceil(points.length / stretches);
  const kept: Point[] = [];
  for (let start = 0; start < points.length; start += size) {
    const stretch = points.slice(start, start + size);
    const known = stretch.filter(([, y]) => y !== null);
    const by = (better: (a: number, b: number) => boolean): Point[] =>
      known.length === 0 ? [] : [known.reduce((best, point) => (better(point[1]!, best[1]!) ? point : best))];
    const gap = stretch.find(([, y]) => y === null);
    const chosen = new Set([...by((a, b) => a < b), ...by((a, b) => a > b), ...(gap ? [gap] : [])]);
    kept.push(...stretch.filter((point) => chosen.has(point)));
  }
  return kept;
}

/** One series per strategy and field that has at least two points. */
function seriesOf(
  all: readonly Metrics[],
  fields: readonly (readonly [field: string, name: string])[],
  drawn?: (line: Fields) => boolean,
): Series[] {
  return all.flatMap(({ strategy, lines }) =>
    fields.flatMap(([field, name]): Series[] => {
      const points = pointsOf(lines, field, drawn);
      if (points.filter(([, y]) => y !== null).length < 2) return [];
      const full = all.length > 1 ? `${strategy}${name && `, ${name}`}` : name || strategy;
      return [{ name: full, points: thinned(points) }];
    }),
  );
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** What validation lines measure, e.g. `accuracy` of `validation_accuracy`. */
function validationFields(all: readonly Metrics[]): string[] {
  const names = new Set<string>();
  for (const { lines } of all)
    for (const line of lines)
      for (const field of Object.keys(line))
        if (/^validation_(?!tokens$)[a-z0-9_]+$/.test(field)) names.add(field);
  return [...names].sort();
}

export function curvesOf(all: readonly Metrics[]): Curve[] {
  const curves: (Curve | undefined)[] = [];
  const add = (curve: Curve): void => {
    if (curve.series.length > 0) curves.push(curve);
  };
  add({
    id: 'loss',
    title: 'Loss of the trained tokens',
    yLabel: 'loss (nats per token)',
    // A step without a selected token has no loss.
    series: seriesOf(all, [['loss', '']], (line) => numberIn(line, 'selected_tokens') !== 0),
    ...(all.length > 1 && {
      note: "Each strategy's loss is over its own tokens; the two cannot be compared.",
    }),
  });
  add({
    id: 'probe-loss',
    title: 'Loss of critical and other tokens',
    yLabel: 'loss (nats per token)',
    series: seriesOf(all, [
      ['critical_loss', 'critical'],
      ['other_loss', 'other'],
    ]),
  });
  add({
    id: 'entropy',
    title: 'Entropy at critical and other tokens',
    yLabel: 'entropy (nats)',
    series: seriesOf(all, [
      ['critical_entropy', 'critical'],
      ['other_entropy', 'other'],
    ]),
  });
  for (const field of validationFields(all)) {
    const what = field.slice('validation_'.length).replaceAll('_', ' ');
    add({
      id: field.replaceAll('_', '-'),
      title: `Validation: ${what}`,
      yLabel: what,
      series: seriesOf(all, [[field, '']]),
    });
  }
  // Strategies share their schedule where they share their rate; the first is then enough.
  const rates = seriesOf(all, [['learning_rate', '']]);
  const differ = rates.some(({ points }) => JSON.stringify(points) !== JSON.stringify(rates[0]!.points));
  add({
    id: 'learning-rate',
    title: 'Learning rate',
    yLabel: 'learning rate',
    series: differ ? rates : rates.slice(0, 1).map(({ points }) => ({ name: '', points })),
  });
  add({
    id: 'gradient-norm',
    title: 'Gradient norm before clipping',
    yLabel: 'norm',
    series: seriesOf(all, [['grad_norm', '']]),
  });
  return curves.map((curve) => ({ ...curve!, yLabel: capital(curve!.yLabel) }));
}

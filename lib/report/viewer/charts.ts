/**
 * The charts, drawn by Observable Plot: in the page with its colours as CSS variables, and in Node with plain colours
 * for the PNG files. Series differ by dashes and labels beside their colours, which are told apart by colour-blind
 * people (Okabe and Ito).
 */
import * as Plot from '@observablehq/plot';
import type { Curve, Gains, ReportData, Sites } from '../data.js';

export interface Theme {
  /** At least four. */
  colors: readonly string[];
  text: string;
  muted: string;
  background: string;
  font: string;
  fontSize: number;
}

export interface ChartSetting {
  theme: Theme;
  /** Pixels. */
  width: number;
  /** Tooltips follow the pointer; in the page only. */
  interactive: boolean;
  document?: Document;
}

export interface Chart {
  /** Name of its PNG file. */
  id: string;
  title: string;
  note?: string | undefined;
  draw: (setting: ChartSetting) => Element;
}

const dashes = ['', '6 3', '2 3', '8 3 2 3'];
const symbols = ['circle', 'diamond', 'square', 'triangle'];

/** Without the style element, which the page's policy refuses; viewer.css has what it says. */
function plot(options: Plot.PlotOptions, { theme, width, document }: ChartSetting): Element {
  const style = {
    background: 'transparent',
    color: theme.text,
    fontFamily: theme.font,
    fontSize: `${theme.fontSize}px`,
    overflow: 'visible',
  };
  const drawn = Plot.plot({
    width,
    marginLeft: 52,
    marginRight: 16,
    marginBottom: 38,
    className: 'plot',
    style: style as unknown as string,
    ...(document && { document }),
    ...options,
    // Not every font has arrows.
    x: { labelArrow: 'none', labelAnchor: 'center', labelOffset: 34, ...options.x },
    y: { labelArrow: 'none', ...options.y },
  });
  for (const element of drawn.querySelectorAll('style')) element.remove();
  return drawn;
}

interface LinePoint {
  step: number;
  value: number | null;
  series: string;
}

/** Height of a curve's area in pixels, roughly. */
const plotHeight = 160;

/** Labels at the ends of the lines, moved up where they would lie on each other. */
function apart(ends: readonly LinePoint[], gap: number): (LinePoint & { at: number })[] {
  let last = Number.NEGATIVE_INFINITY;
  return [...ends]
    .sort((a, b) => a.value! - b.value!)
    .map((end) => {
      last = Math.max(end.value!, last + gap);
      return { ...end, at: last };
    });
}

function drawCurve({ series, yLabel }: Curve, setting: ChartSetting): Element {
  const { theme, interactive } = setting;
  const names = series.map(({ name }) => name);
  const points: LinePoint[] = series.flatMap(({ name, points: all }) =>
    all.map(([step, value]) => ({ step, value, series: name })),
  );
  const good = points.filter(({ value }) => value !== null);
  const colorOf = (name: string): string => theme.colors[names.indexOf(name) % theme.colors.length]!;
  const colorIn = (point: LinePoint): string => colorOf(point.series);
  const symbolIn = (point: LinePoint): string => symbols[names.indexOf(point.series) % symbols.length]!;
  const ends = names.map((name) => good.findLast((point) => point.series === name)!);
  const high = good.reduce((most, { value }) => Math.max(most, value!), Number.NEGATIVE_INFINITY);
  const labelled = apart(ends, (1.15 * theme.fontSize * Math.max(high, 1e-12)) / plotHeight);
  const tiny = high > 0 && high < 0.01;
  const labels = names.some((name) => name !== '');
  return plot(
    {
      height: 210,
      marginRight: labels ? 16 + Math.max(...names.map((name) => name.length)) * theme.fontSize * 0.58 : 16,
      ariaLabel: `${yLabel} over optimizer steps`,
      x: {
        label: 'optimizer step',
        ticks: Math.min(8, Math.max(2, good.length / series.length - 1)),
        tickFormat: 'd',
      },
      y: { label: yLabel, grid: true, zero: true, nice: true, ticks: 5, ...(tiny && { tickFormat: '.0e' }) },
      marks: [
        ...series.map(({ name }, i) =>
          Plot.line(
            points.filter((point) => point.series === name),
            {
              x: 'step',
              y: 'value',
              stroke: colorOf(name),
              strokeWidth: 2,
              strokeDasharray: dashes[i % dashes.length]!,
            },
          ),
        ),
        // Many steps would hide the line.
        ...(good.length / series.length <= 40
          ? [Plot.dot(good, { x: 'step', y: 'value', fill: colorIn, symbol: symbolIn, r: 3.2 })]
          : []),
        ...(labels
          ? [
              Plot.text(labelled, {
                x: 'step',
                y: 'at',
                text: 'series',
                fill: colorIn,
                textAnchor: 'start',
                dx: 8,
                fontWeight: 600,
              }),
            ]
          : []),
        ...(interactive
          ? [tip(good, { x: 'step', y: 'value', ...(labels && { channels: { series: 'series' } }) })]
          : []),
      ],
    },
    setting,
  );
}

const tip = (data: readonly object[], options: object): Plot.Markish =>
  Plot.tip(data as Plot.Data, Plot.pointer({ className: 'plot-tip', ...options }));

function drawGains(gains: Gains, setting: ChartSetting): Element {
  const { theme, interactive } = setting;
  const points = gains.rows.flatMap((row) =>
    (['greedy', 'sampled'] as const).flatMap((kind) => {
      const accuracy = row[kind];
      if (accuracy === undefined) return [];
      const [low, high] = accuracy.interval;
      return [{ name: row.name, kind, value: 100 * accuracy.value, low: 100 * low, high: 100 * high }];
    }),
  );
  const kindsShown = new Set(points.map(({ kind }) => kind)).size;
  const color = (point: { kind: string }): string => theme.colors[point.kind === 'greedy' ? 0 : 1]!;
  const lows = Math.min(...points.map(({ low }) => low));
  const highs = Math.max(...points.map(({ high }) => high));
  const longest = Math.max(...gains.rows.map(({ name }) => name.length));
  return plot(
    {
      height: 54 + kindsShown * (18 + 24 * gains.rows.length),
      marginLeft: Math.min(160, 24 + longest * theme.fontSize * 0.58),
      marginRight: kindsShown > 1 ? 74 : 24,
      marginTop: 12,
      ariaLabel: `Accuracy on ${gains.evaluatedOn} with 95 % intervals`,
      x: {
        label: 'accuracy (%)',
        grid: true,
        domain: [Math.max(0, Math.floor(lows / 5) * 5 - 5), Math.min(100, Math.ceil(highs / 5) * 5 + 5)],
      },
      y: { label: null, domain: gains.rows.map(({ name }) => name), padding: 0.4 },
      ...(kindsShown > 1 && { fy: { label: null, domain: ['greedy', 'sampled'] } }),
      marks: [
        Plot.ruleY(points, {
          ...(kindsShown > 1 && { fy: 'kind' }),
          y: 'name',
          x1: 'low',
          x2: 'high',
          stroke: color,
          strokeWidth: 3,
          strokeOpacity: 0.45,
        }),
        Plot.dot(points, {
          ...(kindsShown > 1 && { fy: 'kind' }),
          y: 'name',
          x: 'value',
          fill: color,
          symbol: (point: { kind: string }) => (point.kind === 'greedy' ? 'circle' : 'diamond'),
          r: 5,
        }),
        Plot.text(points, {
          ...(kindsShown > 1 && { fy: 'kind' }),
          y: 'name',
          x: 'value',
          text: (point: { value: number }) => point.value.toFixed(1),
          dy: -13,
          fill: theme.text,
          stroke: theme.background,
          strokeWidth: 3,
        }),
        ...(interactive
          ? [
              tip(points, {
                ...(kindsShown > 1 && { fy: 'kind' }),
                y: 'name',
                x: 'value',
                channels: { low: 'low', high: 'high' },
                format: { x: '.1f', low: '.1f', high: '.1f', fy: false },
              }),
            ]
          : []),
      ],
    },
    setting,
  );
}

interface Bar {
  name: string;
  share: number;
  critical: number;
  tokens: number;
}

const bars = (shares: Sites['byKind']): Bar[] =>
  shares.map(({ name, tokens, critical }) => ({ name, tokens, critical, share: (100 * critical) / tokens }));

function drawBars(shares: Sites['byKind'], xLabel: string, overall: number, setting: ChartSetting): Element {
  const { theme, interactive, width } = setting;
  const all = bars(shares);
  const many = all.length > 6;
  return plot(
    {
      height: 210,
      marginRight: 6.2 * theme.fontSize,
      ariaLabel: `Share of critical tokens by ${xLabel}`,
      x: {
        label: xLabel,
        domain: all.map(({ name }) => name),
        ...(many && {
          tickFormat: (name: string) => (width < 560 ? name.replace(/–.*/, '') : name.replace(' %', '')),
        }),
      },
      y: { label: 'critical (% of tokens)', grid: true, nice: true, ticks: 5, zero: true },
      marks: [
        Plot.barY(all, {
          x: 'name',
          y: 'share',
          fill: theme.colors[1]!,
          fillOpacity: 0.85,
          insetLeft: 1,
          insetRight: 1,
        }),
        Plot.ruleY([overall * 100], { stroke: theme.text, strokeDasharray: '4 3' }),
        Plot.text([overall * 100], {
          y: (value: number) => value,
          text: (value: number) => `all: ${value.toFixed(1)} %`,
          frameAnchor: 'right',
          textAnchor: 'start',
          dx: 5,
          fill: theme.text,
        }),
        Plot.ruleY([0], { stroke: theme.muted }),
        ...(interactive
          ? [
              tip(all, {
                x: 'name',
                y: 'share',
                channels: { critical: 'critical', tokens: 'tokens' },
                format: { y: '.1f' },
              }),
            ]
          : []),
      ],
    },
    setting,
  );
}

function drawStages(stages: ReportData['costs']['stages'], setting: ChartSetting): Element {
  const { theme } = setting;
  const longest = Math.max(...stages.map(({ name }) => name.length));
  return plot(
    {
      height: 60 + 22 * stages.length,
      marginLeft: Math.min(170, 16 + longest * theme.fontSize * 0.56),
      marginRight: 92,
      ariaLabel: 'Seconds of each stage',
      x: { label: 'seconds', grid: true, ticks: 5 },
      y: { label: null, domain: stages.map(({ name }) => name) },
      marks: [
        Plot.barX(stages, {
          y: 'name',
          x: 'seconds',
          fill: theme.colors[0]!,
          fillOpacity: 0.85,
          insetTop: 1,
          insetBottom: 1,
        }),
        Plot.text(stages, {
          y: 'name',
          x: 'seconds',
          text: ({ seconds, share }) => `${seconds.toFixed(1)} s, ${(100 * share).toFixed(0)} %`,
          textAnchor: 'start',
          dx: 5,
          fill: theme.text,
        }),
        Plot.ruleX([0], { stroke: theme.muted }),
      ],
    },
    setting,
  );
}

const fileName = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');

export function gainCharts(data: ReportData): Chart[] {
  return data.gains.map((gains) => ({
    id: data.gains.length > 1 ? `accuracy-${fileName(gains.evaluatedOn)}` : 'accuracy',
    title: `Accuracy on ${gains.evaluatedOn}, with 95 % intervals`,
    draw: (setting) => drawGains(gains, setting),
  }));
}

export function curveCharts(data: ReportData): Chart[] {
  return data.curves.map((curve) => ({
    id: curve.id,
    title: curve.title,
    note: curve.note,
    draw: (setting) => drawCurve(curve, setting),
  }));
}

export function siteCharts({ sites }: ReportData): Chart[] {
  if (sites === undefined) return [];
  const overall = sites.critical / sites.tokens;
  return [
    {
      id: 'critical-by-position',
      title: 'Critical tokens by place in the response',
      draw: (setting) => drawBars(sites.byPosition, 'place in the response (%)', overall, setting),
    },
    {
      id: 'critical-by-kind',
      title: 'Critical tokens by kind of token',
      draw: (setting) => drawBars(sites.byKind, 'kind of token', overall, setting),
    },
  ];
}

export function stageCharts({ costs: { stages } }: ReportData): Chart[] {
  if (stages.length === 0) return [];
  return [{ id: 'seconds', title: 'Wall time by stage', draw: (setting) => drawStages(stages, setting) }];
}

export const allCharts = (data: ReportData): Chart[] => [
  ...gainCharts(data),
  ...curveCharts(data),
  ...siteCharts(data),
  ...stageCharts(data),
];

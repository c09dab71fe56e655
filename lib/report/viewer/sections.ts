/** Everything above the responses: the head line, what was gained, curves, where critical tokens sit, cost, options. */
import type { Gains, ReportData } from '../data.js';
import { type Chart, curveCharts, gainCharts, siteCharts, stageCharts, type Theme } from './charts.js';
import { count, h, percent, visible } from './dom.js';

const theme: Theme = {
  colors: ['var(--blue)', 'var(--orange)', 'var(--green)', 'var(--pink)'],
  text: 'var(--text)',
  muted: 'var(--muted)',
  background: 'var(--background)',
  font: 'inherit',
  fontSize: 12,
};

function figure({ title, note, draw }: Chart): HTMLElement {
  const box = h('figure.chart', {}, h('figcaption', {}, title));
  let width = 0;
  const redraw = (): void => {
    const now = Math.max(260, Math.min(720, Math.floor(box.clientWidth || 480)));
    if (now === width) return;
    width = now;
    box.querySelector('.plot')?.remove();
    box.children[0]!.after(draw({ theme, width, interactive: true }));
  };
  new ResizeObserver(redraw).observe(box);
  if (note !== undefined) box.append(h('p.note', {}, note));
  return box;
}

const figures = (charts: readonly Chart[]): HTMLElement => h('div.figures', {}, charts.map(figure));

function table(
  rows: readonly (readonly [string, string])[],
  className: 'table.pairs' | 'table.options',
): HTMLElement {
  return h(
    className,
    {},
    h(
      'tbody',
      {},
      rows.map(([name, value]) => h('tr', {}, h('th', { scope: 'row' }, name), h('td', {}, value))),
    ),
  );
}

function gainsTable({ rows, samples, questions, evaluatedOn }: Gains): HTMLElement {
  const sampled = rows.some((row) => row.sampled);
  const greedy = rows.some((row) => row.greedy);
  const cells = (accuracy: Gains['rows'][number]['greedy']): Node[] =>
    accuracy === undefined
      ? [h('td'), h('td')]
      : [
          h('td.number', {}, h('strong', {}, percent(accuracy.value))),
          h('td.number', {}, accuracy.interval.map((end) => (100 * end).toFixed(1)).join(' to ')),
        ];
  return h(
    'table',
    {},
    h('caption', {}, `Accuracy on ${count(questions)} questions (${evaluatedOn})`),
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        h('td'),
        greedy ? [h('th', { scope: 'col' }, 'greedy'), h('th', { scope: 'col' }, '95 % interval')] : [],
        sampled
          ? [
              h('th', { scope: 'col' }, `sampled${samples ? ` × ${samples}` : ''}`),
              h('th', { scope: 'col' }, '95 % interval'),
            ]
          : [],
      ),
    ),
    h(
      'tbody',
      {},
      rows.map((row) =>
        h(
          'tr',
          {},
          h('th', { scope: 'row' }, row.name),
          greedy ? cells(row.greedy) : [],
          sampled ? cells(row.sampled) : [],
        ),
      ),
    ),
  );
}

const verdictMarks: Record<string, string> = { better: '▲', worse: '▼' };

function comparisons({ comparisons: all }: Gains): HTMLElement | undefined {
  if (all.length === 0) return undefined;
  return h(
    'div',
    {},
    h(
      'ul.comparisons',
      {},
      all.map(({ name, kind, text, verdict }) =>
        h(
          'li',
          { class: verdict.split(' ')[0]! },
          `${verdictMarks[verdict] ?? '='} ${name}, ${kind}: ${text.replace(/p ([<=]) /, 'p\u00a0$1\u00a0')}`,
        ),
      ),
    ),
    h(
      'p.note',
      {},
      'Paired on the same questions: the exact McNemar test for greedy responses, a bootstrap over questions for ' +
        'samples. “No difference detected” is not “no difference”.',
    ),
  );
}

function section(id: string, title: string, ...children: (Node | undefined)[]): HTMLElement {
  return h(
    'section',
    { id, 'aria-labelledby': `${id}-title` },
    h('h2', { id: `${id}-title` }, title),
    children,
  );
}

export function header(data: ReportData): HTMLElement {
  return h(
    'header.page',
    {},
    h('h1', {}, data.title),
    h('p.subtitle', {}, data.subtitle),
    data.status === 'done'
      ? undefined
      : h(
          'p.status',
          { role: 'status' },
          h('strong', {}, data.status),
          data.progress.map(([name, value]) => h('span', {}, `${name}: ${value}`)),
          data.error,
        ),
  );
}

/** @param onToken called with the text of a frequent token that was chosen. */
export function sections(data: ReportData, onToken: (text: string) => void): HTMLElement[] {
  const { gains, curves, costs, sites, options } = data;
  const made: HTMLElement[] = [];
  if (gains.length > 0) {
    const charts = gainCharts(data);
    made.push(
      section(
        'gains',
        'What was gained',
        ...gains.map((one, i) =>
          h(
            'div.beside',
            {},
            h('div', {}, h('div.wide', {}, gainsTable(one)), comparisons(one)),
            figures([charts[i]!]),
          ),
        ),
      ),
    );
  }
  if (curves.length > 0) made.push(section('curves', 'Training', figures(curveCharts(data))));
  if (sites !== undefined) {
    const share = percent(sites.critical / sites.tokens);
    made.push(
      section(
        'sites',
        'Where critical tokens sit',
        h(
          'p',
          {},
          `${count(sites.critical)} of ${count(sites.tokens)} tokens (${share}) in ${count(sites.responses)} responses: ` +
            'tokens whose every tried alternative ends in a wrong answer.',
        ),
        figures(siteCharts(data)),
        sites.frequent.length > 0 ? h('h3', {}, 'Most often critical') : undefined,
        h(
          'ul.frequent',
          {},
          sites.frequent.map(({ text, critical, tokens, kind }) =>
            h(
              'li',
              {},
              h(
                'button.token-filter',
                {
                  type: 'button',
                  title: `${kind}; show the responses where it is critical`,
                  click: () => onToken(text),
                },
                h('code', {}, visible(text)),
                ` ${count(critical)} of ${count(tokens)}`,
              ),
            ),
          ),
        ),
      ),
    );
  }
  if (costs.rows.length > 0 || costs.stages.length > 0) {
    made.push(
      section(
        'cost',
        'What it cost',
        h(
          'div.beside',
          {},
          h(
            'div',
            {},
            table(costs.rows, 'table.pairs'),
            costs.saved.length > 0 ? h('h3', {}, 'Saved') : undefined,
            costs.saved.length > 0 ? table(costs.saved, 'table.pairs') : undefined,
          ),
          figures(stageCharts(data)),
        ),
      ),
    );
  }
  if (options.length > 0)
    made.push(
      section(
        'options',
        'Options',
        h(
          'details',
          {},
          h('summary', {}, `${options.length} options as resolved`),
          table(options, 'table.options'),
        ),
      ),
    );
  return made;
}

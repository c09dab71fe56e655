/** What is known of one token: how critical it is and what was tried in its place. */
import type { ShownAlternative, ShownResponse } from '../data.js';
import { h, percent, probability, visible } from './dom.js';

/** 3 critical, 2 some alternatives fail, 1 none fails, 0 nothing was tried. */
export type Level = 0 | 1 | 2 | 3;

export const levelNames = [
  'no alternative was tried',
  'not critical: the answer stays right',
  'not critical: some alternatives fail, another stays right',
  'critical: every tried alternative fails',
] as const;

const verdictWords = ['✓ correct', '✗ incorrect', '… truncated'] as const;
const verdictClasses = ['correct', 'incorrect', 'truncated'] as const;

/** A response with its alternatives by position. */
export class Tokens {
  readonly response: ShownResponse;
  readonly #byPosition = new Map<number, ShownAlternative[]>();
  readonly #largest: number;
  /** Text of the whole. */
  readonly text: string;
  readonly critical: number;

  constructor(response: ShownResponse) {
    this.response = response;
    for (const alternative of response.alternatives) {
      const list = this.#byPosition.get(alternative[0]);
      if (list === undefined) this.#byPosition.set(alternative[0], [alternative]);
      else list.push(alternative);
    }
    this.#largest = Math.max(0, ...response.weights);
    this.text = response.pieces.join('');
    this.critical = response.weights.slice(0, response.pieces.length).filter((weight) => weight > 0).length;
  }

  get length(): number {
    return this.response.pieces.length;
  }

  get share(): number {
    return this.length === 0 ? 0 : this.critical / this.length;
  }

  alternatives(position: number): readonly ShownAlternative[] {
    return this.#byPosition.get(position) ?? [];
  }

  isCritical(position: number): boolean {
    return (this.response.weights[position] ?? 0) > 0;
  }

  level(position: number): Level {
    if (this.isCritical(position)) return 3;
    const tried = this.alternatives(position);
    if (tried.length === 0) return 0;
    return tried.some(([, , , , verdict]) => verdict !== 0) ? 2 : 1;
  }

  /** Of the largest weight of the response, 0 to 1; below 1 only where weights are graded. */
  strength(position: number): number {
    return this.#largest > 0 ? (this.response.weights[position] ?? 0) / this.#largest : 0;
  }
}

const quoted = (text: string): HTMLElement => h('code', {}, visible(text));

const verdictText = (verdict: number): HTMLElement =>
  h('span', { class: `verdict ${verdictClasses[verdict] ?? ''}` }, verdictWords[verdict] ?? 'unknown');

/** Contents of the tooltip. */
export function tokenDetails(tokens: Tokens, position: number): Node[] {
  const { pieces, logprobs } = tokens.response;
  const logprob = logprobs[position];
  const tried = tokens.alternatives(position);
  const weight = tokens.response.weights[position] ?? 0;
  const graded = weight > 0 && weight !== 1 ? `, weight ${weight.toPrecision(3)}` : '';
  const hasMore = tried.some((alternative) => alternative[6] !== undefined);
  return [
    h(
      'p',
      {},
      quoted(pieces[position] ?? ''),
      logprob === undefined ? '' : ` ${probability(logprob)}`,
      h('small', {}, ` token ${position + 1} of ${tokens.length}`),
    ),
    h('p', { class: `level level-${tokens.level(position)}` }, levelNames[tokens.level(position)] + graded),
    ...(tried.length === 0
      ? []
      : [
          h(
            'table',
            {},
            h(
              'thead',
              {},
              h(
                'tr',
                {},
                ['rank', 'instead', 'probability', 'verdict', 'answer'].map((name) =>
                  h('th', { scope: 'col' }, name),
                ),
              ),
            ),
            h(
              'tbody',
              {},
              tried.map(([, rank, text, p, verdict, extracted]) =>
                h(
                  'tr',
                  {},
                  h('td.number', {}, String(rank)),
                  h('td', {}, quoted(text)),
                  h('td.number', {}, probability(p)),
                  h('td', {}, verdictText(verdict)),
                  h('td.answer', {}, extracted ?? '–'),
                ),
              ),
            ),
          ),
          h('p.hint', {}, hasMore ? 'Click or Enter: how it went on' : 'Click or Enter: keep this open'),
        ]),
  ];
}

const context = 90;

/** What would have been written: the end of the text before, the alternative, and what followed it. */
export function counterfactuals(
  tokens: Tokens,
  position: number,
  typeset: (text: string) => (Node | string)[],
): Node[] {
  const { pieces, answer, logprobs } = tokens.response;
  const before = pieces.slice(0, position).join('');
  const shortened = before.length > context ? `…${before.slice(-context)}` : before;
  const own = logprobs[position];
  const tried = tokens.alternatives(position);
  return [
    h(
      'h4',
      {},
      'Instead of ',
      quoted(pieces[position] ?? ''),
      own === undefined ? '' : ` (${probability(own)})`,
      h('small', {}, ` token ${position + 1}: ${levelNames[tokens.level(position)]}`),
    ),
    ...tried.map(([, rank, text, logprob, verdict, extracted, continuation]) =>
      h(
        'div.branch',
        {},
        h(
          'p.branch-head',
          {},
          `rank ${rank} `,
          quoted(text),
          ` ${probability(logprob)} `,
          verdictText(verdict),
          ` answer ${extracted ?? 'none'}, expected ${answer}`,
        ),
        continuation === undefined
          ? undefined
          : h(
              'p.continuation',
              {},
              h('span.before', {}, shortened),
              h('mark', {}, text),
              typeset(continuation),
            ),
      ),
    ),
    ...(tried.length > 0 && tried.every((alternative) => alternative[6] === undefined)
      ? [h('p.note', {}, 'How it went on was not kept here; annotate with --keep-rollouts to see it.')]
      : []),
    ...(tried.length === 0 ? [h('p.note', {}, 'Nothing was tried at this token.')] : []),
  ];
}

export const shareText = (tokens: Tokens): string =>
  `${tokens.critical} of ${tokens.length} tokens critical (${percent(tokens.share, 0)})`;

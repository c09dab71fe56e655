/** The list of responses: search, filter, order, and the keys. */
import type { ReportData, ShownResponse } from '../data.js';
import { count, h, visible } from './dom.js';
import { hasMath } from './math.js';
import { type ColorBy, ResponseCard, trimmed } from './response-card.js';
import { Tip } from './tip.js';
import { levelNames, Tokens, tokenDetails } from './token-info.js';

const atOnce = 20;

const filters: Record<string, { name: string; is: (tokens: Tokens) => boolean }> = {
  all: { name: 'all responses', is: () => true },
  critical: { name: 'with critical tokens', is: ({ critical }) => critical > 0 },
  none: { name: 'without critical tokens', is: ({ critical }) => critical === 0 },
  math: { name: 'with formulas', is: ({ text, response }) => hasMath(text) || hasMath(response.question) },
  truncated: {
    name: 'with truncated alternatives',
    is: ({ response }) => response.alternatives.some(([, , , , verdict]) => verdict === 2),
  },
};

const orders: Record<string, { name: string; by: (a: Tokens, b: Tokens) => number }> = {
  data: { name: 'in the order of the data', by: () => 0 },
  share: { name: 'most critical first', by: (a, b) => b.share - a.share },
  least: { name: 'least critical first', by: (a, b) => a.share - b.share },
  long: { name: 'longest first', by: (a, b) => b.length - a.length },
};

const help: readonly (readonly [string, string])[] = [
  ['/', 'search'],
  ['j, k', 'next and previous response'],
  ['← → ↑ ↓', 'from token to token'],
  ['n, p', 'next and previous critical token'],
  ['Enter', 'what would have been at this token'],
  ['Esc', 'close'],
  ['?', 'this list'],
];

const choice = (
  label: string,
  options: Record<string, { name: string }>,
  onChange: () => void,
): HTMLSelectElement =>
  h(
    'select',
    { 'aria-label': label, change: onChange },
    Object.entries(options).map(([value, { name }]) => h('option', { value }, name)),
  );

export class Responses {
  readonly element: HTMLElement;
  readonly #tip = new Tip();
  readonly #search = h('input', {
    type: 'search',
    placeholder: 'Search texts and answers ( / )',
    'aria-label': 'Search',
    input: () => this.#filter(),
  });
  readonly #show = choice('Show', filters, () => this.#filter());
  readonly #order = choice('Order', orders, () => this.#filter());
  readonly #colorBy = choice(
    'Colour by',
    { criticality: { name: 'coloured by criticality' }, probability: { name: 'coloured by surprise' } },
    () => {
      this.#list.dataset.color = this.#colorBy.value as ColorBy;
    },
  );
  readonly #chip = h('button.chip', { type: 'button', hidden: true, click: () => this.showToken(undefined) });
  readonly #counted = h('output', { 'aria-live': 'polite' });
  readonly #notes = h('div');
  readonly #list = h('div.list', { 'data-color': 'criticality' });
  readonly #more = h(
    'button.more',
    { type: 'button', hidden: true, click: () => this.#grow() },
    'More responses',
  );
  readonly #help = h(
    'dialog',
    { 'aria-label': 'Keys' },
    h('h2', {}, 'Keys'),
    h(
      'table',
      {},
      help.map(([key, what]) => h('tr', {}, h('th', {}, h('kbd', {}, key)), h('td', {}, what))),
    ),
    h(
      'form',
      { method: 'dialog', submit: (event: Event) => this.#closeHelp(event) },
      h('button', {}, 'Close'),
    ),
  );
  #all: Tokens[] = [];
  #matching: Tokens[] = [];
  #cards: ResponseCard[] = [];
  readonly #cardOf = new WeakMap<Element, ResponseCard>();
  #token: string | undefined;

  constructor() {
    this.element = h(
      'section',
      { id: 'responses', 'aria-labelledby': 'responses-title' },
      h('h2', { id: 'responses-title' }, 'Responses and their critical tokens'),
      this.#notes,
      h(
        'div.toolbar',
        { role: 'search' },
        this.#search,
        this.#show,
        this.#order,
        this.#colorBy,
        h(
          'button',
          { type: 'button', 'aria-label': 'Keys', title: 'Keys ( ? )', click: () => this.#help.showModal() },
          '?',
        ),
        this.#chip,
        this.#counted,
      ),
      h(
        'p.legend',
        {},
        ([3, 2, 1, 0] as const).map((level) =>
          h('span', {}, h('span', { class: `t l${level}` }, 'token'), ` ${levelNames[level]}`),
        ),
      ),
      this.#list,
      this.#more,
      this.#help,
    );
    this.#listen();
  }

  #closeHelp(event: Event): void {
    event.preventDefault(); // the page's policy forbids forms to go anywhere, this one included
    this.#help.close();
  }

  update(data: ReportData): void {
    const left =
      data.responsesLeft > 0 ? [`${count(data.responsesLeft)} more are in annotations.jsonl.`] : [];
    this.#notes.replaceChildren(...[...data.notes, ...left].map((note) => h('p.note', {}, note)));
    this.element.hidden = data.responses.length === 0;
    const known = new Map(this.#all.map((tokens) => [tokens.response.id, tokens]));
    const same = (a: Tokens | undefined, { pieces, alternatives }: ShownResponse): a is Tokens =>
      a?.length === pieces.length && a.response.alternatives.length === alternatives.length;
    this.#all = data.responses.map((response) => {
      const before = known.get(response.id);
      return same(before, response) ? before : new Tokens(response);
    });
    this.#filter(true);
  }

  /** Only the responses where this text is critical. */
  showToken(text: string | undefined): void {
    this.#token = text;
    this.#chip.hidden = text === undefined;
    this.#chip.textContent = text === undefined ? '' : `critical: ${visible(text)} ×`;
    this.#filter();
    if (text !== undefined) this.element.scrollIntoView();
  }

  /** @param keep leaves what is shown as it is where the rest only follows it. */
  #filter(keep = false): void {
    const words = this.#search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const show = filters[this.#show.value]!;
    const matches = (tokens: Tokens): boolean => {
      const { id, question, answer, pieces } = tokens.response;
      const text = `${id}\n${question}\n${answer}\n${tokens.text}`.toLowerCase();
      return (
        show.is(tokens) &&
        words.every((word) => text.includes(word)) &&
        (this.#token === undefined ||
          pieces.some((piece, i) => tokens.isCritical(i) && trimmed(piece) === this.#token))
      );
    };
    this.#matching = this.#all.filter(matches).sort(orders[this.#order.value]!.by);
    this.#counted.textContent = `${count(this.#matching.length)} of ${count(this.#all.length)}`;
    if (
      keep &&
      this.#cards.length > 0 &&
      this.#cards.every(({ tokens }, i) => tokens === this.#matching[i])
    ) {
      this.#grow(Math.max(0, atOnce - this.#cards.length));
      return;
    }
    this.#tip.hide();
    this.#cards = [];
    this.#list.replaceChildren();
    this.#grow();
  }

  #grow(amount = atOnce): void {
    const from = this.#cards.length;
    const cards = this.#matching.slice(from, from + amount).map((tokens) => {
      const card = new ResponseCard(tokens, () => card.close(true));
      this.#cardOf.set(card.element, card);
      card.mark(this.#token);
      return card;
    });
    this.#cards.push(...cards);
    this.#list.append(...cards.map(({ element }) => element));
    this.#more.hidden = this.#cards.length === this.#matching.length;
  }

  /** Card and position of a token's element. */
  #find(target: EventTarget | null): { card: ResponseCard; position: number } | undefined {
    const element = target instanceof Element ? target.closest<HTMLElement>('.tokens > .t') : null;
    const card = element && this.#cardOf.get(element.closest('.response')!);
    return card ? { card, position: Number(element.dataset.i) } : undefined;
  }

  #showTip(target: EventTarget | null): void {
    const found = this.#find(target);
    const element = found?.card.token(found.position);
    if (!found || !element || this.#tip.anchor === element) return;
    this.#tip.show(element, tokenDetails(found.card.tokens, found.position));
  }

  #listen(): void {
    const list = this.#list;
    list.addEventListener('pointerover', (event) => this.#showTip(event.target));
    list.addEventListener('pointerout', (event) => {
      if (this.#find(event.relatedTarget) === undefined) this.#tip.hide();
    });
    list.addEventListener('focusin', (event) => this.#showTip(event.target));
    list.addEventListener('focusout', () => this.#tip.hide());
    list.addEventListener('click', (event) => this.#open(event.target));
    document.addEventListener('keydown', (event) => this.#key(event));
    new IntersectionObserver((entries) => {
      if (entries.some(({ isIntersecting }) => isIntersecting) && !this.#more.hidden) this.#grow();
    }).observe(this.#more);
    addEventListener('beforeprint', () => this.#grow(this.#matching.length));
  }

  #open(target: EventTarget | null): void {
    const found = this.#find(target);
    if (found === undefined) return;
    for (const card of this.#cards) if (card !== found.card) card.close();
    found.card.focus(found.position);
    found.card.toggle(found.position);
    this.#tip.hide();
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey || this.#help.open) return;
    const { key, target } = event;
    if (target instanceof HTMLInputElement || target instanceof HTMLSelectElement) {
      if (key === 'Escape') target.blur();
      return;
    }
    if (key === '/') this.#search.focus();
    else if (key === '?') this.#help.showModal();
    else if (key === 'j' || key === 'k') this.#step(key === 'j' ? 1 : -1);
    else if (!this.#tokenKey(key, target)) return;
    event.preventDefault();
  }

  /** To the next or previous response. */
  #step(by: number): void {
    const at = this.#cards.findIndex(({ element }) => element.contains(document.activeElement));
    const next = at < 0 ? 0 : at + by;
    if (next >= this.#cards.length) this.#grow();
    const card = this.#cards[next];
    card?.focus(card.position);
    card?.element.scrollIntoView({ block: 'nearest' });
  }

  #tokenKey(key: string, target: EventTarget | null): boolean {
    const found = this.#find(target);
    if (found === undefined) return false;
    const { card, position } = found;
    const { length } = card.tokens;
    const critical = (by: number): number => {
      for (let i = position + by; i >= 0 && i < length; i += by) if (card.tokens.isCritical(i)) return i;
      return position;
    };
    const moves: Record<string, () => number> = {
      ArrowRight: () => Math.min(length - 1, position + 1),
      ArrowLeft: () => Math.max(0, position - 1),
      ArrowDown: () => this.#line(card, position, 1),
      ArrowUp: () => this.#line(card, position, -1),
      Home: () => 0,
      End: () => length - 1,
      n: () => critical(1),
      p: () => critical(-1),
    };
    const move = moves[key];
    if (move !== undefined) card.focus(move());
    else if (key === 'Enter' || key === ' ') this.#open(target);
    else if (key === 'Escape') {
      this.#tip.hide();
      card.close(true);
    } else return false;
    return true;
  }

  /** The token above or below: the nearest one in the next line that has any. */
  #line(card: ResponseCard, position: number, by: 1 | -1): number {
    const boxOf = (i: number): DOMRect | undefined => card.token(i)?.getClientRects()[0];
    const from = boxOf(position);
    if (from === undefined) return position;
    let best = position;
    let line: number | undefined;
    let distance = Number.POSITIVE_INFINITY;
    for (let i = position + by; i >= 0 && i < card.tokens.length; i += by) {
      const box = boxOf(i);
      if (box === undefined || Math.abs(box.top - from.top) < from.height / 2) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) > from.height / 2) break;
      const away = Math.abs(box.left - from.left);
      if (away < distance) [best, distance] = [i, away];
    }
    return best;
  }
}

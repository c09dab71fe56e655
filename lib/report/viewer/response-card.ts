/** One annotated response: question, its tokens coloured by criticality, and on demand what would have been. */
import { h, probability } from './dom.js';
import { hasMath, mathText } from './math.js';
import { counterfactuals, levelNames, shareText, type Tokens } from './token-info.js';

export type ColorBy = 'criticality' | 'probability';

export class ResponseCard {
  readonly element: HTMLElement;
  readonly tokens: Tokens;
  readonly #line: HTMLElement;
  readonly #panel = h('div.counterfactual', { hidden: true, 'aria-live': 'polite' });
  /** Position in the panel. */
  #open: number | undefined;

  constructor(tokens: Tokens, onClose: () => void) {
    this.tokens = tokens;
    const { id, question, answer, pieces } = tokens.response;
    this.#line = h(
      'div.tokens',
      { role: 'group', 'aria-label': `Response to ${id}, token by token; arrow keys move` },
      pieces.map((piece, i) => this.#token(piece, i)),
    );
    this.#line.firstElementChild?.setAttribute('tabindex', '0');
    const typeset = hasMath(tokens.text)
      ? h('details.typeset', {}, h('summary', {}, 'Typeset'), h('p', {}, mathText(tokens.text)))
      : undefined;
    this.#panel.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') onClose();
    });
    this.element = h(
      'article.response',
      {},
      h(
        'h3',
        {},
        h('span.id', {}, id),
        h('span.share', {}, shareText(tokens)),
        h('span.gold', {}, `answer ${answer}`),
      ),
      question === '' ? undefined : h('p.question', {}, mathText(question)),
      this.#line,
      typeset,
      this.#panel,
    );
  }

  #token(piece: string, position: number): HTMLElement {
    const level = this.tokens.level(position);
    const element = h(
      'span',
      { class: `t l${level}`, 'data-i': position, tabindex: -1, role: 'button' },
      piece,
    );
    if (level === 3) {
      const strength = this.tokens.strength(position);
      if (strength < 1)
        element.style.setProperty('--strength', `${Math.round(100 * Math.max(0.25, strength))}%`);
    }
    // Surprise in bits, up to 4.
    const bits = -(this.tokens.response.logprobs[position] ?? 0) / Math.LN2;
    element.style.setProperty('--surprise', `${Math.round(100 * Math.min(1, Math.max(0, bits) / 4))}%`);
    if (piece === '') element.classList.add('part');
    if (/^\s*\n\s*$/.test(piece)) element.classList.add('break');
    return element;
  }

  token(position: number): HTMLElement | undefined {
    return this.#line.children[position] as HTMLElement | undefined;
  }

  /** Screen readers hear of a token when it is reached; names for all would weigh more than the page. */
  name(position: number): void {
    const element = this.token(position);
    const logprob = this.tokens.response.logprobs[position];
    const p = logprob === undefined ? '' : `, ${probability(logprob)}`;
    element?.setAttribute(
      'aria-label',
      `${element.textContent}${p}, ${levelNames[this.tokens.level(position)]}`,
    );
  }

  /** Makes the token the one that Tab comes to. */
  focus(position: number): void {
    const element = this.token(position);
    if (element === undefined) return;
    this.#line.querySelector('[tabindex="0"]')?.setAttribute('tabindex', '-1');
    element.setAttribute('tabindex', '0');
    this.name(position);
    element.focus();
  }

  /** Where Tab would come to. */
  get position(): number {
    return Number((this.#line.querySelector('[tabindex="0"]') as HTMLElement | null)?.dataset.i ?? 0);
  }

  /** Marks the tokens of a text. */
  mark(text: string | undefined): void {
    for (const [i, piece] of this.tokens.response.pieces.entries())
      this.token(i)?.classList.toggle(
        'hit',
        text !== undefined && this.tokens.isCritical(i) && trimmed(piece) === text,
      );
  }

  get isOpen(): boolean {
    return this.#open !== undefined;
  }

  /** Shows what would have been at a position; the same position again closes it. */
  toggle(position: number): void {
    if (this.#open === position) {
      this.close();
      return;
    }
    this.close();
    this.#open = position;
    this.token(position)?.classList.add('chosen');
    this.#panel.replaceChildren(
      h('button.close', { type: 'button', 'aria-label': 'Close', click: () => this.close(true) }, '×'),
      ...counterfactuals(this.tokens, position, mathText),
    );
    this.#panel.hidden = false;
  }

  close(focus = false): void {
    if (this.#open === undefined) return;
    const element = this.token(this.#open);
    element?.classList.remove('chosen');
    this.#open = undefined;
    this.#panel.hidden = true;
    if (focus) element?.focus();
  }
}

/** As the list of frequent tokens writes them. */
export const trimmed = (piece: string): string => (piece.trim() === '' ? piece : piece.trim());

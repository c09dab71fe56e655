/** The one tooltip: beside the token that the pointer or the focus is on, never outside the window. */
import { h } from './dom.js';

const gap = 6; // pixels

export class Tip {
  readonly #box = h('div.tip', { role: 'tooltip', id: 'tip', hidden: true });
  #anchor: HTMLElement | undefined;

  constructor() {
    document.body.append(this.#box);
    window.addEventListener('scroll', () => this.#place(), { passive: true });
  }

  get anchor(): HTMLElement | undefined {
    return this.#anchor;
  }

  show(anchor: HTMLElement, contents: Node[]): void {
    this.hide();
    this.#anchor = anchor;
    this.#box.replaceChildren(...contents);
    this.#box.hidden = false;
    anchor.setAttribute('aria-describedby', 'tip');
    this.#place();
  }

  #place(): void {
    if (this.#anchor === undefined) return;
    // A token may be broken over two lines; its first part is where it starts.
    const at = this.#anchor.getClientRects()[0] ?? this.#anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#box;
    const below = at.bottom + gap;
    const top = below + height > innerHeight && at.top - gap - height > 0 ? at.top - gap - height : below;
    this.#box.style.top = `${Math.round(top)}px`;
    this.#box.style.left = `${Math.round(Math.max(gap, Math.min(at.left, document.documentElement.clientWidth - width - gap)))}px`;
  }

  hide(): void {
    this.#anchor?.removeAttribute('aria-describedby');
    this.#anchor = undefined;
    this.#box.hidden = true;
  }
}

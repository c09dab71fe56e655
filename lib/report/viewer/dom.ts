/** Elements without HTML: children that are strings become text nodes, so what they hold stays text. */

type Child = Node | string | undefined | readonly Child[];

type Attributes = Record<string, string | number | boolean | undefined | ((event: never) => void)>;

function append(element: Element, child: Child): void {
  if (child === undefined) return;
  if (Array.isArray(child)) for (const one of child as readonly Child[]) append(element, one);
  else element.append(child as Node | string);
}

/**
 * @param name with classes, e.g. `p.note`. @param attributes functions become listeners of that event; `true` is an
 * attribute without a value, `false` and undefined none.
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  name: K | `${K}.${string}`,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const [tag, ...classes] = name.split('.');
  const element = document.createElement(tag as K);
  if (classes.length > 0) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key, value as (event: Event) => void);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== undefined && value !== false) element.setAttribute(key, String(value));
  }
  append(element, children);
  return element;
}

export const percent = (value: number, digits = 1): string => `${(100 * value).toFixed(digits)} %`;

/** Of a probability: small ones keep their digits. */
export function probability(logprob: number): string {
  const value = 100 * Math.exp(logprob);
  return value >= 99.95 ? '100 %' : value < 0.001 ? '< 0.001 %' : `${value.toPrecision(3)} %`;
}

export const count = (value: number): string => Math.round(value).toLocaleString('en');

export const seconds = (value: number): string =>
  value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;

/** Text in one line with its white space to be seen. */
export const visible = (text: string): string =>
  text === '' ? '∅' : text.replaceAll('\n', '↵').replaceAll('\t', '→').replace(/^ | $/g, '␣');

/**
 * Text with its formulas typeset. KaTeX builds nodes, never HTML text; its output is the visual half alone (the MathML
 * half sets style attributes, which the page's policy forbids), with the source as the name for screen readers.
 */
import katex from 'katex';
import { h } from './dom.js';

/** Formulas in dollars, \(...\), \[...\], and a bare \boxed{...}; no line holds a dollar formula across a blank line. */
const formula =
  /\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|\$((?:\\.|[^$\\\n])+?)\$|(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})/g;

/** Dollars that are money: `$5 and $6`. */
const isMoney = (inner: string): boolean => /^\s|\s$/.test(inner) || /^[\d.,]+(\s|$)/.test(inner);

/** Longest formula that is typeset; hostile ones would take long. */
const longest = 2000;

function typeset(source: string, display: boolean): HTMLElement | undefined {
  if (source.length > longest) return undefined;
  const element = h(display ? 'div.math' : 'span.math', { role: 'img', 'aria-label': source });
  try {
    katex.render(source, element, {
      displayMode: display,
      output: 'html',
      throwOnError: true,
      trust: false,
      strict: 'ignore',
      maxExpand: 200,
      maxSize: 20,
    });
    return element;
  } catch {
    return undefined; // no formula after all: shown as it is written
  }
}

/** A regular expression with `g` remembers where it stopped; this one does not. */
const anyFormula = new RegExp(formula.source);

/** Opening delimiters without an end make the search quadratic: longer texts are shown as they are. */
const longestText = 20_000;

export const hasMath = (text: string): boolean => text.length <= longestText && anyFormula.test(text);

/** Text and formulas in their order. */
export function mathText(text: string): (Node | string)[] {
  if (text.length > longestText) return [text];
  const parts: (Node | string)[] = [];
  let end = 0;
  for (const match of text.matchAll(formula)) {
    const [whole, dollars, brackets, parentheses, dollar, boxed] = match;
    if (dollar !== undefined && isMoney(dollar)) continue;
    const display = dollars !== undefined || brackets !== undefined;
    const node = typeset(dollars ?? brackets ?? parentheses ?? dollar ?? boxed ?? '', display);
    if (node === undefined) continue;
    parts.push(text.slice(end, match.index), node);
    end = match.index + whole.length;
  }
  parts.push(text.slice(end));
  return parts;
}

/** HTML without a library: a template tag that escapes everything put into it, unless it is HTML already. */

export class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

type Part = Html | string | number | undefined | readonly Part[];

const escapes: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text as it is safe between tags and in quoted attributes; control characters become visible. */
export const escapeHtml = (text: string): string =>
  text
    .replace(/[&<>"']/g, (c) => escapes[c]!)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones to get rid of
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, '\ufffd');

function render(part: Part): string {
  if (part === undefined) return '';
  if (part instanceof Html) return part.text;
  if (typeof part === 'object') return part.map(render).join('');
  return escapeHtml(String(part));
}

/** html`<p>${text}</p>`: strings and numbers are escaped, Html and lists of it are put in as they are. */
export function html(strings: TemplateStringsArray, ...parts: Part[]): Html {
  return new Html(strings.reduce((all, string, i) => all + render(parts[i - 1]) + string));
}

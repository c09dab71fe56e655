/** Text in HTML. */

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

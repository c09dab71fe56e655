/**
 * Where the first complete answer of a response ends, for `--stop-at-answer`. Conservative: what is not surely
 * complete is not, so that decoding goes on. What is complete stays so whatever comes after it.
 */

/** A number as running text has it, or a formula on one line. */
const value = String.raw`(?:[$€£]?[-+−]?\d[\d,]*(?:\.\d+)?(?:\s?\\?%)?|\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\))`;
/** "the answer is 42." with white space after it: "3.14" may still be under way at "3.". */
const sentence = new RegExp(
  String.raw`\banswer\s{1,4}is\s{0,4}:?\s{0,4}(?:\*\*)?\s{0,4}${value}(?:\*\*)?\.(?:\*\*)?(?=\s)`,
  'i',
);
/** "#### 42" and the end of its line; a heading has words. */
const hashes = /####[^\S\n]{0,8}[-+−$€£.]?[^\S\n]{0,8}[\d\\.][^\n]*(?=\n)/;
/** The same at the end of a text. */
const sentenceAtEnd = new RegExp(sentence.source.replace('(?=\\s)', '(?=\\s|$)'), 'i');
const hashesAtEnd = /####[^\S\n]{0,8}[-+−$€£.]?[^\S\n]{0,8}[\d\\.][^\n]*(?=\n|$)/;

const boxCommand = /\\(?:boxed|fbox)\s{0,8}\{/g;

/** End of the first box whose braces close around something; -1 where there is none, or an earlier one is open. */
function boxEnd(text: string): number {
  boxCommand.lastIndex = 0;
  for (let match = boxCommand.exec(text); match !== null; match = boxCommand.exec(text)) {
    const start = boxCommand.lastIndex;
    let depth = 1;
    let at = start;
    for (; at < text.length && depth > 0; at++) {
      const code = text.charCodeAt(at);
      if (code === 0x5c) at++;
      else if (code === 0x7b) depth++;
      else if (code === 0x7d) depth--;
    }
    if (depth > 0) return -1;
    if (text.slice(start, at - 1).trim() !== '') return at;
    boxCommand.lastIndex = at;
  }
  return -1;
}

const endOf = (pattern: RegExp, text: string): number => {
  const match = pattern.exec(text);
  return match === null ? -1 : match.index + match[0].length;
};

/**
 * Offset where the first complete answer ends: a `\boxed{...}` whose braces are closed, `#### n` and the end of its
 * line, or "the answer is n." and what follows it; undefined where there is none.
 * @param ended nothing follows the text, so that its end ends a line and a sentence too.
 */
export function firstCompletedAnswer(
  text: string,
  { ended = false }: { ended?: boolean } = {},
): number | undefined {
  const ends = [
    text.includes('\\') ? boxEnd(text) : -1,
    text.includes('####') ? endOf(ended ? hashesAtEnd : hashes, text) : -1,
    endOf(ended ? sentenceAtEnd : sentence, text),
  ].filter((end) => end >= 0);
  return ends.length === 0 ? undefined : Math.min(...ends);
}

import { once } from 'node:events';
import { jsonLines, textLines, textLinesOfFile } from '../../data/json-lines.js';
import { CftError } from '../../index.js';
import { resolveOptions } from '../../options.js';
import { createVerifier } from '../../verify/verifier.js';
import type { CommandFunction } from '../program.js';

/** A field that a line must have, as text. */
function textOf(value: Record<string, unknown>, field: string, where: string): string {
  const found = value[field];
  if (typeof found === 'string') return found;
  if (typeof found === 'number' && Number.isFinite(found)) return String(found);
  const names = Object.keys(value).join(', ') || 'no fields';
  throw new CftError(
    'ERR_CFT_BAD_DATA',
    `${where}: expected text in the field "${field}", found ${
      found === undefined ? `only ${names}` : JSON.stringify(found)
    }`,
  );
}

export const verifyCommand: CommandFunction = async (given, { signal, worked }) => {
  const { data, answerField, verifier: name } = resolveOptions('verify', given);
  const verifier = await createVerifier(name);
  const source = data ?? 'standard input';
  const lines =
    data === undefined ? textLines(process.stdin, source, { signal }) : textLinesOfFile(data, { signal });
  for await (const { line, value } of jsonLines(lines, source)) {
    const where = `${source}:${line}`;
    const prediction = textOf(value, 'prediction', where);
    const answer = textOf(value, answerField, where);
    const id = String(value.id ?? line);
    const question = typeof value.question === 'string' ? value.question : '';
    const verdict = await verifier(prediction, { id, question, answer, tokenIds: new Int32Array(0) });
    const { correct, extracted } = typeof verdict === 'boolean' ? { correct: verdict } : verdict;
    const record = { ...value, correct: correct === true, extracted: extracted ?? null };
    worked();
    if (!process.stdout.write(`${JSON.stringify(record)}\n`)) await once(process.stdout, 'drain');
  }
};

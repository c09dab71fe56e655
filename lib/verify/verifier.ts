/** The verifiers that `--verifier` and the `verifier` option name: builtin, exact, regex, or a JavaScript file. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';
import { CftError } from '../errors.js';
import type { Verification, Verifier } from '../types.js';
import { firstCompletedAnswer } from './completed.js';
import { verify } from './index.js';

/** A verifier that may also say which answer it read. */
export interface DetailedVerifier {
  (
    ...parameters: Parameters<Verifier>
  ): boolean | Partial<Verification> | Promise<boolean | Partial<Verification>>;
  completed?: Verifier['completed'];
}

const builtin: DetailedVerifier = (text, { answer, question }) => verify(text, answer, { question });
builtin.completed = (text) => firstCompletedAnswer(text) !== undefined;

/** A pattern that backtracks for longer than this is taken not to match. */
const regexMilliseconds = 100;

/** The whole text is the gold answer, but for white space around it. */
const exact: DetailedVerifier = (text, { answer }) => {
  const extracted = text.trim();
  return { correct: extracted === answer.trim(), extracted };
};

/**
 * The gold answer is a JavaScript regular expression, `pattern` or `/pattern/flags`, which is searched in the text.
 * It runs in a context of its own because only there can a catastrophic pattern be stopped.
 */
function regexVerifier(): DetailedVerifier {
  const context = vm.createContext({});
  const script = new vm.Script('new RegExp(source, flags).exec(text)?.[0] ?? null');
  return (text, { id, answer }) => {
    const literal = /^\/(.+)\/([dgimsuvy]*)$/s.exec(answer);
    const [source, flags] = literal ? [literal[1] as string, literal[2] as string] : [answer, ''];
    try {
      new RegExp(source, flags);
    } catch (error) {
      throw new CftError(
        'ERR_CFT_BAD_DATA',
        `question ${id}: field "answer": expected a regular expression, found ${JSON.stringify(answer)} (${(error as Error).message})`,
        { cause: error },
      );
    }
    Object.assign(context, { source, flags, text });
    try {
      const found = script.runInContext(context, { timeout: regexMilliseconds }) as string | null;
      return found === null ? { correct: false } : { correct: true, extracted: found };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') return { correct: false };
      throw error;
    }
  };
}

async function fileVerifier(file: string): Promise<DetailedVerifier> {
  let module: { default?: unknown };
  try {
    module = await import(pathToFileURL(resolve(file)).href);
  } catch (error) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `verifier ${file} cannot be loaded: ${(error as Error).message}`,
      {
        cause: error,
      },
    );
  }
  const own = module.default;
  if (typeof own !== 'function') {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `verifier ${file}: expected a function (text, { id, question, answer, tokenIds }) => boolean as default export, found ${own === undefined ? 'none' : typeof own}`,
    );
  }
  const verifier: DetailedVerifier = async (text, context) => {
    let result: unknown;
    try {
      result = await own(text, context);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new CftError('ERR_CFT_VERIFIER', `verifier ${file} threw: ${message}`, { cause: error });
    }
    const correct = typeof result === 'object' && result !== null ? (result as Verification).correct : result;
    if (typeof correct !== 'boolean') {
      throw new CftError(
        'ERR_CFT_VERIFIER',
        `verifier ${file}: expected true or false, found ${correct === null ? 'null' : typeof correct}`,
      );
    }
    return result as boolean | Partial<Verification>;
  };
  verifier.completed = (own as Verifier).completed;
  return verifier;
}

/**
 * The verifier that `spec` names; a function is taken as it is.
 *
 * @throws CftError ERR_CFT_BAD_OPTION where there is no such verifier or the file cannot be loaded. The verifier itself
 *   throws ERR_CFT_VERIFIER naming the file where the user's code throws, and ERR_CFT_BAD_DATA where a gold answer is
 *   no regular expression.
 */
export async function createVerifier(spec: string | Verifier): Promise<DetailedVerifier> {
  if (typeof spec === 'function') return spec;
  if (spec === 'builtin') return builtin;
  if (spec === 'exact') return exact;
  if (spec === 'regex') return regexVerifier();
  if (!existsSync(spec)) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `verifier (--verifier): expected builtin, exact, regex or a JavaScript file, found "${spec}" and no such file`,
    );
  }
  return fileVerifier(spec);
}

/** The user's word, checked: a promise would be taken for "complete" at the first token. */
function checkedCompletion(
  completed: NonNullable<Verifier['completed']>,
  name: string,
): (text: string) => boolean {
  const fail = (what: string, cause?: unknown): never => {
    throw new CftError('ERR_CFT_VERIFIER', `verifier ${name}: completed${what}`, { cause });
  };
  return (text) => {
    let result: unknown;
    try {
      result = completed(text);
    } catch (error) {
      return fail(` threw: ${error instanceof Error ? error.message : String(error)}`, error);
    }
    if (typeof result === 'boolean') return result;
    return fail(`: expected true or false, found ${result === null ? 'null' : typeof result}`);
  };
}

/**
 * What says that a response has its answer, where responses are to end there.
 * @throws CftError ERR_CFT_BAD_OPTION where the verifier does not say. What is returned throws ERR_CFT_VERIFIER where
 *   the user's code throws or answers neither true nor false.
 */
export function completionOf(
  verifier: DetailedVerifier,
  { stopAtAnswer, verifier: name }: { stopAtAnswer: boolean; verifier: string },
): ((text: string) => boolean) | undefined {
  if (!stopAtAnswer) return undefined;
  const { completed } = verifier;
  if (typeof completed === 'function') return checkedCompletion(completed, name);
  throw new CftError(
    'ERR_CFT_BAD_OPTION',
    `stopAtAnswer (--stop-at-answer): expected a verifier that says when an answer is complete, found ${name} without ` +
      'a property completed(text) => boolean; add one (docs/verifier.md), or use --verifier builtin',
  );
}

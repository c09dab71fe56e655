/** Plain data that crosses module borders. Files use snake_case for the same names (see spec of the file formats). */

export interface Question {
  id: string;
  question: string;
  /** Gold answer as given: a bare answer, a GSM8K solution (`#### 42`) or a MATH solution (`\boxed{...}`). */
  answer: string;
}

export type Verdict = 'correct' | 'incorrect' | 'truncated';

/** What a verifier sees beside the text. `tokenIds` has no end token. */
export interface VerifierContext {
  id: string;
  question: string;
  answer: string;
  tokenIds: Int32Array;
}

/** Decides whether a response is right. `text` has no special tokens. */
export interface Verifier {
  (text: string, context: VerifierContext): boolean | Promise<boolean>;
  /**
   * Whether a response has its whole answer, so that `stopAtAnswer` may end it there. Once true for a text it must be
   * true for every longer one.
   */
  completed?: ((text: string) => boolean) | undefined;
}

/** Result of `verify(prediction, answer)`. */
export interface Verification {
  correct: boolean;
  /** The answer found in the prediction; undefined when none was found. */
  extracted: string | undefined;
  /** The gold answer in its normal form. */
  expected: string;
  /** How the two were compared: 'text', 'number', 'choice', 'exact', 'none', ... */
  method: string;
}

/** One alternative of one position and the verdict of its counterfactual rollout. */
export interface AlternativeRecord {
  /** Position in the response, from 0. */
  position: number;
  /** Rank under the model, 2 is the most probable token other than the response's own. */
  rank: number;
  token_id: number;
  logprob: number;
  verdict: Verdict;
  /** Answer that the verifier read in the counterfactual response; absent when none was found. */
  extracted?: string;
  /** The counterfactual continuation after the alternative, only with `keepRollouts`. */
  continuation?: string;
}

/** One line of annotations.jsonl. */
export interface AnnotationRecord {
  id: string;
  question: string;
  answer: string;
  response: string;
  prompt_token_ids: number[];
  /** Without the end token (unless `includeEos`). */
  response_token_ids: number[];
  end_token_id: number;
  /** log p(response token | prefix), one per response token, four decimals. */
  logprobs: number[];
  /** 1 where the position is critical; absent where `token_weights` is given instead. */
  critical_mask?: number[];
  /** Weight of each response token's loss and, optionally, one more for the end token. */
  token_weights?: number[];
  alternatives: AlternativeRecord[];
  rollouts: number;
}

/** One line of responses.jsonl: a trunk and its verdict. */
export interface ResponseRecord {
  id: string;
  question: string;
  answer: string;
  response: string;
  prompt_token_ids: number[];
  response_token_ids: number[];
  /** -1 where the response ran to the token limit. */
  end_token_id: number;
  verdict: Verdict;
  extracted?: string;
}

/** annotations.meta.json. */
export interface AnnotationsMeta {
  format: 'cft-annotations/1';
  model: string;
  weights_sha256: string;
  tokenizer_sha256: string;
  options: Record<string, unknown>;
  questions: number;
  correct: number;
  /** Responses that ran to the token limit. */
  truncated_responses: number;
  tokens: number;
  critical_tokens: number;
  critical_share: number;
  unjudged: number;
  complete: boolean;
  rollouts: number;
  truncated_rollouts: number;
  /** Rollouts that the waves made needless. */
  rollouts_saved: number;
  /** Estimate, from the mean length of the rollouts; absent in files of earlier versions. */
  saved_tokens?: number;
  /** Share of the rank-2 rollouts that were correct. */
  p2: number;
  /** Responses and recorded rollouts that were ended where their answer was complete. */
  stopped_responses: number;
  stopped_rollouts: number;
  /** Draft tokens tried and accepted; tokens of rollouts started early that turned out needless. These depend on timing. */
  drafted_tokens: number;
  accepted_tokens: number;
  wasted_tokens: number;
  decoded_tokens: number;
  seconds: number;
  cft_native: string;
  libtorch: string;
  device: string;
}

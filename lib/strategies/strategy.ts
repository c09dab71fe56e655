/** A training strategy is one rule: which tokens of a response carry loss, and how much. */
import type { AnnotationRecord } from '../types.js';

export interface Strategy {
  /** One line for help and reports. */
  describe: string;
  /**
   * Weight of the loss of each response token, in the order of `response_token_ids`; 0 = not trained. One more
   * number, where there is one, is the weight of `end_token_id` after the response.
   */
  weights(record: AnnotationRecord): readonly number[];
}

import { CftError } from '../errors.js';
import type { Strategy } from './strategy.js';

/**
 * Critical Token Fine-tuning (arXiv 2510.10974): only the critical tokens are trained, each with weight 1. A record
 * may bring weights of its own instead of a mask (the graded rule, or another tool).
 */
export const cft: Strategy = {
  describe: 'critical tokens only',
  weights(record) {
    const weights = record.token_weights ?? record.critical_mask;
    if (weights === undefined) {
      throw new CftError(
        'ERR_CFT_BAD_DATA',
        `annotation ${record.id}: expected critical_mask or token_weights, found neither`,
      );
    }
    return weights;
  },
};

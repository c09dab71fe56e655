import type { Strategy } from './strategy.js';

/** Supervised fine-tuning: every token of the response and the end token, as everybody's SFT does. */
export const sft: Strategy = {
  describe: 'every token of the response, and its end',
  weights(record) {
    const ids = record.response_token_ids;
    // Annotated with --include-eos, the end token is the response's last.
    const hasEnd = ids.length > 0 && ids[ids.length - 1] === record.end_token_id;
    const end = record.end_token_id >= 0 && !hasEnd ? 1 : 0;
    return new Array<number>(ids.length + end).fill(1);
  },
};

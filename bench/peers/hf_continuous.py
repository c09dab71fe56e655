"""Hugging Face continuous batching (`generate_batch`): a paged cache, prefixes shared block by block.

Run by `cft-native bench rollouts --peer hf-continuous`; see requirements.txt for what it needs.
"""

import time

started = time.perf_counter()
from side import generation_config, load, prefix_of, serve  # noqa: E402

PAGE = 32  # tokens; the default of 256 is too long for prefixes of this length to be shared

job, model = load("sdpa")
from transformers import ContinuousBatchingConfig  # noqa: E402

settings = {"page_size": PAGE, "allow_block_sharing": True}
if model.device.type == "cpu":
    # Both are worked out from the memory of a GPU otherwise.
    longest = max(rollout["length"] + 1 + rollout["max_new_tokens"] for rollout in job["rollouts"])
    requests = min(64, len(job["rollouts"]))
    settings |= {
        "num_blocks": requests * (longest // PAGE + 2),
        "max_batch_tokens": 512,
        "max_requests_per_batch": requests,
    }


def decode(rollouts):
    prefixes = [prefix_of(job, rollout) for rollout in rollouts]
    config = generation_config(job, max(rollout["max_new_tokens"] for rollout in rollouts))
    results = model.generate_batch(
        inputs=prefixes,
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(**settings),
        progress_bar=False,
    )
    outputs = list(results.values())
    if len(outputs) != len(prefixes):
        raise RuntimeError(f"generate_batch: expected {len(prefixes)} results, found {len(outputs)}")
    failed = next((output.error for output in outputs if output.error), None)
    if failed:
        raise RuntimeError(f"generate_batch: {failed}")
    return [output.generated_tokens for output in outputs]


serve(job, model, f"generate_batch, pages of {PAGE} tokens", decode, started)

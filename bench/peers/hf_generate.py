"""Hugging Face `generate`, as a user would write it: batches of 64 prompts sorted by length, padded on the left.

Run by `cft-native bench rollouts --peer hf-generate`; see requirements.txt for what it needs.
"""

import time

started = time.perf_counter()
from side import generation_config, load, prefix_of, serve  # noqa: E402

BATCH = 64

job, model = load()
import torch  # noqa: E402


def decode(rollouts):
    prefixes = [prefix_of(job, rollout) for rollout in rollouts]
    order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
    decoded = [None] * len(prefixes)
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        width = max(len(prefixes[i]) for i in batch)
        config = generation_config(job, max(rollouts[i]["max_new_tokens"] for i in batch))
        ids = torch.full((len(batch), width), config.pad_token_id)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, i in enumerate(batch):
            ids[row, width - len(prefixes[i]) :] = torch.tensor(prefixes[i])
            mask[row, width - len(prefixes[i]) :] = 1
        output = model.generate(
            ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
        for row, i in enumerate(batch):
            decoded[i] = output[row, width:].tolist()
    return decoded


# With fewer rollouts, as with --peer-every, that is the batch.
batch = min(BATCH, len(job["rollouts"]))
serve(job, model, f"batch {batch}, sorted by length", decode, started)

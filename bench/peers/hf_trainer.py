"""Plain transformers `Trainer`: padded batches, logits of every position.

Run by `cft-native bench train --peer transformers`; see requirements-train.txt for what it needs.
"""

import tempfile

from train_side import arguments_of, examples_of, run


def make_trainer(job, model, mixin, clock):
    import torch
    from transformers import Trainer, TrainingArguments

    class Own(mixin, Trainer):
        pass

    def collate(rows):
        width = max(len(row["input_ids"]) for row in rows)
        pad = lambda values, fill: values + [fill] * (width - len(values))  # noqa: E731
        return {
            "input_ids": torch.tensor([pad(row["input_ids"], 0) for row in rows]),
            "labels": torch.tensor([pad(row["labels"], -100) for row in rows]),
            "attention_mask": torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in rows]),
        }

    return Own(
        model=model,
        args=TrainingArguments(**arguments_of(job, tempfile.mkdtemp())),
        train_dataset=examples_of(job),
        data_collator=collate,
        callbacks=[clock],
    )


run(["transformers", "accelerate"], "padded batches", make_trainer)

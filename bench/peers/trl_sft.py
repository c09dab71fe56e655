"""TRL's SFTTrainer on pre-tokenized sequences: `nll`, its default, which skips masked rows in chunks. With `packing`
several sequences become one row; its batches are then other ones, so that its losses do not compare. With
`checkpointing`, TRL's default, a layer's activations are computed again in the backward pass.

Run by `cft-native bench train --peer trl,trl-packing,trl-checkpointing`; see requirements-train.txt for what it needs.
"""

import sys
import tempfile

from train_side import arguments_of, examples_of, run

packing = "packing" in sys.argv[2:]
checkpointing = "checkpointing" in sys.argv[2:]


def make_trainer(job, model, mixin, clock):
    import transformers
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class Own(mixin, SFTTrainer):
        pass

    rows = examples_of(job)
    arguments = arguments_of(job, tempfile.mkdtemp()) | {"gradient_checkpointing": checkpointing}
    if packing:
        # One packed row holds as many tokens as a padded batch of the others has at most.
        longest = max(len(row["input_ids"]) for row in rows)
        # One pass over the packed rows, however many they are: the same tokens as the others.
        arguments |= {
            "packing": True,
            "max_length": longest * job["batch_size"],
            "per_device_train_batch_size": 1,
            "max_steps": -1,
            "num_train_epochs": 1,
        }
    else:
        arguments |= {"max_length": None}
    return Own(
        model=model,
        args=SFTConfig(**arguments, dataset_num_proc=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(job["tokenizer"]),
        callbacks=[clock],
    )


setting = ("packing" if packing else "padded batches") + (", gradient checkpointing" if checkpointing else "")
run(["transformers", "accelerate", "trl"], setting, make_trainer)

"""Writes a checkpoint's weights, in bfloat16, and its configuration into the folder of the embedded model.

    python export.py CHECKPOINT FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM


def main(checkpoint: Path, folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model.config.vocab_size != len(tokenizer):
        raise SystemExit(f"{checkpoint} has {model.config.vocab_size} embeddings for {len(tokenizer)} tokens")
    model.save_pretrained(folder)
    generation = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

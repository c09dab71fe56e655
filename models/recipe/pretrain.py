"""Trains the embedded model on a corpus of questions and solutions (models/README.md has the commands).

    python pretrain.py CORPUS.jsonl OUTPUT --tokenizer FOLDER --steps N [--start CHECKPOINT] [--rate-scale X]

Only the tokens of the solutions are trained. Warm-up, a constant rate, then a linear decay over the last
part of the run. A checkpoint is written into OUTPUT now and then, so that the run may be stopped.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from muon import Muon
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

BATCH_SIZE = 32
POOL = 32  # batches that are sorted by length together, so that little is padded
MUON_RATE = 0.02
ADAM_RATE = 0.005
WARMUP_STEPS = 30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--start", type=Path, help="a checkpoint; without it the weights are random")
    parser.add_argument("--rate-scale", type=float, default=1.0)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps that decay the rate")
    parser.add_argument("--checkpoint-every", type=int, default=200)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    batches = read_batches(arguments.corpus, tokenizer, arguments.steps)
    model = LlamaForCausalLM.from_pretrained(arguments.start) if arguments.start else new_model(tokenizer)
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters", flush=True)

    matrices = [parameter for name, parameter in model.named_parameters() if name.endswith("proj.weight")]
    others = [parameter for name, parameter in model.named_parameters() if not name.endswith("proj.weight")]
    optimizers = [
        Muon(matrices, lr=MUON_RATE, weight_decay=0.02),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    base_rates = [MUON_RATE * arguments.rate_scale, ADAM_RATE * arguments.rate_scale]

    start = time.time()
    average = 0.0
    for step, (ids, labels) in enumerate(batches):
        factor = schedule(step, arguments.steps, arguments.decay)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer, rate in zip(optimizers, base_rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average += (loss.item() - average) / min(step + 1, 20)
        if step % 20 == 0:
            print(f"step {step} loss {average:.4f} {time.time() - start:.0f} s", flush=True)
        if (step + 1) % arguments.checkpoint_every == 0 or step + 1 == arguments.steps:
            model.save_pretrained(arguments.output)


def new_model(tokenizer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def schedule(step: int, steps: int, decay: float) -> float:
    decayed = (steps - step) / (decay * steps) if decay > 0 else 1.0
    return min((step + 1) / WARMUP_STEPS, 1.0, decayed)


def read_batches(corpus: Path, tokenizer, steps: int):
    """`steps` batches of (ids, labels), both (BATCH_SIZE, length), of texts of similar length."""
    order = random.Random(0)
    end = tokenizer.eos_token_id
    with corpus.open() as lines:
        for first in range(0, steps, POOL):
            pool = []
            for line, _ in zip(lines, range(POOL * BATCH_SIZE)):
                record = json.loads(line)
                prompt = tokenizer.encode(f"Q: {record['question']}\nA:")
                response = tokenizer.encode(f" {record['solution']}") + [end]
                pool.append((prompt + response, [-100] * len(prompt) + response))
            if len(pool) < POOL * BATCH_SIZE:
                raise SystemExit(f"{corpus} holds too few texts for {steps} steps")
            pool.sort(key=lambda pair: len(pair[0]))
            starts = list(range(0, len(pool), BATCH_SIZE))
            order.shuffle(starts)
            for start in starts[: steps - first]:
                rows = pool[start : start + BATCH_SIZE]
                length = max(len(ids) for ids, _ in rows)
                ids = torch.tensor([ids + [end] * (length - len(ids)) for ids, _ in rows])
                labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in rows])
                yield ids, labels


if __name__ == "__main__":
    main()

"""Greedy responses of a model to a benchmark's questions by transformers, judged by a plain script: what
`npx tsx bench/evaluation.ts` holds `cft-native eval` against. Nothing of it comes from this package.

    python bench/peers/hf_eval.py MODEL svamp|gsm8k QUESTIONS.jsonl LIMIT MAX_NEW_TOKENS THREADS OURS.jsonl > out.json

Batches of 32 prompts sorted by length, padded on the left. A response that differs from the one in OURS.jsonl (lines with
`response_token_ids`) is looked at where it differs first: how far apart the two most probable tokens' logits are there,
by this script's own forward pass over the one sequence, in double precision.
"""

import json
import re
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, benchmark, path, limit, max_new_tokens, threads, ours = sys.argv[1:]
torch.set_num_threads(int(threads))
transformers.logging.set_verbosity_error()
BATCH = 32
SYSTEM = "You are a helpful assistant."
REQUEST = "\nPlease reason step by step, and put your final answer within \\boxed{}."

started = time.perf_counter()
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
load_seconds = time.perf_counter() - started

with open(path, encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines][: int(limit)]
if benchmark == "svamp":
    bodies = [row["Body"].strip() for row in rows]
    questions = [body + ("" if body.endswith(".") else ".") + " " + row["Question"].strip() for body, row in zip(bodies, rows)]
    golds = [float(row["Answer"]) for row in rows]
else:
    questions = [row["question"].strip() for row in rows]
    golds = [float(row["answer"].rsplit("####", 1)[1].replace(",", "")) for row in rows]

prompts = [
    tokenizer.apply_chat_template(
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question + REQUEST}],
        add_generation_prompt=True,
        tokenize=False,
    )
    for question in questions
]
ids = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
ends = model.generation_config.eos_token_id
ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}


def last_number(text):
    """The number in the last box, else the last one at all."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", boxes[-1] if boxes else text)
    return float(numbers[-1].replace(",", "")) if numbers else None


start = time.perf_counter()
order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
responses = [None] * len(ids)
for first in range(0, len(order), BATCH):
    chosen = order[first : first + BATCH]
    batch = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(
            **batch, max_new_tokens=int(max_new_tokens), do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
    for i, tokens in zip(chosen, output[:, batch["input_ids"].shape[1] :].tolist()):
        stop = next((at for at, token in enumerate(tokens) if token in ends), None)
        responses[i] = tokens[:stop]
seconds = time.perf_counter() - start

texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in responses]
with open(ours, encoding="utf-8") as lines:
    others = [json.loads(line)["response_token_ids"] for line in lines]
model = model.double()
differences = []
for i, (mine, other) in enumerate(zip(responses, others, strict=True)):
    if mine == other:
        continue
    at = next((k for k, (a, b) in enumerate(zip(mine, other)) if a != b), min(len(mine), len(other)))
    with torch.no_grad():
        logits = model(torch.tensor([ids[i] + mine[:at]])).logits[0, -1]
    top = logits.topk(2).values
    differences.append({"question": i, "at": at, "top2_gap": (top[0] - top[1]).item()})

print(
    json.dumps(
        {
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "setting": f"batch {BATCH}, sorted by length",
            "load_seconds": load_seconds,
            "seconds": seconds,
            "tokens": sum(len(tokens) for tokens in responses),
            "correct": [last_number(text) == gold for text, gold in zip(texts, golds)],
            "texts": texts,
            "differences": differences,
        }
    )
)

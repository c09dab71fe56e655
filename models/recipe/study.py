"""Measures a base model, and what SFT, CFT and a random mask make of it, in plain PyTorch.

    python study.py MODEL --questions models/embedded/questions [--train N] [--rates 1e-4 3e-4] [--seeds 0 1]

Tuning evaluates on the validation questions; --split test gives the figures for the README. This script
chose the preset before the product could run; it shares no code with the product.
"""

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

MAX_NEW_TOKENS = 192
SAMPLES = 4


class Study:
    def __init__(self, folder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.end = self.tokenizer.eos_token_id

    def prompt(self, question: str) -> list[int]:
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def is_correct(self, response: list[int], answer: str) -> bool:
        text = self.tokenizer.decode(response, skip_special_tokens=True)
        return response[-1] == self.end and text.rpartition("####")[2].strip() == answer

    @torch.inference_mode()
    def generate(self, model, prompts: list[list[int]], sampled: bool = False) -> list[list[int]]:
        """Responses with their end token, or MAX_NEW_TOKENS tokens without one."""
        responses: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for first in range(0, len(order), 200):
            rows = order[first : first + 200]
            length = max(len(prompts[row]) for row in rows)
            ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, length - len(prompts[row]) :] = torch.tensor(prompts[row])
                mask[place, length - len(prompts[row]) :] = 1
            options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {"do_sample": False}
            output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, **options)
            for place, row in enumerate(rows):
                response = output[place, length:].tolist()
                stop = response.index(self.end) + 1 if self.end in response else len(response)
                responses[row] = response[:stop]
        return responses

    def evaluate(self, model, questions: list[dict], samples: int = SAMPLES) -> dict:
        prompts = [self.prompt(question["question"]) for question in questions]
        greedy = self.generate(model, prompts)
        correct = [self.is_correct(response, question["answer"]) for response, question in zip(greedy, questions)]
        hits = torch.zeros(len(questions))
        distinct: list[set] = [set() for _ in questions]
        for _ in range(samples):
            for index, response in enumerate(self.generate(model, prompts, sampled=True)):
                hits[index] += self.is_correct(response, questions[index]["answer"])
                distinct[index].add(tuple(response))
        return {
            "greedy": round(sum(correct) / len(correct), 4),
            "sampled": round(hits.mean().item() / max(samples, 1), 4),
            f"pass@{samples}": round((hits > 0).float().mean().item(), 4),
            "distinct": round(sum(map(len, distinct)) / max(samples * len(questions), 1), 4),
            "tokens": round(sum(map(len, greedy)) / len(greedy), 1),
            "unfinished": sum(response[-1] != self.end for response in greedy),
        }

    def annotate(self, prompt: list[int], response: list[int], answer: str) -> tuple[list[bool], list[bool]]:
        """Critical positions under the ALL rule with k = 3 (without the end token), and where rank 2 is correct."""
        trunk = prompt + response[:-1]
        with torch.inference_mode():
            output = self.model(input_ids=torch.tensor([trunk]), use_cache=True)
        ranked = output.logits[0].topk(3).indices.tolist()
        positions = range(len(response) - 1)
        alternatives = [
            [token for token in ranked[len(prompt) + position - 1] if token != response[position]][:2]
            for position in positions
        ]

        def judge(chosen: list[int], rank: int) -> list[bool]:
            branches = [(position, alternatives[position][rank]) for position in chosen]
            suffixes = self.branch(output.past_key_values, len(prompt), branches)
            return [
                self.is_correct(response[:position] + suffix, answer) for (position, _), suffix in zip(branches, suffixes)
            ]

        second = judge(list(positions), 0)
        open_positions = [position for position in positions if not second[position]]
        third = dict(zip(open_positions, judge(open_positions, 1)))
        return [not second[position] and not third[position] for position in positions], second

    @torch.inference_mode()
    def branch(self, cache, prompt_length: int, branches: list[tuple[int, int]]) -> list[list[int]]:
        """Greedy continuations, each starting with its forced token; the trunk's keys are read, not copied."""
        decoder = self.model.model
        heads, size = self.model.config.num_attention_heads, self.model.config.head_dim
        suffixes = [[token] for _, token in branches]
        live = torch.tensor([index for index, (_, token) in enumerate(branches) if token != self.end])
        if len(live) == 0:
            return suffixes
        positions = torch.tensor([prompt_length + position for position, _ in branches])[live]
        tokens = torch.tensor([token for _, token in branches])[live]
        trunk = [(layer.keys[0], layer.values[0]) for layer in cache.layers]  # (heads, length, size) each
        hidden = torch.arange(trunk[0][0].size(1)) >= positions[:, None]  # (rows, length)
        own = [(torch.zeros(len(live), heads, MAX_NEW_TOKENS, size), torch.zeros(len(live), heads, MAX_NEW_TOKENS, size)) for _ in trunk]
        for step in range(MAX_NEW_TOKENS):
            x = decoder.embed_tokens(tokens)  # (rows, width)
            cos, sin = decoder.rotary_emb(x, (positions + step)[:, None])
            for layer, (trunk_keys, trunk_values), (keys, values) in zip(decoder.layers, trunk, own):
                normed = layer.input_layernorm(x)
                attention = layer.self_attn
                query, key, value = (
                    projection(normed).view(len(x), heads, 1, size)
                    for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
                )
                query, key = apply_rotary_pos_emb(query, key, cos, sin)
                keys[:, :, step], values[:, :, step] = key[:, :, 0], value[:, :, 0]
                past = (query[:, :, 0].transpose(0, 1) @ trunk_keys.mT).transpose(0, 1)  # (rows, heads, length)
                past = past.masked_fill(hidden[:, None], -math.inf)
                recent = (keys[:, :, : step + 1] @ query.mT)[..., 0]  # (rows, heads, step + 1)
                weights = torch.cat([past, recent], -1).mul(size**-0.5).softmax(-1)
                past, recent = weights.split([past.size(-1), step + 1], -1)
                mixed = (past.transpose(0, 1) @ trunk_values).transpose(0, 1)
                mixed = mixed + (recent[:, :, None] @ values[:, :, : step + 1])[:, :, 0]
                x = x + attention.o_proj(mixed.flatten(1))
                x = x + layer.mlp(layer.post_attention_layernorm(x))
            tokens = self.model.lm_head(decoder.norm(x)).argmax(-1)
            for index, token in zip(live.tolist(), tokens.tolist()):
                suffixes[index].append(token)
            # The trunk's budget ends a branch too.
            going = (tokens != self.end) & (positions + step + 1 < prompt_length + MAX_NEW_TOKENS)
            if not going.any():
                break
            if going.float().mean() < 0.9:
                live, positions, tokens, hidden = live[going], positions[going], tokens[going], hidden[going]
                own = [(keys[going], values[going]) for keys, values in own]
        return [suffix[: suffix.index(self.end) + 1] if self.end in suffix else suffix for suffix in suffixes]

    def train(self, records: list[dict], mode: str, rate: float, seed: int, epochs: int, batch_size: int):
        model = copy.deepcopy(self.model).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
        order = random.Random(seed)
        steps = epochs * math.ceil(len(records) / batch_size)
        warmup = 0.1 * steps
        step = 0
        for _ in range(epochs):
            shuffled = order.sample(records, len(records))
            for first in range(0, len(shuffled), batch_size):
                rows = shuffled[first : first + batch_size]
                ids, labels = self.batch(rows, mode, order)
                factor = (step + 1) / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(factor, 1.0)
                logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
        return model.eval()

    def batch(self, rows: list[dict], mode: str, order: random.Random):
        length = max(len(row["prompt"]) + len(row["response"]) for row in rows)
        ids = torch.full((len(rows), length), self.end)
        labels = torch.full_like(ids, -100)
        for place, row in enumerate(rows):
            prompt, response, critical = row["prompt"], row["response"], row["critical"]
            ids[place, : len(prompt) + len(response)] = torch.tensor(prompt + response)
            chosen = {
                "sft": range(len(response)),
                "cft": [position for position, flag in enumerate(critical) if flag],
                "random": order.sample(range(len(critical)), sum(critical)),
            }[mode]
            for position in chosen:
                labels[place, len(prompt) + position] = response[position]
        return ids, labels


def read(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--train", type=int, default=0, help="training questions; 0 measures the base only")
    parser.add_argument("--evaluate", type=int, default=400, help="questions of the split, at most")
    parser.add_argument("--rates", type=float, nargs="*", default=[3e-4])
    parser.add_argument("--modes", nargs="*", default=["sft", "cft", "random"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--records", type=Path, help="keeps the annotations, or reads them where it exists")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    study = Study(arguments.model)
    questions = read(arguments.questions, arguments.split)[: arguments.evaluate]
    print("base", study.evaluate(study.model, questions, arguments.samples), flush=True)
    if arguments.train == 0:
        return
    if arguments.records and arguments.records.exists():
        records = json.loads(arguments.records.read_text())
    else:
        records = annotate(study, read(arguments.questions, "train")[: arguments.train])
        if arguments.records:
            arguments.records.write_text(json.dumps(records))
    for rate in arguments.rates:
        for mode in arguments.modes:
            for seed in arguments.seeds:
                model = study.train(records, mode, rate, seed, arguments.epochs, arguments.batch_size)
                print(mode, rate, seed, study.evaluate(model, questions, arguments.samples), flush=True)


def annotate(study: Study, questions: list[dict]) -> list[dict]:
    prompts = [study.prompt(question["question"]) for question in questions]
    responses = study.generate(study.model, prompts)
    records = []
    second_correct = 0
    start = time.time()
    for question, prompt, response in zip(questions, prompts, responses):
        if study.is_correct(response, question["answer"]):
            critical, second = study.annotate(prompt, response, question["answer"])
            second_correct += sum(second)
            records.append({"prompt": prompt, "response": response, "critical": critical})
            if len(records) <= 4:
                marked = [f"[{study.tokenizer.decode([token])}]" if flag else study.tokenizer.decode([token]) for token, flag in zip(response, critical)]
                print("".join(marked), flush=True)
    tokens = sum(len(record["critical"]) for record in records)
    share = sum(sum(record["critical"]) for record in records) / tokens
    print(
        f"{len(records)} of {len(questions)} correct, {tokens / len(records):.1f} tokens each, critical share {share:.3f}, "
        f"rank 2 correct at {second_correct / tokens:.3f} of the positions, {time.time() - start:.0f} s",
        flush=True,
    )
    return records


if __name__ == "__main__":
    main()

"""What the Python peers of `cft-native bench` share: the job, and the lines of JSON that lib/bench/protocol.ts defines."""

import json
import os
import sys
import time

# Libraries print what they like on standard output; the harness reads only what `say` writes.
_replies = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def say(message):
    _replies.write(json.dumps(message) + "\n")


def absent(reason):
    say({"type": "absent", "reason": reason})
    sys.exit(0)


def load(attention=None):
    """The job, and its model in the job's dtype on the job's device."""
    with open(sys.argv[1], encoding="utf8") as file:
        job = json.load(file)
    try:
        import torch
        import transformers
    except ImportError as error:
        absent(f"{sys.executable} has no {error.name}")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        absent("this torch sees no GPU")
    kind = {"dtype": getattr(torch, job["dtype"])}
    if attention:
        kind["attn_implementation"] = attention
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], **kind).to(device).eval()
    return job, model


def generation_config(job, max_new_tokens):
    from transformers import GenerationConfig

    ends = job["end_token_ids"]
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )


def prefix_of(job, rollout):
    return job["trunks"][rollout["trunk"]][: rollout["length"]] + [rollout["forced_token"]]


def until_end(tokens, ends):
    """Decoded tokens without the end token and what was padded after it, and the end token (-1: none)."""
    for i, token in enumerate(tokens):
        if token in ends:
            return [tokens[:i], token]
    return [tokens, -1]


def serve(job, model, setting, decode, started):
    """Answers requests until standard input closes. decode(rollouts) gives a list of token lists in their order."""
    import torch
    import transformers

    say(
        {
            "type": "ready",
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": sys.version.split()[0],
            },
            "dtype": str(model.dtype).removeprefix("torch."),
            "setting": setting,
            "load_seconds": time.perf_counter() - started,
        }
    )
    ends = set(job["end_token_ids"])
    for line in sys.stdin:
        request = json.loads(line)
        rollouts = job["rollouts"][: request["count"]]
        start = time.perf_counter()
        decoded = decode(rollouts)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        with open(request["results"], "w", encoding="utf8") as file:
            json.dump([until_end(tokens, ends) for tokens in decoded], file)
        say({"type": "result", "seconds": seconds})

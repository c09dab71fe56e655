"""What the trainers beside `cft-native bench train` share; lib/bench/train-protocol.ts defines the job and the lines."""

import json
import sys
import time

from side import absent, say


def read_job():
    with open(sys.argv[1], encoding="utf8") as file:
        return json.load(file)


def examples_of(job):
    """Token ids, and labels as transformers wants them: -100 where nothing is trained."""
    rows = []
    for sequence in job["sequences"]:
        tokens = sequence["token_ids"]
        labels = [-100] * len(tokens)
        for position in sequence["selected"]:
            labels[position + 1] = tokens[position + 1]
        rows.append({"input_ids": tokens, "labels": labels})
    return [rows[i] for step in job["steps"] for i in step]


def arguments_of(job, folder):
    """The same for transformers' and TRL's trainers; what they add stays at their defaults."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job["batch_size"],
        "max_steps": len(job["steps"]),
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": job["max_grad_norm"],
        "bf16": job["dtype"] == "bfloat16",  # fp32 masters under autocast
        "gradient_checkpointing": False,
        "use_cpu": job["device"] == "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 1,
    }


def run(packages, setting, make_trainer):
    """Loads, says ready, trains when it is asked to. make_trainer(job, model, Mixin, callback) gives a trainer."""
    started = time.perf_counter()
    job = read_job()
    try:
        import torch
        import transformers

        versions = {name: __import__(name).__version__ for name in packages}
    except ImportError as error:
        absent(f"{sys.executable} has no {error.name}")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(job["threads"])
    if job["device"].startswith("cuda") and not torch.cuda.is_available():
        absent("this torch sees no GPU")
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    losses, seconds = [], []

    class Mixin:
        """Batches in the job's order, and each step's loss unrounded."""

        def _get_train_sampler(self, *_, **__):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.item())
            return loss

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.start)

    trainer = make_trainer(job, model, Mixin, Clock())
    say(
        {
            "type": "ready",
            "versions": {"torch": torch.__version__, **versions, "python": sys.version.split()[0]},
            "dtype": job["dtype"],
            "setting": setting + (", bf16 autocast" if job["dtype"] == "bfloat16" else ""),
            "load_seconds": time.perf_counter() - started,
        }
    )
    sys.stdin.readline()
    trainer.train()
    result = {"type": "result", "step_seconds": seconds, "losses": losses}
    if job["device"].startswith("cuda"):
        result["device_bytes"] = torch.cuda.max_memory_reserved()
    say(result)
    sys.stdin.readline()  # alive until its memory has been read

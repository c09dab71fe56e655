"""Trains the byte-level BPE tokenizer of the embedded model and writes its files.

    python train_tokenizer.py CORPUS.jsonl FOLDER

Digits are single tokens, so that a digit is a position that can be critical. The chat template keeps the
first line of the user's message and drops the system message: questions have one line, and a model of
this size was taught no instructions.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY_SIZE = 640
END = "<|end|>"
PAD = "<|pad|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- 'Q: ' + message['content'].split('\\n')[0] + '\\n' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- 'A: ' + message['content'].strip() + '<|end|>\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'A:' -}}{%- endif -%}"
)


def main(corpus: Path, folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with corpus.open() as lines:
        records = [json.loads(line) for line, _ in zip(lines, range(20_000))]
    texts = (f"Q: {record['question']}\nA: {record['solution']}" for record in records)
    tokenizer.train_from_iterator(texts, trainer)

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "pad_token": PAD,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    lengths = [len(tokenizer.encode(record["solution"]).ids) for record in records[:2000]]
    print(f"{tokenizer.get_vocab_size()} tokens; a solution has {sum(lengths) / len(lengths):.1f} on average")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

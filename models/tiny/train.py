"""Train `tiny` from nothing and write everything that is kept: tokenizer, safetensors original, GGUF for the package.

    python models/tiny/train.py [--steps N] [--peak RATE] [--start DIR] [--threads N] [--out DIR] [--gguf FILE]

No downloads: the text comes from `corpus.py`, the tokenizer is learned from it. One seed fixes data, tokenizer and start weights;
`--start` goes on from a kept original and its tokenizer instead of from nothing. Runs repeat on one machine;
the last bits of the weights may differ between processors, because their matrix kernels add in different orders.
"""

import argparse
import ctypes
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
import torch
from export import mark, write_gguf
from network import Shape, Tiny
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
GGUF = HERE.parent.parent / "src" / "gatehouse" / "models" / "tiny.gguf"
SEED = 20
TOKENIZER_EXAMPLES = 30_000
POOL = 2048  # examples drawn at a time and sorted by length, so that batches need little padding
BATCH_TOKENS = 4096
LENGTH_STEP, LEARNED_STEP = 32, 256  # lengths and counts are rounded to these: few shapes mean few kernels to build and keep
LONGEST = 768
OTHER_SHARE = 0.1  # of the tokens that are not the assistant's, this share is learned too: it teaches the words of the prompts
PEAK, WARMUP, DECAY = 3e-3, 60, 0.05
FRESH, FURTHER = 1, 2  # added to the seed: going on from a start draws other text than the start has seen


def learn_tokenizer(vocab: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting expression, the one llama.cpp calls `gpt-2`."""
    rng = random.Random(SEED)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(corpus.SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (turn.text for _ in range(TOKENIZER_EXAMPLES) for turn in corpus.conversation(rng))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(turns: list[corpus.Turn], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids of a chat and, for each, whether the assistant says it (the closing mark included)."""
    end = mark(tokenizer, "<|end|>")
    ids: list[int] = []
    said: list[bool] = []
    for turn in turns:
        words = tokenizer.encode(turn.text.strip(), add_special_tokens=False).ids
        ids += [mark(tokenizer, f"<|{turn.role}|>"), *words, end]
        said += [False, *[turn.role == "assistant"] * (len(words) + 1)]
    return ids, said


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless fresh batches: ids (rows, length) and the positions whose next token is learned (rows, length - 1)."""
    rng = random.Random(seed)
    pad = mark(tokenizer, "<|pad|>")
    while True:
        pool = [encode(corpus.conversation(rng), tokenizer) for _ in range(POOL)]
        pool = sorted((item for item in pool if len(item[0]) <= LONGEST), key=lambda item: len(item[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for item in pool:
            if groups[-1] and len(item[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(item)
        rng.shuffle(groups)
        for group in groups:
            length = -(-max(len(ids) for ids, _ in group) // LENGTH_STEP) * LENGTH_STEP
            ids = torch.full((len(group), length), pad)
            learned = torch.zeros((len(group), length), dtype=torch.bool)
            for row, (tokens, said) in enumerate(group):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                learned[row, : len(tokens)] = torch.tensor([mine or rng.random() < OTHER_SHARE for mine in said])
            yield ids, learned[:, 1:]


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: a short climb, then a cosine down to a hundredth of the peak."""
    warmup = min(WARMUP, steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def train(network: Tiny, tokenizer: Tokenizer, steps: int, peak: float, seed: int) -> None:
    """AdamW over fresh batches; matrices decay, norms do not."""
    matrices = [w for w in network.parameters() if w.ndim == 2]
    norms = [w for w in network.parameters() if w.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    began, tokens, smooth = time.monotonic(), 0, 0.0
    for step, (ids, learned) in zip(range(steps), batches(tokenizer, seed), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, peak)
        chosen = learned.flatten().nonzero().squeeze(1)
        chosen = chosen[: max(LEARNED_STEP, len(chosen) // LEARNED_STEP * LEARNED_STEP)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network.logits(network(ids[:, :-1]).flatten(0, 1)[chosen])
        loss = functional.cross_entropy(logits.float(), ids[:, 1:].flatten()[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        tokens += ids.numel()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if step % 10 == 0 or step == steps - 1:
            spent = time.monotonic() - began
            print(f"step {step:5d}  loss {smooth:.3f}  {tokens / spent:,.0f} tokens/s  {spent:,.0f} s", flush=True)


def save(network: Tiny, tokenizer: Tokenizer, out: Path, gguf: Path) -> None:
    """Write the original (fp16, loads as a Hugging Face Llama) and the GGUF made from the very same fp16 values."""
    pad, end = mark(tokenizer, "<|pad|>"), mark(tokenizer, "<|end|>")
    out.mkdir(parents=True, exist_ok=True)
    gguf.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().to(torch.float16).contiguous() for name, weight in network.named_parameters()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save(str(out / "tokenizer.json"))
    dumped = {
        "config.json": network.shape.config(pad, end),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<|pad|>",
            "eos_token": "<|end|>",
            "model_max_length": network.shape.context,
            "chat_template": corpus.TEMPLATE,
        },
    }
    for name, content in dumped.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    arrays: dict[str, np.ndarray] = {name: weight.float().numpy() for name, weight in weights.items()}
    write_gguf(gguf, arrays, network.shape, tokenizer, corpus.TEMPLATE)


def keep_memory() -> None:
    """Ask glibc to keep freed memory: else half of the time goes into giving pages back and asking for them again."""
    trim_threshold, mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def main() -> None:
    """Read the options, train, save, and say what came out."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--peak", type=float, default=PEAK)
    options.add_argument("--start", type=Path, default=None)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--out", type=Path, default=HERE)
    options.add_argument("--gguf", type=Path, default=GGUF)
    chosen = options.parse_args()
    keep_memory()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(SEED)
    shape = Shape()
    network = Tiny(shape)
    if chosen.start is None:
        tokenizer = learn_tokenizer(shape.vocab)
    else:
        tokenizer = Tokenizer.from_file(str(chosen.start / "tokenizer.json"))
        network.load_state_dict({name: weight.float() for name, weight in load_file(chosen.start / "model.safetensors").items()})
    if tokenizer.get_vocab_size() != shape.vocab:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, not {shape.vocab}")
    print(f"{sum(w.numel() for w in network.parameters()):,} parameters", flush=True)
    train(network, tokenizer, chosen.steps, chosen.peak, SEED + (FRESH if chosen.start is None else FURTHER))
    save(network, tokenizer, chosen.out, chosen.gguf)
    print(f"wrote {chosen.gguf} ({chosen.gguf.stat().st_size:,} bytes) and {chosen.out / 'model.safetensors'}")


if __name__ == "__main__":
    main()

"""A small language model over the codes of a table: trained in minutes on one core, measured, and heard.

    audiovq encode recordings/ codes.parquet
    python examples/language_model.py codes.parquet --out generated.wav

A GRU reads one step of codes after another; at each step the levels are predicted coarse to fine, each from
the state and the levels before it. Bits a code are printed beside those of the codes' frequencies and, on the
same recordings, of the prior that ships with the model. Needs audiovq[parquet].
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import audiovq

WINDOW = 192  # steps in a training example, about three seconds
BATCH = 16


class CodeModel(nn.Module):
    """p(codes of step t | steps before t), level by level.

    Args:
        size: K, codes of a level; levels: L; width: of the state.
    """

    def __init__(self, size: int, levels: int, width: int) -> None:
        super().__init__()
        self.past = nn.ModuleList(nn.Embedding(size, width) for _ in range(levels))
        self.gru = nn.GRU(width, width, batch_first=True)
        self.coarser = nn.ModuleList(nn.Embedding(size, width) for _ in range(levels - 1))
        self.heads = nn.ModuleList(nn.Linear(width, size) for _ in range(levels))

    def read(self, codes: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs `(B, T, W)` after each of the steps `(B, T, L)`, and the last state."""
        steps = torch.stack([table(codes[..., i]) for i, table in enumerate(self.past)]).sum(dim=0)
        output, last = self.gru(steps, state)
        return output, last

    def logits(self, output: Tensor, codes: Tensor, level: int) -> Tensor:
        """Of a level `(..., K)`, given the GRU's output before a step and the coarser codes of this step."""
        for i in range(level):
            output = output + self.coarser[i](codes[..., i])
        logits: Tensor = self.heads[level](F.leaky_relu(output, 0.1))
        return logits

    def nats(self, codes: Tensor) -> Tensor:
        """Cost of each code `(B, T, L)`."""
        output, _ = self.read(codes)
        before = F.pad(output, (0, 0, 1, 0))[:, :-1]
        costs = [
            F.cross_entropy(self.logits(before, codes, i).transpose(1, 2), codes[..., i], reduction="none")
            for i in range(codes.shape[-1])
        ]
        return torch.stack(costs, dim=-1)

    @torch.inference_mode()
    def draw(self, steps: int, levels: int, temperature: float) -> Tensor:
        """New codes `(steps, L)`."""
        output = torch.zeros(1, 1, self.gru.hidden_size)
        state = None
        drawn = []
        for _ in range(steps):
            step = torch.zeros(1, 1, levels, dtype=torch.long)
            for i in range(levels):
                probs = F.softmax(self.logits(output, step, i)[0, 0] / temperature, dim=-1)
                step[..., i] = torch.multinomial(probs, 1)
            drawn.append(step[0, 0])
            output, state = self.read(step, state)
        return torch.stack(drawn)


def read_table(path: Path) -> tuple[list[Tensor], dict[str, Any]]:
    """Codes of each recording, `(T, L)` from 0 to K - 1, and the header of the table."""
    table = pq.read_table(path, columns=["codes"])
    header = json.loads(table.schema.metadata[b"audiovq"])
    offsets = np.arange(header["levels"]) * header["codebook_size"]
    rows = [codes.values.to_numpy().reshape(-1, header["levels"]) for codes in table.column("codes")]
    return [torch.from_numpy(codes.astype(np.int64) - offsets) for codes in rows], header


def train(model: CodeModel, recordings: list[Tensor], updates: int) -> None:
    """Adam on windows of the recordings one after another, as one long sequence."""
    text = torch.cat(recordings)
    window = min(WINDOW, len(text) - 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=updates + 1)
    for update in range(updates):
        starts = torch.randint(len(text) - window, (BATCH,))
        loss = model.nats(torch.stack([text[i : i + window] for i in starts])).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if update % 100 == 0:
            print(f"update {update}: {loss.item() / math.log(2):.2f} bits a code")


def unigram_bits(training: list[Tensor], held_out: list[Tensor], size: int) -> float:
    """Bits a code by how often each occurs at its level in training, once more than counted."""
    known = torch.cat(training)
    asked = torch.cat(held_out)
    bits = []
    for i in range(known.shape[1]):
        counts = torch.bincount(known[:, i], minlength=size) + 1.0
        bits.append(-(counts / counts.sum()).log2()[asked[:, i]].mean())
    return float(torch.stack(bits).mean())


def model_bits(model: CodeModel, held_out: list[Tensor]) -> float:
    with torch.inference_mode():
        costs = [model.nats(codes[None])[0].mean(dim=1) for codes in held_out]
    return float(torch.cat(costs).mean()) / math.log(2)


def prior_bits(tokenizer: audiovq.Tokenizer, held_out: list[Tensor], size: int) -> float:
    """The same of the prior, told nothing of the voice."""
    costs = []
    for codes in held_out:
        rows = codes.numpy() + size * np.arange(codes.shape[1])
        costs.append(tokenizer.prior.bits(rows, [None])[0].mean(axis=1))
    return float(np.concatenate(costs).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--held-out", type=Path, help="a table to measure on; default: each 20th recording")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=6.0, help="of speech to draw")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--model", help="of the codes; default: the model bundled with audiovq")
    parser.add_argument("--out", type=Path, default=Path("generated.wav"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    recordings, header = read_table(args.table)
    size = header["codebook_size"]
    held_out = read_table(args.held_out)[0] if args.held_out else recordings[::20]
    training = recordings if args.held_out else [r for i, r in enumerate(recordings) if i % 20]
    model = CodeModel(size, header["levels"], args.width)
    train(model, training, args.updates)

    tokenizer = audiovq.load(args.model)
    print(f"bits a code on {len(held_out)} recordings held out:")
    print(f"  frequencies     {unigram_bits(training, held_out, size):.3f}")
    print(f"  this model      {model_bits(model, held_out):.3f}")
    print(f"  shipped prior   {prior_bits(tokenizer, held_out, size):.3f}")

    steps = round(args.seconds * header["model_rate"] / header["hop"])
    drawn = model.draw(steps, header["levels"], args.temperature).numpy()
    codes = audiovq.CodeSequence(
        (drawn + size * np.arange(header["levels"])).reshape(-1),
        hop=header["hop"],
        codebook_size=size,
        frames_per_step=header["frames_per_step"],
        fingerprint=header["fingerprint"],
    )
    tokenizer.decode_file(codes, args.out, force=True)
    print(f"{args.out}: {codes.seconds:.1f} s")


if __name__ == "__main__":
    main()

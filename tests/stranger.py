"""What a stranger does with audiovq in Python: everything of docs/api.md once, checked by `mypy --strict`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import audiovq


def main(model: Path, recording: Path, folder: Path) -> None:
    """Use a model on a recording; write to a folder."""
    tokenizer = audiovq.load(model)
    assert tokenizer.vocab_size == len(tokenizer.codebook)
    assert tokenizer.frame_rate * tokenizer.hop == tokenizer.sample_rate
    assert tokenizer.to("cpu").device == torch.device("cpu")

    # To codes: a path, arrays, tensors, channels, lists, batches.
    codes = tokenizer.encode(recording)
    rng = np.random.default_rng(0)
    noise = (3_000 * rng.standard_normal(9_000)).astype(np.int16)
    alone = [tokenizer.encode(noise), tokenizer.encode(noise[:5_000])]
    stereo = torch.from_numpy(np.stack([noise, noise]).astype(np.float32) / 32_768)
    assert tokenizer.encode(stereo).rows.tolist() == alone[0].rows.tolist()
    assert tokenizer.encode([noise, torch.from_numpy(noise[:5_000].copy())]) == alone
    assert tokenizer.encode(np.stack([noise, noise]), lengths=[9_000, 5_000]) == alone

    # Codes are what numpy and torch take.
    ids = np.asarray(codes, dtype=np.int64)
    assert ids.shape == (len(codes), tokenizer.levels)
    assert torch.equal(torch.utils.dlpack.from_dlpack(codes).long(), torch.from_numpy(ids))
    assert codes[2:7] == codes[2:7]
    assert len({codes, tokenizer.encode(recording)}) == 1
    print(codes)

    # To sound: one, several, a padded batch.
    whole = tokenizer.decode(codes, fast=True)
    assert len(whole.samples) == codes.num_samples
    both = tokenizer.decode([codes, ids], fast=True, levels=1)
    batch = tokenizer.decode(torch.from_numpy(ids)[None], lengths=[7], voice=codes.voice)
    assert [len(both), len(batch)] == [2, 1]

    # Vectors, with gradients.
    signal = torch.from_numpy(whole.samples).requires_grad_()
    latents = tokenizer.latents(signal)
    (latents - tokenizer.embed(codes)).square().mean().backward()
    assert signal.grad is not None

    # Streams: the same bits as the whole.
    samples = rng.standard_normal(20_000).astype(np.float32) / 10
    known = tokenizer.encode(samples)
    encoder = tokenizer.encoder_stream(gain=known.gain)
    decoder = tokenizer.decoder_stream(gain=known.gain, seed=3)
    rows = [encoder.push(samples[i : i + 700]) for i in range(0, len(samples), 700)] + [encoder.flush()]
    sound = [decoder.push(step[None]) for step in np.concatenate(rows)] + [decoder.flush()]
    assert np.concatenate(rows).tolist() == known.rows.tolist()
    plain = audiovq.CodeSequence(known.codes, known.hop, gain=known.gain)
    assert np.array_equal(np.concatenate(sound), tokenizer.decode(plain, seed=3).samples)
    print(f"look-ahead: {encoder.look_ahead_s:.3f} s to codes, {decoder.look_ahead_s:.3f} s to sound")

    # Folders as model hubs have them.
    tokenizer.save_pretrained(folder)
    assert audiovq.Tokenizer.from_pretrained(folder).encode(recording) == codes


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))

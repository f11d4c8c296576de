"""The codes of a lhotse CutSet, kept in its manifest, and sound from them again.

    python examples/lhotse_codes.py encode cuts.jsonl.gz codes.jsonl.gz
    python examples/lhotse_codes.py decode codes.jsonl.gz sound/

A cut gets an array `codes`, steps by levels, which follows the cut when it is truncated, and what else
decoding uses: `gain` and `voice`. Needs lhotse (pip install lhotse).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from lhotse import CutSet, NumpyFilesWriter
from lhotse.cut import Cut
from numpy.typing import NDArray

import audiovq


def encode(tokenizer: audiovq.Tokenizer, source: Path, target: Path) -> None:
    """Encode every cut; arrays go into a folder beside the new manifest."""
    step = tokenizer.code_format.hop / tokenizer.code_format.model_rate
    with NumpyFilesWriter(target.with_name("codes")) as arrays, CutSet.open_writer(target) as cuts:
        for cut in CutSet.from_file(source):
            mono = cut.load_audio().mean(axis=0)
            codes = tokenizer.encode(mono, cut.sampling_rate)
            cut.codes = arrays.store_array(
                key=cut.id, value=codes.rows, frame_shift=step, temporal_dim=0, start=cut.start
            )
            cut.gain = codes.gain
            cut.voice = codes.voice
            cuts.write(cut)


def rows_of(cut: Cut) -> NDArray[np.uint16]:
    """Codes `(T, L)` of a cut. lhotse rounds lengths to whole steps, and may lose the last of a whole cut."""
    codes = cut.codes
    is_whole = cut.start == codes.start and abs(codes.duration - cut.duration) < codes.frame_shift
    rows: NDArray[np.uint16] = codes.load() if is_whole else cut.load_codes()
    return rows


def codes_of(tokenizer: audiovq.Tokenizer, cut: Cut) -> audiovq.CodeSequence:
    """The codes of a cut, or of a part of one."""
    form = tokenizer.code_format
    return audiovq.CodeSequence(
        rows_of(cut).reshape(-1),
        hop=form.hop,
        codebook_size=form.codebook_size,
        frames_per_step=form.frames_per_step,
        sample_rate=cut.sampling_rate,
        gain=cut.gain,
        voice=tuple(cut.voice),
        fingerprint=form.fingerprint,
    )


def decode(tokenizer: audiovq.Tokenizer, source: Path, target: Path) -> None:
    """Decode every cut to a WAV file."""
    target.mkdir(parents=True, exist_ok=True)
    for cut in CutSet.from_file(source):
        tokenizer.decode_file(codes_of(tokenizer, cut), target / f"{cut.id}.wav")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["encode", "decode"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", help="default: the model bundled with audiovq")
    args = parser.parse_args()
    work = encode if args.verb == "encode" else decode
    work(audiovq.load(args.model), args.source, args.target)


if __name__ == "__main__":
    main()

"""Speak to yourself through codes: from the microphone to codes to the loudspeaker, as you speak.

    pip install 'audiovq[microphone]'
    python examples/microphone.py                               # wear headphones; Ctrl-C ends it
    python examples/microphone.py --voice someone.wav           # in another voice
    python examples/microphone.py --file speech.wav --out back.wav      # without sound hardware

What you hear is late by two things, which are printed. The look-ahead is the sound that the networks must
have heard beyond a moment before they can say it: their receptive fields, and the time over which your level
is measured. Computing is the time that a block takes.
"""

from __future__ import annotations

import argparse
import queue
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import audiovq
from audiovq.audio.reader import read_recording
from audiovq.audio.writer import write_audio

Block = NDArray[np.float32]


class Loop:
    """Samples in, samples out, through an encoder stream and a decoder stream.

    Args:
        voice: a recording whose voice to speak in; None: in nobody's.
        fast: decode with the spectral head.
        corrections: passes of the spectral correction; each adds to the look-ahead.
    """

    def __init__(
        self, tokenizer: audiovq.Tokenizer, voice: Path | None, fast: bool, corrections: int | None
    ) -> None:
        self.encoder = tokenizer.encoder_stream()
        self.decoder = tokenizer.decoder_stream(voice=voice, fast=fast, corrections=corrections)
        self.seconds: list[float] = []
        """What each block took to compute."""

    def push(self, block: Block) -> Block:
        """The sound that is final by now."""
        began = time.perf_counter()
        sound = self.decoder.push(self.encoder.push(block))
        self.seconds.append(time.perf_counter() - began)
        return sound

    def flush(self) -> Block:
        """The rest."""
        return np.concatenate([self.decoder.push(self.encoder.flush()), self.decoder.flush()])

    def report(self, block_s: float) -> str:
        """Both parts of the latency, in words."""
        to_codes = 1e3 * self.encoder.look_ahead_s
        to_sound = 1e3 * self.decoder.look_ahead_s
        usual = 1e3 * float(np.median(self.seconds))
        worst = 1e3 * max(self.seconds)
        return (
            f"look-ahead: {to_codes + to_sound:.0f} ms ({to_codes:.0f} to codes, {to_sound:.0f} to sound)\n"
            f"computing: {usual:.0f} ms a block of {1e3 * block_s:.0f} ms, at worst {worst:.0f} ms"
        )


def run_file(loop: Loop, source: Path, out: Path | None, size: int) -> None:
    """A recording instead of a microphone, block by block."""
    samples = read_recording(source).samples
    blocks = [samples[i : i + size] for i in range(0, len(samples), size)]
    sound = np.concatenate([*map(loop.push, blocks), loop.flush()])
    if out is not None:
        write_audio(out, sound[: len(samples)], 16_000, force=True)


def run_microphone(loop: Loop, size: int) -> None:
    """Until Ctrl-C."""
    import sounddevice

    heard: queue.SimpleQueue[Block] = queue.SimpleQueue()

    def listen(block: Block, *_: object) -> None:
        heard.put(block[:, 0].copy())

    settings = {"samplerate": 16_000, "channels": 1, "dtype": "float32"}
    with (
        sounddevice.InputStream(callback=listen, blocksize=size, **settings),
        sounddevice.OutputStream(**settings) as speaker,
    ):
        try:
            while True:
                if len(sound := loop.push(heard.get())):
                    speaker.write(sound[:, None])
        except KeyboardInterrupt:
            print()


def main() -> None:
    """Read the command line, run, and print the latency."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="file, folder or name; default: the shipped one")
    parser.add_argument("--voice", type=Path, help="recording whose voice to speak in")
    parser.add_argument("--wavenet", action="store_true", help="draw by the WaveNet: better, and slower")
    parser.add_argument("--corrections", type=int, help="passes of the spectral correction, 40 ms each")
    parser.add_argument("--block-ms", type=int, default=240, help="length of a block (default: 240)")
    parser.add_argument("--file", type=Path, help="a recording in place of the microphone")
    parser.add_argument("--out", type=Path, help="where its sound goes, a .wav")
    options = parser.parse_args()
    size = 16 * options.block_ms
    tokenizer = audiovq.load(options.model)
    loop = Loop(tokenizer, options.voice, not options.wavenet, options.corrections)
    # What is loaded or compiled on first use is not part of a block's time.
    Loop(tokenizer, None, not options.wavenet, 0).push(np.zeros(16_000, dtype=np.float32))
    if options.file is not None:
        run_file(loop, options.file, options.out, size)
    else:
        run_microphone(loop, size)
    print(loop.report(size / 16_000))


if __name__ == "__main__":
    main()

"""`audiovq convert`: speech in another voice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks, options
from audiovq.cli.checks import STANDARD_STREAM
from audiovq.cli.messages import part_of, say, stage_bars

if TYPE_CHECKING:
    from audiovq.batch import FileJob
    from audiovq.speech.codes import CodeSequence
    from audiovq.speech.output import DecodeKeywords
    from audiovq.tokenizer import Tokenizer

    _Encode = Callable[[Path], CodeSequence]


@click.command()
@options.paths_argument("IN")
@options.several_out_option
@options.model_option
@options.speaker_option
@options.voice_option
@options.seed_option("Random seed of the WaveNet. No effect with --fast.")
@options.temperature_option
@options.fast_option
@options.levels_option("Convert only the first N (coarsest) levels of the codes. Default: all.")
@options.partial_option
@options.force_option
def convert(
    paths: tuple[Path, ...],
    out: Path | None,
    model: Path | None,
    speaker: str | None,
    voice: Path | None,
    seed: int,
    temperature: float,
    fast: bool,
    levels: int | None,
    partial: bool,
    force: bool,
) -> None:
    """Convert a recording to another voice.

    IN is an audio file in any format that `audiovq encode` reads, `-` for standard input, or a folder. Either
    --speaker or --voice is required. OUT must end in .wav, .flac, .ogg or .mp3; `-` streams WAV to standard
    output. By default speech.mp3 is converted to speech_converted.wav; OUT is required if IN is `-`.

    If IN is a folder, every audio file in it, including subfolders, is converted to WAV (by default in the
    folder IN_converted); the same goes for several INs with -o. A file that cannot be read is reported and
    does not stop the others. If interrupted, rerun the command: files already done are skipped.

    The result keeps the words, sample rate, length and loudness of IN. The fine levels of the codes keep some
    of the original voice: with --levels 1 the result is closer to the new voice, but less clear. Runs on the
    CPU.

    \b
    Examples:
      audiovq convert speech.wav out.wav --voice other_speaker.wav
      audiovq convert recordings/ converted/ --speaker ls19
    """
    if (speaker is None) == (voice is None):
        raise click.UsageError("Either --speaker or --voice is required, and not both.")
    sources, out = checks.split_paths(paths, out)
    many = checks.are_many(sources)
    if not many:
        out = checks.out_or_default(sources[0], out, "_converted.wav")
        checks.check_ending(out, checks.SOUND_ENDINGS)
    checks.check_exists(*sources)
    checks.check_files(voice)
    header = checks.read_model_header(model)
    checks.check_levels(levels, header)
    keywords: DecodeKeywords = {
        "speaker": checks.choose_speaker(speaker, header, model),
        "seed": seed,
        "temperature": temperature,
        "fast": fast,
    }
    if not many:
        assert out is not None
        checks.check_files(*sources)
        checks.check_writable(out, force)
    checks.say_speaker(keywords["speaker"], header)
    from audiovq.tokenizer import load

    tokenizer = load(model)
    keywords["voice"] = None if voice is None else tokenizer.voice_of(voice, partial=partial)
    encode = _encoder(tokenizer, levels, partial)
    if out is None or many:
        _convert_many(sources, out, tokenizer, encode, keywords, force)
    else:
        _convert_one(sources[0], out, tokenizer, encode, keywords, force)


def _encoder(tokenizer: Tokenizer, levels: int | None, partial: bool) -> _Encode:
    def encode(source: Path) -> CodeSequence:
        return tokenizer.encode(source, levels=levels, partial=partial)

    return encode


def _convert_one(
    source: Path, out: Path, tokenizer: Tokenizer, encode: _Encode, keywords: DecodeKeywords, force: bool
) -> None:
    from audiovq.io.progress import SpeechProgressBar

    with stage_bars():
        codes = encode(source)
    with SpeechProgressBar(codes.seconds) as bar:
        tokenizer.decode_file(codes, out, force=force, progress=bar.part(codes.seconds), **keywords)
    if out != STANDARD_STREAM or codes.partial:
        say(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz{part_of(codes)}")


def _convert_many(
    sources: Sequence[Path],
    out: Path | None,
    tokenizer: Tokenizer,
    encode: _Encode,
    keywords: DecodeKeywords,
    force: bool,
) -> None:
    from audiovq.audio.reader import AUDIO_EXTENSIONS
    from audiovq.batch import decode_files
    from audiovq.cli.folders import FolderRun, default_out, find_all_jobs
    from audiovq.speech.output import DecodeOptions

    out = out or default_out(sources[0], "_converted")
    if len(sources) == 1 and out.resolve() == sources[0].resolve():
        raise click.UsageError("OUT must be another folder than IN.")

    def finished(job: FileJob) -> bool:
        return not force and job.target.exists()

    def load(job: FileJob) -> CodeSequence:
        codes = encode(job.source)
        if codes.partial:
            say(f"{job.source}: damaged, {codes.seconds:.2f} s of it taken")
        return codes

    jobs = find_all_jobs(sources, out, AUDIO_EXTENSIONS, ".wav")
    run = FolderRun(jobs, finished, "converted", out)
    with run.counting() as done:
        decode_files(tokenizer, run.todo, DecodeOptions(**keywords), done=done, force=force, load=load)
    run.summarize()

"""`audiovq decode`: codes to speech."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks, options
from audiovq.cli.checks import STANDARD_STREAM
from audiovq.cli.messages import echo_json, say, stage_bars

if TYPE_CHECKING:
    from audiovq.batch import FileJob
    from audiovq.kernels.options import Precision
    from audiovq.speech.codes import CodeSequence
    from audiovq.speech.modelfile import ModelHeader
    from audiovq.speech.output import DecodeKeywords
    from audiovq.tokenizer import Tokenizer


@dataclass(frozen=True)
class _How:
    """Options of every file."""

    keywords: DecodeKeywords  # of `DecodeOptions`
    force: bool  # overwrite existing files
    as_json: bool  # print facts as JSON


@click.command()
@options.paths_argument("CODES")
@options.several_out_option
@options.model_option
@options.prior_option("It must be the one that compressed the .avq files; .npy files do not use it.")
@options.speaker_option
@options.voice_option
@options.seed_option(
    "Random seed of the WaveNet, the same for every file of a folder. No effect with --fast."
)
@options.temperature_option
@options.fast_option
@options.levels_option(
    "Decode only the first N (coarsest) levels of the codes, which lowers the quality. Default: all levels "
    "in the file."
)
@click.option(
    "--corrections",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Number of spectral-correction passes: each moves the spectrum of the decoded speech towards the "
    "one predicted from the codes, also with --fast. 0 turns correction off; each pass adds latency (40 ms "
    "with the bundled model) when streaming. Default: the model's own setting (bundled model: 8).",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Number format of the WaveNet's weights. Any CPU can use both. No effect with --fast or on other "
    "devices. Default: bfloat16, which sounds the same and is faster.",
)
@options.device_option
@options.written_json_option
@options.force_option
def decode(
    paths: tuple[Path, ...],
    out: Path | None,
    model: Path | None,
    prior: Path | None,
    speaker: str | None,
    voice: Path | None,
    seed: int,
    temperature: float,
    fast: bool,
    levels: int | None,
    corrections: int | None,
    precision: Precision | None,
    device: str,
    as_json: bool,
    force: bool,
) -> None:
    """Turn codes into speech.

    CODES is a .npy file, an .avq file, `-` for either or the raw form of `encode - -` on standard input, a
    folder, or a table (.parquet or .tar: what encode writes of a folder, or a part of it). The model and the
    prior must be those that made the codes. .avq files can be decoded on any device.

    If CODES is a folder, every code file in it, including subfolders, is decoded to WAV, and so is every row
    of a table; the same goes for several CODES with -o. A file that cannot be decoded is reported and does
    not stop the others. If interrupted, rerun the command: files already done are skipped. Processes started
    with torchrun share the files.

    OUT must end in .wav, .flac, .ogg or .mp3. By default speech.npy is decoded to speech_decoded.wav (a
    folder: to CODES_decoded, with the same directory structure). OUT is required if CODES is `-`. Use `-` to
    stream WAV to standard output as decoding proceeds.

    The result has the sample rate, length and loudness of the original, and its voice unless --speaker or
    --voice replaces it. A .npy without its .json is decoded at 16 kHz in no particular voice.

    \b
    Examples:
      audiovq decode speech.npy                     speech_decoded.wav
      audiovq decode speech.avq out.flac --voice other_speaker.wav
      audiovq decode codes/ --fast                  codes_decoded/.../NAME.wav
      audiovq encode - - | audiovq decode - - --voice someone.wav      while it arrives
    """
    checks.check_one_voice(speaker, voice)
    sources, out = checks.split_paths(paths, out, "CODES")
    out = _check_paths(sources, out, as_json)
    checks.check_files(prior, voice)
    header = checks.read_model_header(model)
    keywords: DecodeKeywords = {
        "speaker": checks.choose_speaker(speaker, header, model),
        "voice": voice,
        "seed": seed,
        "temperature": temperature,
        "fast": fast,
        "levels": levels,
        "corrections": corrections,
    }
    how = _How(keywords, force, as_json)

    def load_model() -> Tokenizer:
        checks.say_speaker(keywords.get("speaker"), header)
        from audiovq.tokenizer import load

        return load(model, device=device, precision=precision, prior=prior)

    if _are_many(sources):
        _decode_many(sources, out, how, load_model)
    else:
        _decode_one(sources[0], out, how, header, load_model)


def _are_many(sources: Sequence[Path]) -> bool:
    return checks.are_many(sources) or sources[0].suffix in checks.CODE_TABLE_ENDINGS


def _check_paths(sources: Sequence[Path], out: Path | None, as_json: bool) -> Path | None:
    """The output; None: by its own name for each of many codes. Raises if CODES are missing."""
    if not _are_many(sources):
        # Another name than the recording's: the result must not be mistaken for the original.
        out = checks.out_or_default(sources[0], out, "_decoded.wav", "CODES")
        if out == STANDARD_STREAM and as_json:
            raise click.UsageError(
                "--json prints to standard output, where `-` writes the sound; name a file."
            )
        checks.check_ending(out, checks.SOUND_ENDINGS)
    checks.check_exists(*sources)
    return out


def _codes_of_npy(source: Path, header: ModelHeader) -> CodeSequence | None:
    """The codes of a .npy file, which are checked without torch; None for an .avq file or a pipe."""
    checks.check_files(source)
    if source.suffix == ".avq" or not source.is_file():
        return None
    from audiovq.speech.codes import CodeSequence

    codes = CodeSequence.load(source, hop=header.code_format.hop)
    codes.for_model(header.code_format)
    return codes


def _decode_one(
    source: Path, out: Path | None, how: _How, header: ModelHeader, load_model: Callable[[], Tokenizer]
) -> None:
    assert out is not None
    if source == out == STANDARD_STREAM:
        from audiovq.cli.streams import decode_piped

        decode_piped(load_model(), how.keywords)
        return
    codes = _codes_of_npy(source, header)
    checks.check_writable(out, how.force)
    tokenizer = load_model()
    from audiovq.io.progress import SpeechProgressBar

    with stage_bars():
        codes = tokenizer.load_codes(source) if codes is None else codes
    with SpeechProgressBar(codes.seconds) as bar:
        progress = bar.part(codes.seconds)
        tokenizer.decode_file(codes, out, force=how.force, progress=progress, **how.keywords)
    if how.as_json:
        echo_json({"file": str(out), **_facts(source, codes)})
    if out != STANDARD_STREAM:
        say(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz")


def _decode_many(
    sources: Sequence[Path], out: Path | None, how: _How, load_model: Callable[[], Tokenizer]
) -> None:
    if len(sources) == 1 and sources[0].suffix in checks.CODE_TABLE_ENDINGS:
        from audiovq.cli.tables import decode_table

        decode_table(sources[0], out, load_model, how.keywords, how.force, how.as_json)
        return
    from audiovq.batch import decode_files
    from audiovq.cli.folders import FolderRun, default_out, find_all_jobs
    from audiovq.config.speech import SAMPLE_RATE
    from audiovq.io.progress import SpeechProgressBar
    from audiovq.speech.output import DecodeOptions

    out = out or default_out(sources[0], "_decoded")
    if len(sources) == 1 and out.resolve() == sources[0].resolve():
        raise click.UsageError("OUT must be another folder than CODES.")
    jobs = find_all_jobs(sources, out, {".npy", ".avq"}, ".wav", {".json"})
    tokenizer = load_model()

    def finished(job: FileJob) -> bool:
        return not how.force and job.target.exists()

    def load(job: FileJob) -> CodeSequence:
        codes = tokenizer.load_codes(job.source)
        run.facts[job] = _facts(job.source, codes)
        return codes

    run = FolderRun(jobs, finished, "decoded", out, how.as_json)
    # Two bytes a code: near enough for a bar, without opening every file first.
    step_bytes = 2 * tokenizer.code_format.levels
    size = sum(job.source.stat().st_size for job in run.todo)
    with SpeechProgressBar(size / step_bytes * tokenizer.hop / SAMPLE_RATE) as bar:
        run.bar = bar
        keywords = DecodeOptions(**how.keywords)
        decode_files(
            tokenizer, run.todo, keywords, done=run.done, heard=bar.update, force=how.force, load=load
        )
    run.summarize()


def _facts(source: Path, codes: CodeSequence) -> dict[str, object]:
    """What `--json` says of decoded codes."""
    return {
        "source": str(source),
        "seconds": codes.seconds,
        "sample_rate_hz": codes.sample_rate,
        "samples": codes.num_samples,
    }

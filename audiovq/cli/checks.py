"""Checks before the work, none of which needs torch: so that mistakes are reported at once.

Endings come first, then files that are read, levels and speakers. Whether an output exists already comes
last, so that it does not hide another mistake.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli.messages import say
from audiovq.errors import AudiovqError, unreadable_file_error

if TYPE_CHECKING:
    from audiovq.speech.modelfile import ModelHeader

STANDARD_STREAM = Path("-")
SOUND_ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
"""Of the sound files that can be written; a test compares them with the writer's."""
CODE_TABLE_ENDINGS = (".parquet", ".tar")
FIGURE_ENDINGS = (".png", ".pdf", ".svg")
PAGE_ENDINGS = (".html",)
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
"""Of images that can be written."""


# Paths


def split_paths(
    paths: Sequence[Path], out: Path | None, metavar: str = "IN"
) -> tuple[tuple[Path, ...], Path | None]:
    """Inputs and output of `IN [OUT]`, or of `IN... -o OUT`.

    Raises: click.UsageError for more than two paths without `-o`, or for `-` beside other inputs or outputs.
    """
    if out is not None:
        if len(paths) > 1 and STANDARD_STREAM in (out, *paths):
            raise click.UsageError(f"More than one {metavar} needs files, and a folder as OUT, not `-`.")
        return tuple(paths), out
    if len(paths) > 2:
        raise click.UsageError(f"More than one {metavar} needs -o, a folder for the results.")
    return (paths[0],), paths[1] if len(paths) > 1 else None


def check_one_voice(speaker: str | None, voice: Path | None) -> None:
    """Raise click.UsageError if both a speaker and a recording are given."""
    if speaker is not None and voice is not None:
        raise click.UsageError("--speaker and --voice exclude each other.")


def out_or_default(source: Path, out: Path | None, ending: str, metavar: str = "IN") -> Path:
    """`out`, or if there is none a file next to `source` whose name ends in `ending`.

    Raises: click.UsageError if there is no name to derive one from.
    """
    if out is not None:
        return out
    if source == STANDARD_STREAM:
        raise click.UsageError(f"OUT is required when {metavar} is standard input.")
    return source.with_name(source.stem + ending)


def are_many(sources: Sequence[Path]) -> bool:
    """Whether a verb has several inputs or a folder, so that its output is a folder."""
    return len(sources) > 1 or sources[0].is_dir()


def check_ending(out: Path, endings: Sequence[str], several: bool = True) -> None:
    """Raise click.UsageError unless `out` is `-` or ends in one of `endings`.

    Args:
        several: whether the verb takes several inputs; the error then suggests -o.
    """
    if out == STANDARD_STREAM or out.suffix.lower() in endings:
        return
    *most, last = endings
    allowed = f"{', '.join(most)} or {last}" if most else last
    hint = "; several inputs take -o FOLDER" if several and out.exists() else ""
    raise click.UsageError(f"{out.name!r} must end in {allowed}{hint}.")


# Files


def check_exists(*paths: Path | None) -> None:
    """Raise AudiovqError for a path that leads nowhere. None and `-` are no paths."""
    for path in paths:
        if path is None or path == STANDARD_STREAM:
            continue
        try:
            path.stat()
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None


def check_files(*paths: Path | None) -> None:
    """Raise AudiovqError for a path that is no file which can be opened. None and `-` are no paths."""
    check_exists(*paths)
    for path in paths:
        if path is None or path == STANDARD_STREAM:
            continue
        mode = path.stat().st_mode
        # A pipe must not be opened twice.
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> AudiovqError:
    if isinstance(error, ValueError):
        return AudiovqError(f"{path!s:.80}: is no path ({error}); check it")
    return unreadable_file_error(path, error)


def check_writable(path: Path, force: bool) -> None:
    """Fail before the work, not after it, if `path` cannot be written; `-` always can.

    Removes temporary files that a killed command left beside it.

    Raises:
        AudiovqError: as `audiovq.io.atomic.PartialFile`.
    """
    if path == STANDARD_STREAM:
        return
    from audiovq.io.atomic import PartialFile, remove_leftover_files

    PartialFile(path, force=force).discard()
    remove_leftover_files(path.parent, below=False)


# Models


def read_model_header(model: Path | None) -> ModelHeader:
    """Header of a model, as `tokenizer.load` takes it. Raises: AudiovqError if it is none."""
    from audiovq.speech.modelfile import read_header
    from audiovq.speech.modelfolder import find_model

    found = find_model(model).model
    check_files(found)
    return read_header(found)


def check_levels(levels: int | None, header: ModelHeader) -> None:
    """Raise AudiovqError for more levels than the model has."""
    count = header.code_format.levels
    if levels is not None and levels > count:
        raise AudiovqError(f"--levels {levels}: the model has {count}; ask for 1 to {count}")


def choose_speaker(text: str | None, header: ModelHeader, model: Path | None) -> str | int | None:
    """The name or number of a trained speaker.

    Names come first: some corpora name their speakers by numbers.

    Raises: AudiovqError for an unknown speaker.
    """
    if text is None:
        return None
    from audiovq.speech.modelfile import find_speaker
    from audiovq.speech.modelfolder import find_model

    is_name = not text.isdecimal() or text in {speaker.name for speaker in header.speakers}
    chosen = text if is_name else int(text)
    find_speaker(header.speakers, chosen, find_model(model).model.name)
    return chosen


def say_speaker(chosen: str | int | None, header: ModelHeader) -> None:
    """Say whom `choose_speaker` has found."""
    if chosen is None:
        return
    from audiovq.speech.modelfile import find_speaker

    speaker = find_speaker(header.speakers, chosen, "")
    say(f"speaker {speaker.name}, number {speaker.number}")

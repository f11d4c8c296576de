"""Recordings before preparation (file, speaker, text), and their division into splits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from audiovq.audio.reader import AUDIO_EXTENSIONS
from audiovq.data.names import DistinctNames, utf8_name
from audiovq.errors import AudiovqError
from audiovq.io.folder import paths_below

TRAIN_SPLIT = "train"
EVAL_UTTERANCES_SPLIT = "eval-utts"
"""Split of held-out texts by trained speakers."""
EVAL_SPEAKERS_SPLIT = "eval-speakers"
"""Split of held-out speakers."""
_UNUSED_SPLIT = "unused"
"""Split of what would leak between the others."""

_EVAL_SHARE = 0.03
"""Share of the texts, by time, that is held out."""

_EVAL_SECONDS = 60.0
"""Held out at least, but no more than the share `_EVAL_MOST`."""
_EVAL_MOST = 0.1

_EVAL_SPEAKER_SHARE = 0.05
"""Share of the speakers that is held out, at least one; none of fewer than `_FEWEST_SPEAKERS`."""
_FEWEST_SPEAKERS = 5


class RawRecording(NamedTuple):
    """A recording to prepare.

    Attributes:
        path: the file.
        name: of the prepared file, with its folder, without suffix.
        speaker: "" if unknown.
        sentence: number in a corpus where speakers read the same list; "" if there is none.
        text: transcript, if known.
    """

    path: Path
    name: str
    speaker: str = ""
    sentence: str = ""
    text: str = ""


class PreparedPiece(NamedTuple):
    """A prepared recording, or a piece of one: speaker, key of the text, length in seconds."""

    speaker: str
    text: str
    seconds: float


def find_recordings_in_folder(folder: str | Path) -> list[RawRecording]:
    """Recordings anywhere below a folder, sorted; a recording's subfolder is its speaker.

    Links to folders are followed.

    Raises:
        AudiovqError: no such folder, no recording in it, or it cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudiovqError(f"{folder}: no such folder; give the folder that holds the recordings")
    names = DistinctNames()
    sources = []
    for path in paths_below(root):
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)
        if hidden or path.suffix.lower() not in AUDIO_EXTENSIONS or not path.is_file():
            continue
        plain = utf8_name(inside.with_suffix("").as_posix())
        # Two files may differ in their suffix alone.
        name = names.take(plain, utf8_name(inside.as_posix()).replace(".", "_"))
        speaker = utf8_name(path.parent.name) if len(inside.parts) > 1 else ""
        sources.append(RawRecording(path, name, speaker))
    if not sources:
        raise AudiovqError(
            f"{folder}: no recordings found; expected files ending in {', '.join(AUDIO_EXTENSIONS)}"
        )
    return sources


def assign_text_keys(sources: Sequence[RawRecording]) -> list[str]:
    """A key for each recording, the same for the same text.

    By transcript if there is one, as newspaper sentences of VCTK recur under other numbers. Otherwise by
    number: the transcript that speakers share under it, or the number itself. With neither, by recording.
    """
    by_number: dict[str, Counter[str]] = defaultdict(Counter)
    for source in sources:
        if source.sentence and _plain(source.text):
            by_number[source.sentence][_plain(source.text)] += 1
    shared = {}
    for number, texts in by_number.items():
        text, count = max(texts.items(), key=lambda item: (item[1], item[0]))
        if count > 1:
            shared[number] = text
    keys = []
    for source in sources:
        key = _plain(source.text)
        if not key and source.sentence:
            key = shared.get(source.sentence, f"#{source.sentence}")
        keys.append(_hash(key or f"/{source.name}")[:16])
    return keys


def assign_splits(pieces: Sequence[PreparedPiece]) -> list[str]:
    """The split of each piece: no text of an eval split is in training, no speaker of eval-speakers either.

    A hash chooses the held-out texts and speakers: the same on every machine, and almost the same when
    recordings are added. A held-out speaker's recordings of training texts are unused. A speaker whose texts
    are all held out counts as held out.
    """
    files = Counter(p.speaker for p in pieces if p.speaker)
    # A speaker with one recording is worth more in training than for evaluation.
    several = sorted((s for s in files if files[s] > 1), key=_hash)
    count = max(1, round(_EVAL_SPEAKER_SHARE * len(files))) if len(several) >= _FEWEST_SPEAKERS else 0
    held_speakers = set(several[:count])

    seconds: dict[str, float] = defaultdict(float)
    for piece in pieces:
        if piece.speaker not in held_speakers:
            seconds[piece.text] += piece.seconds
    total = sum(seconds.values())
    wanted = max(_EVAL_SHARE * total, min(_EVAL_SECONDS, _EVAL_MOST * total))
    held_texts: set[str] = set()
    if len(seconds) >= 4:
        gathered = 0.0
        for text in sorted(seconds, key=_hash):
            if gathered >= wanted or len(held_texts) + 1 == len(seconds):
                break
            # A text that everybody reads may be too long for a small corpus.
            if gathered + seconds[text] <= 2 * wanted:
                held_texts.add(text)
                gathered += seconds[text]
        held_texts = held_texts or {min(seconds, key=lambda text: (seconds[text], _hash(text)))}
    trained = {p.speaker for p in pieces if p.speaker not in held_speakers and p.text not in held_texts}
    trained_texts = {p.text for p in pieces if p.speaker not in held_speakers} - held_texts
    splits = []
    for piece in pieces:
        if piece.speaker not in trained:
            splits.append(_UNUSED_SPLIT if piece.text in trained_texts else EVAL_SPEAKERS_SPLIT)
        else:
            splits.append(EVAL_UTTERANCES_SPLIT if piece.text in held_texts else TRAIN_SPLIT)
    return splits


def _plain(text: str) -> str:
    """Words alone: punctuation and case differ between readers' transcripts."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

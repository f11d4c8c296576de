"""Recordings before they are prepared: where they are, who speaks, what is said; and their splits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from audiovq.audio.reader import EXTENSIONS
from audiovq.errors import AudiovqError

TRAIN, EVAL_UTTERANCES, EVAL_SPEAKERS, UNUSED = "train", "eval-utts", "eval-speakers", "unused"
"""Splits: for training; held-out texts by trained speakers; held-out speakers; what would leak between."""

EVAL_SHARE = 0.03
"""Share of the texts, by time, that is held out."""

EVAL_SECONDS, EVAL_MOST = 60.0, 0.1
"""At least this many seconds are, but no more than this share."""

EVAL_SPEAKER_SHARE, FEWEST_SPEAKERS = 0.05, 5
"""Share of the speakers that is held out, at least one; of fewer than so many nobody."""


class Source(NamedTuple):
    """A recording to prepare.

    Attributes:
        path: the file.
        name: of what it becomes, with its folder, without ending.
        speaker: "" if unknown.
        sentence: number in a corpus where speakers read the same list; "" if there is none.
        text: what is said, if that is known.
    """

    path: Path
    name: str
    speaker: str = ""
    sentence: str = ""
    text: str = ""


class Piece(NamedTuple):
    """A prepared recording, or a piece of one: speaker, what it says (`text_keys`), length in seconds."""

    speaker: str
    text: str
    seconds: float


def find_in_folder(folder: str | Path) -> list[Source]:
    """Recordings anywhere below a folder, sorted; the folder one lies in is its speaker, at the top nobody.

    Raises:
        AudiovqError: no such folder, no recording in it, or it cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudiovqError(f"{folder}: no such folder; give the folder that holds the recordings")
    sources: dict[str, Source] = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)
        if hidden or path.suffix.lower() not in EXTENSIONS or not path.is_file():
            continue
        name = inside.with_suffix("").as_posix()
        # Two files may differ in their ending alone.
        name = name if name not in sources else inside.as_posix().replace(".", "_")
        sources[name] = Source(path, name, path.parent.name if len(inside.parts) > 1 else "")
    if not sources:
        raise AudiovqError(f"{folder}: no recordings found; expected files ending in {', '.join(EXTENSIONS)}")
    return list(sources.values())


def text_keys(sources: Sequence[Source]) -> list[str]:
    """For each recording a key that is the same where the same text is read.

    By transcript where there is one, whatever the number: newspaper sentences of VCTK recur under other
    numbers. Without one, by number: as the transcript that speakers share under it, or as that number. With
    neither, every recording is a text of its own.
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


def divide(pieces: Sequence[Piece]) -> list[str]:
    """The split of each piece: no text of an eval split is in training, no speaker of eval-speakers either.

    Which texts and speakers are held out follows from a hash of them: it is the same on every machine, and
    hardly moves when recordings are added. What a held-out speaker reads of a text in training is unused. A
    speaker all of whose texts are held out is in no training split, and so among the held-out ones.
    """
    files = Counter(p.speaker for p in pieces if p.speaker)
    # Somebody with one recording is worth more in training than for evaluation.
    several = sorted((s for s in files if files[s] > 1), key=_hash)
    count = max(1, round(EVAL_SPEAKER_SHARE * len(files))) if len(several) >= FEWEST_SPEAKERS else 0
    held_speakers = set(several[:count])

    seconds: dict[str, float] = defaultdict(float)
    for piece in pieces:
        if piece.speaker not in held_speakers:
            seconds[piece.text] += piece.seconds
    total = sum(seconds.values())
    wanted = max(EVAL_SHARE * total, min(EVAL_SECONDS, EVAL_MOST * total))
    held_texts: set[str] = set()
    if len(seconds) >= 4:
        gathered = 0.0
        for text in sorted(seconds, key=_hash):
            if gathered >= wanted or len(held_texts) + 1 == len(seconds):
                break
            # A text that everybody reads may weigh too much for a small corpus.
            if gathered + seconds[text] <= 2 * wanted:
                held_texts.add(text)
                gathered += seconds[text]
        held_texts = held_texts or {min(seconds, key=lambda text: (seconds[text], _hash(text)))}
    trained = {p.speaker for p in pieces if p.speaker not in held_speakers and p.text not in held_texts}
    trained_texts = {p.text for p in pieces if p.speaker not in held_speakers} - held_texts
    splits = []
    for piece in pieces:
        if piece.speaker not in trained:
            splits.append(UNUSED if piece.text in trained_texts else EVAL_SPEAKERS)
        else:
            splits.append(EVAL_UTTERANCES if piece.text in held_texts else TRAIN)
    return splits


def _plain(text: str) -> str:
    """Words alone: punctuation and case differ between readers' transcripts."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

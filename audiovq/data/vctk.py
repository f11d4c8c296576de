"""The CSTR VCTK corpus as it is distributed: 0.92 (FLAC, two microphones) and 0.80 (WAV, one).

Licence CC BY 4.0 (0.92) and ODC-By 1.0 (0.80). Cite: Christophe Veaux, Junichi Yamagishi, Kirsten MacDonald,
"CSTR VCTK Corpus: English Multi-speaker Corpus for CSTR Voice Cloning Toolkit", The Centre for Speech
Technology Research (CSTR), University of Edinburgh.

Known defects: the second microphone failed for p280 and p315; p315 has no transcripts; numbers are missing in
between for most speakers, whole recordings of p362; 0.80 keeps a second and more of silence at both ends.
"""

from __future__ import annotations

import re
from pathlib import Path

from audiovq.data.splits import RawRecording
from audiovq.errors import AudiovqError

_FOLDERS = ("wav48_silence_trimmed", "wav48")
"""Folder of the recordings in 0.92 and in 0.80."""

_MICROPHONE = "mic1"
"""The omnidirectional DPA 4035: the one of 0.80, and the one that recorded every speaker."""

_NAME = re.compile(r"([A-Za-z0-9]+)_(\d+)(?:_(mic\d))?\.(?:flac|wav)", re.IGNORECASE)


def vctk_url_and_checksum() -> tuple[str, str]:
    """URL and checksum of version 0.92, from torchaudio.

    Raises:
        AudiovqError: torchaudio cannot be imported, or lacks them.
    """
    try:
        from torchaudio.datasets import vctk

        return str(vctk.URL), str(vctk._CHECKSUMS[vctk.URL])
    except (ImportError, OSError, RuntimeError, AttributeError, KeyError) as error:
        raise AudiovqError(
            f"torchaudio: has no address of VCTK ({error}); pip install 'audiovq[vctk]', or download it "
            "by hand and give its folder"
        ) from None


def find_vctk_root(folder: str | Path) -> Path:
    """The corpus's own folder: `folder` or one of its subfolders.

    Raises:
        AudiovqError: neither holds the recordings of any version.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudiovqError(f"{folder}: no such folder; give the folder that holds VCTK")
    for parent in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        if any((parent / name).is_dir() for name in _FOLDERS):
            return parent
    raise AudiovqError(
        f"{folder}: holds neither {_FOLDERS[0]} (VCTK 0.92) nor {_FOLDERS[1]} (0.80); unpack the corpus there"
    )


def find_vctk_recordings(folder: str | Path, microphone: str = _MICROPHONE) -> list[RawRecording]:
    """Every utterance once, sorted, by the given microphone or else by the other one.

    Args:
        folder: as `find_vctk_root`.
        microphone: mic1 or mic2.

    Raises:
        AudiovqError: no corpus there, or no recording in it.
    """
    root = find_vctk_root(folder)
    sound = next(root / name for name in _FOLDERS if (root / name).is_dir())
    chosen: dict[str, tuple[bool, RawRecording]] = {}
    for path in sorted(sound.glob("*/*")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue  # 0.92 has logs beside the recordings, 0.80 a .raw file
        speaker = path.parent.name
        sentence = match[2]
        mic = match[3]
        name = f"{speaker}/{match[1]}_{sentence}"
        wanted = mic is None or mic.lower() == microphone
        if name not in chosen or (wanted and not chosen[name][0]):
            text = _transcript(root / "txt" / speaker / f"{match[1]}_{sentence}.txt")
            chosen[name] = (wanted, RawRecording(path, name, speaker, sentence, text))
    if not chosen:
        raise AudiovqError(f"{sound}: holds no recording of a speaker; unpack the corpus again")
    return [source for _, source in chosen.values()]


def find_vctk_transcript(recording: Path) -> str:
    """Transcript of a recording in the corpus's layout: `txt/SPK/SPK_NNN.txt` beside its folder of sound.

    Returns: the text; "" in another layout or without a transcript.
    """
    match = _NAME.fullmatch(recording.name)
    sound = recording.absolute().parent.parent
    if match is None or sound.name not in _FOLDERS:
        return ""
    speaker = recording.absolute().parent.name
    return _transcript(sound.parent / "txt" / speaker / f"{match[1]}_{match[2]}.txt")


def _transcript(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

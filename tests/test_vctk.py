"""VCTK as it comes: both versions, either microphone, what is missing in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from audiovq.data import vctk
from audiovq.errors import AudiovqError


def tree(root: Path, *names: str, **texts: str) -> Path:
    """Empty files where the corpus has recordings, and transcripts."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in texts.items():
        path = root / "txt" / name.split("_")[0] / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture
def new(tmp_path: Path) -> Path:
    sound = "wav48_silence_trimmed"
    files = [f"{sound}/p225/p225_{n:03d}_mic{m}.flac" for n in (1, 2, 40) for m in (1, 2)]
    files += [f"{sound}/{who}/{who}_001_mic1.flac" for who in ("p280", "p315")]
    files += [f"{sound}/p362/p362_007_mic2.flac", f"{sound}/s5/s5_003_mic1.flac", f"{sound}/log.txt"]
    return tree(tmp_path, *files, f"{sound}/p225/log.txt", p225_001="Please call Stella.", p280_001="Please")


@pytest.mark.parametrize("microphone", ["mic1", "mic2"])
def test_version_092(new: Path, microphone: str) -> None:
    found = vctk.find_vctk_recordings(new, microphone)
    assert [s.name for s in found] == [
        *("p225/p225_001", "p225/p225_002", "p225/p225_040", "p280/p280_001"),
        *("p315/p315_001", "p362/p362_007", "s5/s5_003"),
    ]
    assert [s.path.stem[-4:] for s in found] == [*[microphone] * 3, "mic1", "mic1", "mic2", "mic1"]
    assert found[0][2:] == ("p225", "001", "Please call Stella.")
    assert found[4][2:] == ("p315", "001", ""), "no transcripts of p315"
    assert all(s.path.exists() for s in found)


def test_version_080(tmp_path: Path) -> None:
    files = ("wav48/p225/p225_001.wav", "wav48/p376/p376_295.raw", "wav48/p376/p376_296.wav")
    corpus = tree(tmp_path / "VCTK-Corpus", *files, p376_296="That is it.")
    for folder in (corpus, tmp_path):
        found = vctk.find_vctk_recordings(folder)
        assert [s[1:] for s in found] == [
            ("p225/p225_001", "p225", "001", ""),
            ("p376/p376_296", "p376", "296", "That is it."),
        ]


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match="no such folder"):
        vctk.find_vctk_recordings(tmp_path / "none")
    with pytest.raises(AudiovqError, match=r"neither wav48_silence_trimmed .* nor wav48"):
        vctk.find_vctk_recordings(tmp_path)
    (tmp_path / "wav48").mkdir()
    with pytest.raises(AudiovqError, match="holds no recording"):
        vctk.find_vctk_recordings(tmp_path)


def test_the_address_is_torchaudios(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchaudio.datasets")
    url, checksum = vctk.vctk_url_and_checksum()
    assert url.startswith("https://")
    assert url.endswith("0.92.zip")
    assert len(checksum) in (32, 64)
    monkeypatch.setitem(sys.modules, "torchaudio.datasets", None)
    with pytest.raises(AudiovqError, match=r"torchaudio: .*audiovq\[vctk\].* download it by hand"):
        vctk.vctk_url_and_checksum()

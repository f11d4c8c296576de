"""What users write: the script of a stranger, the microphone's loop, and the code of the documentation."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import soundfile

from helpers.models import DATA

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))


def test_a_stranger(
    three_levels_path: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import stranger

    stranger.main(three_levels_path, recording, tmp_path / "hub")
    said = capsys.readouterr().out
    assert "steps of 3 codes" in said
    assert "look-ahead: 0." in said


def test_the_microphone_speaks_to_itself(
    three_levels_path: Path,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import microphone

    options = ["--model", str(three_levels_path), "--file", str(recording), "--out", str(tmp_path / "a.wav")]
    monkeypatch.setattr(sys, "argv", ["microphone.py", *options])
    microphone.main()
    assert soundfile.info(tmp_path / "a.wav").frames == soundfile.info(recording).frames
    ahead, computing = capsys.readouterr().out.splitlines()
    found = re.fullmatch(r"look-ahead: (\d+) ms \((\d+) to codes, (\d+) to sound\)", ahead)
    assert found is not None
    assert abs(int(found[1]) - int(found[2]) - int(found[3])) <= 1
    usual = re.match(r"computing: (\d+) ms a block of 240 ms", computing)
    assert usual is not None
    assert int(usual[1]) < 200


def test_the_code_of_the_page_runs(
    three_levels_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page in order, as one program."""
    text = (ROOT / "docs" / "language-models.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    assert program.count("import") >= 3
    for name in ("ls1998_008.flac", "p314_272.flac"):
        (tmp_path / "recordings").mkdir(exist_ok=True)
        shutil.copy(DATA / name, tmp_path / "recordings" / name)
    monkeypatch.chdir(tmp_path)
    exec(
        compile(
            program.replace("audiovq.load()", f"audiovq.load({str(three_levels_path)!r})"), "page", "exec"
        ),
        {},
    )
    assert (tmp_path / "tuned" / "model.safetensors").exists()

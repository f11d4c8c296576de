"""Curves of training: metrics read by stage, smoothed, drawn whole or not at all."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.plots.curves import _Curve, _draw_stage, _read_metrics, _smoothed, _StageCurves, draw_curves


@pytest.fixture
def training_run(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    with open(folder / "metrics.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["stage", "step", "seconds", "name", "value"])
        for stage, names in enumerate((("magnitude", "mel", "perplexity"), ("bits", "norm"))):
            for step in range(20, 2_001, 20):
                for number, name in enumerate(names):
                    value = (1 + number) * (3 + 50 / step)
                    rows.writerow([stage, step, f"{step:.1f}", name, f"{value:.6g}"])
                    if step % 500 == 0:
                        rows.writerow([stage, step, f"{step:.1f}", f"held_{name}", f"{value:.6g}"])
        file.write("1,2020,20")  # a run that still goes on
    return folder


def picture_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])


def test_metrics_are_read_by_stage(training_run: Path) -> None:
    codes, wavenet = _read_metrics(training_run)
    assert set(wavenet.curves) == {"bits", "norm", "held_bits", "held_norm"}
    assert codes.curves["held_mel"].steps.tolist() == [500, 1_000, 1_500, 2_000]
    assert codes.curves["mel"].hours[-1] == pytest.approx(2_000 / 3_600)
    assert codes.curves["mel"].values[0] == 2 * (3 + 50 / 20)


def test_smoothing_keeps_a_line_and_takes_noise_away() -> None:
    line = np.arange(500.0)
    np.testing.assert_allclose(_smoothed(line)[5:-5], line[5:-5])
    noise = np.random.default_rng(0).normal(size=1_000)
    assert _smoothed(noise).std() < 0.35 * noise.std()
    assert _smoothed(np.array([4.0])).tolist() == [4.0]


def test_curves_are_a_picture(training_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    assert run(["curves", str(training_run), "-o", str(one)]) == 0
    assert run(["curves", str(training_run), str(training_run / "metrics.csv"), "-o", str(two)]) == 0
    (width, height), (same, twice) = picture_size(one), picture_size(two)
    assert 800 < width < 2_000
    assert 400 < height < 1_000
    assert one.stat().st_size > 20_000
    assert same == width
    assert twice == 2 * height
    capsys.readouterr()
    assert run(["curves", str(training_run), "-o", str(one)]) == 1
    assert "--force" in capsys.readouterr().err


def test_a_run_of_one_point_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.csv").write_text(
        "stage,step,seconds,name,value\n0,4,1.1,held_bits,7.8\n0,4,1.1,mel,0\n"
    )
    draw_curves([tmp_path], tmp_path / "x.png")
    assert picture_size(tmp_path / "x.png")[0] > 800


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        ("a,b\n1,2\n", "not the metrics"),
        ("stage,step,seconds,name,value\n0,x,1,bits,2\n", "not the metrics"),
        ("stage,step,seconds,name,value\n", "no metrics yet"),
    ],
)
def test_what_is_no_run_is_one_line(content: str | None, problem: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AudiovqError, match=problem):
        draw_curves([tmp_path], tmp_path / "x.png")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [["-o", "x.png"], ["a"], ["a", "b", "-o", "x.png", "--title", "one"]],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["curves", *arguments]) == 2
    assert ": error: " in capsys.readouterr().err


def test_levels_have_panels_of_their_own(tmp_path: Path) -> None:
    """A perplexity of each level is no loss term, and bits of each stand beside those of a step."""
    plt = pytest.importorskip("matplotlib.pyplot")
    for names, labels in (
        (("mel", "loud", "perplexity_1", "perplexity_2", "bits_per_code"), ["loss terms", "perplexity"]),
        (("bits", "bits_1", "bits_2"), ["bits a step"]),
    ):
        curve = _Curve(np.arange(1.0, 100), np.arange(1.0, 100) / 3600, np.linspace(5, 2, 99))
        figure = plt.figure()
        _draw_stage(figure, _StageCurves(0, dict.fromkeys(names, curve)), "x", None, "code")
        assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == labels
        plt.close(figure)

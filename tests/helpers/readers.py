"""Every reader of files: good files to start from, how to damage them, and how to read them."""

from __future__ import annotations

import gzip
import io
import itertools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from audiovq.audio.reader import AudioReader
from audiovq.config.image import load_image_config
from audiovq.config.prior import PriorConfig, PriorTrainingConfig
from audiovq.config.speech import CodebookConfig, load_speech_config
from audiovq.config.toml import apply_override, load_toml
from audiovq.data.download import unzip
from audiovq.data.listing import MANIFEST_NAME, list_recordings, parse_measures
from audiovq.errors import AudiovqError
from audiovq.image.codes import CodeGrid
from audiovq.image.dataset import open_pictures
from audiovq.image.files import read_picture
from audiovq.image.modelfile import _IMAGE_KIND, load_image_model
from audiovq.io.codestream import CodeStreamHeader, CodeStreamWriter
from audiovq.plots.curves import _read_metrics
from audiovq.prior.bitstream import compress_codes, decompress_codes, parse_bitstream
from audiovq.prior.engine import PriorEngine
from audiovq.prior.file import _KIND as PRIOR_KIND
from audiovq.prior.file import load_prior
from audiovq.speech.codes import CodeFormat, CodeSequence
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import _KIND, Speaker, load_model, read_header, save_model
from audiovq.speech.rawcodes import open_raw_codes, read_raw_codes
from audiovq.tables.parquet import ParquetFormat
from audiovq.tables.row import TableHeader, TableRow
from audiovq.tables.shards import ShardFormat
from audiovq.tables.table import table_format
from audiovq.training.checkpoint import Checkpoint, resuming
from helpers import mutate
from helpers.images import photo, save_tiny
from helpers.models import save_tiny_prior, speech, tiny_config
from helpers.priors import CONFIG, FORM, LEVELS, K, drawn, tiny_prior

_MOST_BLOCKS = 2_000
_PRESETS = Path(__file__).parents[2] / "audiovq" / "config" / "presets"


@dataclass(frozen=True)
class FuzzedReader:
    """A reader, and files for it."""

    name: str
    seeds: tuple[tuple[str, bytes], ...]
    """Name and content of good files."""
    mutate: mutate.Mutator
    read: Callable[[Path], object]

    def case(self, rng: Random) -> tuple[str, bytes]:
        """Name and content of one damaged file."""
        name, content = rng.choice(self.seeds)
        return name, self.mutate(content, rng.choice(self.seeds)[1], rng)


def make_readers(folder: Path, recordings: Path | None = None) -> list[FuzzedReader]:
    """All readers.

    Args:
        folder: for the good files.
        recordings: a folder of more good recordings.
    """
    others = (*_tables(), *_sounds(folder, recordings))
    return [*_models(folder), *_codes(folder), *_texts(folder), *_pictures(folder), *others]


def _models(folder: Path) -> list[FuzzedReader]:
    torch.manual_seed(4)
    config = tiny_config(codebook=CodebookConfig(size=32, levels=3, frames_per_step=2, dim=4))
    model = folder / "m.safetensors"
    save_model(
        model, WaveformModel(config, 2).eval(), [Speaker(i, n, "", 1.5) for i, n in enumerate("ab")], {}
    )
    prior = save_tiny_prior(model, PriorConfig(16, 24, 12, (1, 2, 4), dropout=0.0))
    image = save_tiny(folder / "i.safetensors")
    checkpoint = folder / "c.safetensors"
    header: dict[str, Any] = {"config": {}, "stage": 0, "step": 7, "seconds": [1.5, 0.0], "best": [0.5, 1, 2]}
    linear = torch.nn.Linear(2, 3)
    Checkpoint(header, {"model": dict(linear.state_dict()), "ema": {"bias": torch.ones(3)}}).save(checkpoint)

    def resume(path: Path) -> None:
        found = Checkpoint.load(path)
        with resuming(path):
            linear.load_state_dict(found.groups["model"])
            found.progress(2)
            found.best()

    kinds = [
        ("speech model", model, mutate.changed_model(_KIND), load_model),
        ("model header", model, mutate.changed_model(_KIND), read_header),
        ("prior", prior, mutate.changed_model(PRIOR_KIND), load_prior),
        ("image model", image, mutate.changed_model(_IMAGE_KIND), load_image_model),
        ("checkpoint", checkpoint, mutate.changed_checkpoint, resume),
    ]
    return [FuzzedReader(n, ((p.name, p.read_bytes()),), change, read) for n, p, change, read in kinds]


def _codes(folder: Path) -> list[FuzzedReader]:
    codes = CodeSequence(
        np.arange(40, dtype=np.uint16), 128, num_samples=40 * 128, voice=(1, 2), codebook_size=64
    )
    codes.save(folder / "a.npy")
    grid = CodeGrid(np.arange(12, dtype=np.uint16).reshape(3, 4), 4, 12, 16, 3, "cat")
    grid.save(folder / "g.npy")
    # Beside a sidecar that is being read, the codes that belong to it.
    beside = folder / "beside"
    beside.mkdir()

    def sidecar(path: Path) -> None:
        array = path.with_suffix(".npy")
        array.write_bytes((folder / array.name).read_bytes())
        (CodeSequence if path.name == "a.json" else CodeGrid).load(array)

    def array(path: Path) -> None:
        (CodeSequence if path.name == "b.npy" else CodeGrid).load(path)

    engine = PriorEngine(tiny_prior(K, LEVELS, CONFIG))
    streams = [
        compress_codes(drawn(engine, 9, seed, **known), engine, FORM)
        for seed, known in enumerate(
            (
                {},
                {"voice": (1, 2, 3, 4, 5), "gain": 0.1},
                {"sample_rate": 44_100, "gain": None, "partial": True},
            )
        )
    ]

    def stream(path: Path) -> None:
        decompress_codes(parse_bitstream(path.read_bytes(), str(path)), engine, FORM)

    arrays = (("b.npy", (folder / "a.npy").read_bytes()), ("h.npy", (folder / "g.npy").read_bytes()))
    sidecars = tuple((n, (folder / n).read_bytes()) for n in ("a.json", "g.json"))
    return [
        FuzzedReader("npy codes", arrays, mutate.changed_npy, array),
        FuzzedReader("sidecar", sidecars, mutate.changed_json, sidecar),
        FuzzedReader("avq", tuple(("a.avq", s) for s in streams), mutate.changed_sealed, stream),
    ]


def _texts(folder: Path) -> list[FuzzedReader]:
    def configuration(path: Path) -> None:
        if path.stem.startswith("image"):
            load_image_config(path)
        elif path.stem == "prior":
            load_toml(path, [], PriorTrainingConfig)
        else:
            load_speech_config(path)

    def override(path: Path) -> None:
        load_speech_config("default", [path.read_bytes().decode("utf-8", "surrogateescape")])
        apply_override({}, path.read_bytes().decode("utf-8", "surrogateescape"))

    def manifest(path: Path) -> None:
        for row in itertools.islice(list_recordings(path.parent), 1_000):
            if row.measures:
                parse_measures(row.measures)

    presets = tuple((path.name, path.read_bytes()) for path in sorted(_PRESETS.glob("*.toml")))
    lines = ("model.codebook.size=256", "model.encoder.dilations = [1, 2, 4]", "train.stages.0.steps=10")
    columns = "path\tspeaker\tsplit\tsamples\trate\tgain"
    rows = f"{columns}\na/b.wav\tann\ttrain\t16000\t16000\t0.5\nc.wav\t\t\t5\t8000\t1\n"
    metrics = "stage,step,seconds,name,value\n0,1,2.5,loss,0.5\n0,2,3.5,loss,0.4\n1,1,1.0,bits,3\n"
    return [
        FuzzedReader("configuration", presets, mutate.changed_toml, configuration),
        FuzzedReader("--set", tuple(("o", x.encode()) for x in lines), mutate.changed_toml, override),
        FuzzedReader("manifest", ((MANIFEST_NAME, rows.encode()),), mutate.changed_table, manifest),
        FuzzedReader("metrics", (("metrics.csv", metrics.encode()),), mutate.changed_table, _read_metrics),
    ]


def _pictures(folder: Path) -> list[FuzzedReader]:
    image = Image.fromarray(photo(20, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for ending, mode, options in (
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {"exif": exif}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "I;16", {}),
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("GIF", "P", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "packbits"}),
        ("BMP", "RGB", {}),
        ("WEBP", "RGBA", {}),
        ("PPM", "RGB", {}),
    ):
        buffer = io.BytesIO()
        source = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24)) if mode == "I;16" else image
        (source if mode == "I;16" else image.convert(mode)).save(buffer, ending, **options)
        made.append((f"a.{ending.lower()}", buffer.getvalue()))
    pixels = np.stack([photo(6, 8, 1)[..., 0]] * 5)
    labels = np.arange(5) % 2
    npz = io.BytesIO()
    np.savez_compressed(npz, images=pixels, labels=labels)
    plain = io.BytesIO()
    np.savez(plain, images=np.stack([photo(6, 8)] * 5))
    idx = struct.pack(">4I", 0x803, 5, 6, 8) + pixels.tobytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("wav48/p1/p1_001.wav", b"sound" * 50)
        target.writestr("txt/p1/p1_001.txt", "Please call Stella.")

    def unpack(path: Path) -> None:
        unzip(path, path.parent / "unpacked")

    def idx_folder(path: Path) -> None:
        open_pictures(path.parent, 1)

    return [
        FuzzedReader("picture", tuple(made), mutate.changed_picture, lambda path: read_picture(path, 3)),
        FuzzedReader(
            "npz",
            (("a.npz", npz.getvalue()), ("b.npz", plain.getvalue())),
            mutate.changed_archive,
            lambda path: open_pictures(path, 3),
        ),
        FuzzedReader(
            "idx",
            (("train-images-idx3-ubyte", idx), ("train-images-idx3-ubyte.gz", gzip.compress(idx))),
            mutate.changed_bytes,
            idx_folder,
        ),
        FuzzedReader("zip", (("a.zip", archive.getvalue()),), mutate.changed_archive, unpack),
    ]


def _tables() -> list[FuzzedReader]:
    rng = np.random.default_rng(3)
    form = CodeFormat(128, 1, 64, 2, 16_000, "0123456789abcdef")
    header = TableHeader("tiny", form)
    rows = [
        TableRow(
            f"ann/{n}",
            CodeSequence(
                (rng.integers(64, size=(n + 5, 2)) + np.array([0, 64])).astype(np.uint16).reshape(-1),
                128,
                num_samples=(n + 5) * 128,
                codebook_size=64,
                voice=(1, 2) if n else None,
                fingerprint=form.fingerprint,
            ),
            "ann" if n else None,
        )
        for n in range(3)
    ]

    def table(path: Path) -> None:
        kind = table_format(path)
        failures = []
        for row in kind.rows(path):
            try:
                row.build(form)
            except AudiovqError as error:
                failures.append(error)
        kind.index(path)
        if failures:
            raise failures[0]

    raw = io.BytesIO()
    stream_header = CodeStreamHeader(2, 128, 64, 16_000, 44_100, 0.5, form.fingerprint)
    writer = CodeStreamWriter(raw, stream_header)
    writer.write(rows[2].codes.rows)
    writer.close(0)

    def stream(path: Path) -> None:
        reader, rest = open_raw_codes(io.BytesIO(path.read_bytes()))
        if reader is None:
            CodeSequence.load(rest)
        else:
            read_raw_codes(reader).for_model(form)

    parts = [(f"a{kind.ending}", kind.pack(header, rows)) for kind in (ParquetFormat(), ShardFormat())]
    return [
        FuzzedReader("raw codes", (("a.raw", raw.getvalue()),), mutate.changed_bytes, stream),
        FuzzedReader("parquet", (parts[0],), mutate.changed_parquet, table),
        FuzzedReader("shard", (parts[1],), mutate.changed_shard, table),
    ]


def _sounds(folder: Path, recordings: Path | None) -> list[FuzzedReader]:
    given = sorted(path for path in recordings.iterdir() if path.is_file()) if recordings else []
    made = [(path.name, path.read_bytes()) for path in given]
    samples = speech(4_000)
    for ending, kind in (
        *(("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS")),
        *(("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_16"), ("au", "ULAW")),
    ):
        path = folder / f"s.{ending}"
        soundfile.write(path, samples, 16_000, kind)
        made.append((path.name, path.read_bytes()))

    def sound(path: Path) -> None:
        for partial in (False, True):
            with AudioReader(path, partial=partial) as reader:
                for _ in itertools.islice(reader.blocks(), _MOST_BLOCKS):
                    pass

    return [FuzzedReader("recording", tuple(made), mutate.changed_bytes, sound)]

"""The files of `audiovq export`: an encoder and a decoder as ONNX, with the facts that using them takes."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from audiovq.audio.loudness import TARGET_LOUDNESS_DB
from audiovq.export.graphs import DecoderGraph, EncoderGraph
from audiovq.export.paths import check_onnx_packages, onnx_paths
from audiovq.io.atomic import PartialFile
from audiovq.nn.guard import guarded
from audiovq.speech.modelfile import ModelHeader, load_model
from audiovq.speech.modelfolder import find_model

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""Of the operators of ONNX; onnxruntime has it since 1.14."""

# By input.
_Axes = dict[str, dict[int, torch.export.Dim] | None]


class _GraphSpec(NamedTuple):
    """A network and what its graph takes and gives."""

    module: nn.Module
    examples: tuple[Tensor, ...]
    axes: _Axes  # those whose length is free, by input
    outputs: list[str]
    facts: dict[str, object]


@guarded()
def export_onnx(
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    licence: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Write a model's encoder and its feed-forward decoder as ONNX (docs/export.md).

    The same model gives the same bytes with the same versions of torch, onnx and onnxscript.

    Args:
        out: `NAME.onnx`, which names both files.
        model: as for `audiovq.load`.
        licence: of the model, for the metadata; None: MIT for the shipped one, otherwise nothing.
        force: overwrite files that exist.

    Returns: the files (`onnx_paths`); of a model without a spectral head, the encoder alone.
    Raises: AudiovqError if a package is missing, a model cannot be read, or a file cannot be written.
    """
    check_onnx_packages()
    path = find_model(model).model
    if licence is None:
        licence = "MIT" if path == find_model(None).model else ""
    network, header = load_model(path)
    facts = {**_facts(header), "licence": licence}
    specs = [_encoder_spec(EncoderGraph(network))]
    if network.spectral_head is not None:
        specs.append(_decoder_spec(DecoderGraph(network), header))
    paths = onnx_paths(Path(out), len(specs) > 1)
    with ExitStack() as stack:
        files = [stack.enter_context(PartialFile(path, force=force)) for path in paths]
        for file, spec in zip(files, specs, strict=True):
            file.write(_graph_bytes(spec, facts))
    return paths


def _encoder_spec(module: EncoderGraph) -> _GraphSpec:
    has_voice = module.model.voice_encoder is not None
    return _GraphSpec(
        module,
        (torch.zeros(2 * module.model.code_hop + 1),),
        {"signal": {0: torch.export.Dim("samples", min=1)}},
        ["codes", "voice"] if has_voice else ["codes"],
        {"part": "encoder"},
    )


def _decoder_spec(module: DecoderGraph, header: ModelHeader) -> _GraphSpec:
    levels = header.code_format.levels
    free = {0: torch.export.Dim("steps", min=1)}
    if levels > 1:
        free[1] = torch.export.Dim("levels", min=1, max=levels)
    return _GraphSpec(
        module,
        (torch.zeros(5, levels, dtype=torch.long), torch.zeros(module.voice_values, dtype=torch.long)),
        {"codes": free, "voice": None},
        ["samples"],
        {"part": "decoder", "voice_values": module.voice_values},
    )


def _facts(header: ModelHeader) -> dict[str, object]:
    """What a program needs to know of a model, by key of the file's metadata."""
    form = header.code_format
    return {
        "model": header.config.name,
        "fingerprint": form.fingerprint,
        "sample_rate": form.model_rate,
        "hop": form.hop,
        "frames_per_step": form.frames_per_step,
        "levels": form.levels,
        "codebook_size": form.codebook_size,
        "high_pass_hz": header.config.high_pass_hz,
        "loudness_db": TARGET_LOUDNESS_DB,
    }


def _graph_bytes(spec: _GraphSpec, facts: dict[str, object]) -> bytes:
    """The content of a file."""
    with _quiet_exporter():
        program = torch.onnx.export(
            spec.module.eval(),
            spec.examples,
            dynamo=True,
            dynamic_shapes=spec.axes,
            output_names=spec.outputs,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None, "torch gives a program where it is asked for no file"
    proto: ModelProto = program.model_proto
    _strip_traces(proto)
    for key, value in {**facts, **spec.facts}.items():
        proto.metadata_props.add(key=key, value=str(value))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _strip_traces(proto: ModelProto) -> None:
    """Remove stack traces, which name files of this machine, and shapes inside the graph."""
    for part in (proto, proto.graph, *proto.functions, *proto.graph.node, *proto.graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for function in proto.functions:
        for node in function.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
    for value in (*proto.graph.input, *proto.graph.output):
        value.ClearField("metadata_props")
    proto.graph.ClearField("value_info")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not installed and on torch's own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)

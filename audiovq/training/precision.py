"""In which precision a device multiplies matrices fastest."""

from __future__ import annotations

import torch


def bf16_is_faster(device: torch.device) -> bool:
    """Whether matrix products run faster in bf16 than in fp32 on a device.

    On GPUs they do. On a CPU they do with AMX, and with AVX-512 where bf16 runs at the full rate (AMD since
    Zen 4: 98 against 57 billion multiply-adds a second of a core). Intel's processors without AMX, or in a
    virtual machine that hides it, do 45 in bf16 and 85 in fp32; without either, bf16 is emulated.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    from llvmlite import binding  # type: ignore[import-untyped]

    try:
        name, features = binding.get_host_cpu_name(), binding.get_host_cpu_features()
    except RuntimeError:  # a processor that LLVM has no list for
        return False
    amd = str(name).startswith("znver")
    return bool(features.get("amx-bf16") or (features.get("avx512bf16") and amd))

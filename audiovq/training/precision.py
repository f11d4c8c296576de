"""In which precision a device multiplies matrices fastest."""

from __future__ import annotations

import torch


def bf16_is_faster(device: torch.device) -> bool:
    """Whether matrix products run faster in bf16 than in fp32 on a device.

    CUDA devices that have bf16 are. Of CPUs those with AMX are, and those whose AVX-512 runs bf16 at the full
    rate (AMD since Zen 4: 98 against 57 billion multiply-adds a second of a core). Intel's without AMX, or in
    a virtual machine that hides it, do 45 in bf16 and 85 in fp32, and most others emulate it. Everything else
    counts as slower.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(False))
    if device.type != "cpu":
        return False
    from llvmlite import binding

    try:
        name = binding.get_host_cpu_name()
        features = binding.get_host_cpu_features()
    except RuntimeError:  # a processor that LLVM has no list for
        return False
    amd = str(name).startswith("znver")
    return bool(features.get("amx-bf16") or (features.get("avx512bf16") and amd))

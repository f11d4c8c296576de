"""Weights as the compiled loops read them, and the products with them."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.kernels.matmul import add_matmul
from audiovq.kernels.packing import (
    _in_pairs,
    aligned_zeros,
    copy_to_one_block,
    pack_matrix_panels,
    pad_to_panels,
    round_up_to_panel,
)
from audiovq.speech.packing import pack_decoder
from helpers.wavenets import tiny_decoder, unpaired


def test_panels_and_padding() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40, 33)).astype(np.float32)
    laid = pack_matrix_panels(matrix, row_parts=2)
    assert laid.shape == (2, 64, 32)
    assert laid.ctypes.data % 64 == 0
    whole = laid.transpose(0, 2, 1).reshape(2 * round_up_to_panel(20), 64)
    np.testing.assert_array_equal(whole[:20, :33], matrix[:20])
    np.testing.assert_array_equal(whole[32:52, :33], matrix[20:])
    assert not whole[20:32].any()
    assert not whole[:, 33:].any()
    np.testing.assert_array_equal(pad_to_panels(np.ones((3, 4), dtype=np.float32), 2).sum(axis=1), [4, 4, 4])
    assert aligned_zeros((5, 3)).shape == (5, 3)


def test_pairs_are_rounded_to_bfloat16() -> None:
    """Even weights from the low half of a word, odd ones from the word as it stands."""
    laid = np.random.default_rng(0).normal(size=(3, 64, 32)).astype(np.float32)
    laid[0, :8] = 0
    laid[1, 3] = 0
    laid[1, 5] = -1e-3  # alone in their pair, one of them negative
    pairs = _in_pairs(laid)
    assert pairs.shape == (3, 32, 32)
    assert pairs.ctypes.data % 64 == 0
    assert not pairs[0, :4].any()
    even = unpaired(pairs)[:, 0::2]
    odd = unpaired(pairs)[:, 1::2]
    # Half a unit; for odd ones more just below a power of two, above which units are twice as large.
    for got, true, most in ((even, laid[:, 0::2], 0.5001), (odd, laid[:, 1::2], 0.76)):
        unit = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(true), 1e-30))) - 7)
        assert (np.abs(got.astype(np.float64) - true) <= most * unit).all()
    tiny = np.abs(odd[odd != 0]).min()
    assert tiny >= np.finfo(np.float32).tiny  # no subnormal numbers: they are slow


@pytest.mark.parametrize("outputs", [32, 64, 96])
@pytest.mark.parametrize("rows", [1, 3, 4, 6])
@pytest.mark.parametrize("paired", [False, True])
def test_products(outputs: int, rows: int, paired: bool) -> None:
    """An odd number of panels too, of which the last is computed twice."""
    rng = np.random.default_rng(outputs + rows)
    laid = pack_matrix_panels(rng.normal(size=(outputs, 64)).astype(np.float32))
    exact = laid
    if paired:
        laid = _in_pairs(laid)
        exact = unpaired(laid)
    x = rng.normal(size=(rows, 64)).astype(np.float32)
    start = rng.normal(size=(rows, outputs)).astype(np.float32)
    out = start.copy()
    add_matmul(out, laid, x, rows)
    matrix = exact.transpose(0, 2, 1).reshape(outputs, 64).astype(np.float64)
    np.testing.assert_allclose(out, start + x @ matrix.T, atol=2e-5)
    alone = start[-1:].copy()
    add_matmul(alone, laid, x[-1:], 1)
    np.testing.assert_array_equal(alone[0], out[-1])


def test_weights_in_one_block() -> None:
    loose = pack_decoder(tiny_decoder(4, 16), "float32")
    block = copy_to_one_block(loose)
    assert type(block) is type(loose)
    assert block.scale == loose.scale
    np.testing.assert_array_equal(block.stack.past, loose.stack.past)
    np.testing.assert_array_equal(block.table, loose.table)
    places = [
        a.ctypes.data for a in (block.stack.dilations, block.stack.now, block.head_out_proj, block.table)
    ]
    assert places == sorted(places)
    assert not any(p % 64 for p in places)
    assert not places[0] % (1 << 21)

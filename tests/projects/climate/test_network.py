import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from downscaling.evaluate import bicubic
from downscaling.network import Downscaler


@pytest.fixture(scope="module")
def coarse():
    return torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1)) * 4.0 + 290.0


@pytest.fixture(scope="module")
def restless():
    """Return a network whose last layer is not zero."""
    torch.manual_seed(3)
    model = Downscaler(width=8, depth=2, scale=3.0)
    torch.nn.init.normal_(model.last.weight, std=0.2)
    return model.eval()


def test_untrained_it_is_torchs_bicubic(coarse):
    expected = torch.nn.functional.interpolate(
        coarse[:, None].double(), scale_factor=4, mode="bicubic", align_corners=False
    )[:, 0]
    with torch.no_grad():
        ours = Downscaler(width=8).eval()(coarse)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(bicubic(coarse.numpy()), expected, rtol=1e-6, atol=1e-5)


@given(shift=st.floats(-1000.0, 1000.0), factor=st.floats(0.01, 100.0))
def test_shift_and_positive_factor_pass_through(restless, coarse, shift, factor):
    anomaly = coarse - 290.0
    with torch.no_grad():
        plain = restless(anomaly).double()
        moved = restless(anomaly * factor + shift).double()
    expected = plain * factor + shift
    size = factor * plain.abs().max() + abs(shift)
    assert float((moved - expected).abs().max() / size) < 1e-5


def test_a_patch_is_answered_alone_as_in_a_batch(restless, coarse):
    with torch.no_grad():
        together = restless(coarse)
        alone = torch.cat([restless(patch[None]) for patch in coarse])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-4)


def test_a_constant_patch_stays_constant(restless):
    with torch.no_grad():
        answer = restless(torch.full((1, 8, 8), 273.0))
    torch.testing.assert_close(answer, torch.full((1, 32, 32), 273.0))

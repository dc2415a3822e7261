"""Log-likelihood against known densities."""

from __future__ import annotations

import math

import pytest
import torch
from cases import COORDINATES, paired

from ksched import VP, Process, log_likelihood
from ksched.exact.mixture import GaussianMixture

RANGES = {"vp_preserving": (0.03, 4000.0), "ve": (0.03, 4000.0), "flow": (0.02, 1.0)}


@pytest.mark.parametrize("name", COORDINATES)
def test_the_density_of_a_mixture(name: str) -> None:
    process, (low, high) = COORDINATES[name], RANGES[name]
    model = GaussianMixture([0.6, 0.4], [[1.0], [-0.7]], [[0.2], [0.3]], process=process)
    x = torch.linspace(-1.5, 1.8, 7, dtype=torch.float64)[:, None]
    found = log_likelihood(paired(model), x, process, sigma_min=low, sigma_max=high, rtol=1e-8, atol=1e-8)
    assert found.value.shape == (7,)
    # in one dimension a single probe is exact; what is left is that data is not quite noise at the top
    assert (found.value - model.log_density(x, low)).abs().max() < (1e-5 if name == "flow" else 1e-3)


def test_more_dimensions_are_right_on_average() -> None:
    model = GaussianMixture([1.0], [[0.1, 0.2, -0.3]], [[[0.5, 0.2, 0.0], [0.2, 0.4, 0.1], [0.0, 0.1, 0.3]]])
    x = torch.tensor([[0.3, -0.2, 0.4]], dtype=torch.float64).repeat(400, 1)
    found = log_likelihood(model, x, VP(), sigma_min=0.05, seed=3)
    truth = float(model.log_density(x[:1], 0.05))
    assert abs(float(found.value.mean()) - truth) < 4 * float(found.value.std()) / 20 + 0.02
    assert float(found.value.std()) > 1e-3, "the probes of the items differ"
    assert torch.equal(found.value, log_likelihood(model, x, VP(), sigma_min=0.05, seed=3).value)


def test_units_are_nats_of_the_state() -> None:
    process: Process = VP()

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + sigma.reshape(-1, 1) ** 2)  # exact for standard normal data

    x = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    value = log_likelihood(model, x, process, sigma_min=0.03).value
    assert value.dtype == torch.float32
    want = torch.tensor([-math.log(2 * math.pi), -math.log(2 * math.pi) - 1.0])
    torch.testing.assert_close(value, want, rtol=0, atol=0.02)


def test_nonsense_is_refused() -> None:
    def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was called")

    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match="sigma_min must be above 0 and below sigma_max; got sigma_min=20"):
        log_likelihood(never, x, sigma_min=20.0)
    with pytest.raises(ValueError, match="probes must be at least 1; got 0"):
        log_likelihood(never, x, probes=0)
    with pytest.raises(TypeError, match="x must be a torch tensor"):
        log_likelihood(never, [1.0])  # type: ignore[arg-type]

"""The cases that tests are parametrised over: always the registries themselves, never a list kept by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ksched import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, Process, TrigFlow
from ksched.options import Option
from ksched.samplers.registry import sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec

if TYPE_CHECKING:
    import torch

    from ksched.exact import GaussianMixture

SPECS = tuple(spec for spec in samplers() if not spec.adaptive)  # those that have a plan
NAMES = [str(spec.name) for spec in SPECS]
ADAPTIVE = tuple(spec for spec in samplers() if spec.adaptive)
EVERY_NAME = [str(spec.name) for spec in samplers()]

PROCESSES: dict[str, Process] = {
    "vp": VP(),
    "vp_linear": VP.linear(),
    "vp_cosine": VP.cosine(),
    "vp_zero_snr": VP(zero_terminal_snr=True),
    "vp_preserving": VP(variance_preserving=True),
    "vp_distilled": VP(keep_every=20),
    "vp_video": VP(log_sigma_timesteps=True),
    "vp_snr_shift": VP(snr_shift=3.0),
    "edm": EDM(),
    "angle_v": AngleV(),
    "ve": VE(),
    "cascade": Cascade(),
    "flow": Flow(),
    "flow_shift3": Flow(3.0),
    "flow_mu": Flow.of_mu(),
    "flow_noise_scale": Flow(3.0, noise_scale=7.5),
    "flow_reverse": Flow(3.0, reverse_time=True),
    "flow_ve": FlowVE(),
    "trig_flow": TrigFlow(),
}


def process_for(sampler: SamplerSpec | str, wanted: Process | None = None) -> Process:
    """A process to run a sampler on: the wanted one, or Stable Diffusion's; a flow process where it takes no other."""
    spec = sampler_spec(sampler) if isinstance(sampler, str) else sampler
    process = PROCESSES["vp"] if wanted is None else wanted
    return process if spec.runs_on(process) else PROCESSES["flow"]


COORDINATES = {name: PROCESSES[name] for name in ("vp_preserving", "ve", "flow")}  # the three forms a state can have


def corners(spec: SamplerSpec) -> list[dict[str, Any]]:
    """Default options, then every option of a sampler moved alone to another value of its kind, but to no quirk."""
    found: list[dict[str, Any]] = [{}]
    for option in spec.own_options.values():
        values = [value for value in _others(option) if value != option.default and not option.is_peer_value(value)]
        found += [{option.name: value} for value in values]
    if "s_churn" in spec.own_options:  # limits and size of churn act only with churn
        found += [{"s_churn": 3.0}, {"s_churn": 40.0, "s_tmin": 0.1, "s_tmax": 5.0}]
    return found


def _others(option: Option) -> list[Any]:
    if option.kind is bool:
        return [True, False]
    if option.kind is int:
        return [n for n in (1, 2, 3, 4) if option.low <= n <= option.high]
    if option.kind is float:
        # factors of the noise change the law on purpose, so they stay 1
        kept = option.name.startswith("s_noise") or option.name in ("s_tmin", "s_tmax")
        return [] if kept else [value for value in (0.0, 0.6, 1.0) if option.low <= value <= option.high]
    return list(option.kind.__args__)


def no_noise(spec: SamplerSpec) -> dict[str, Any]:
    """Options that switch the noise off; none if it is never on."""
    dials = (name for name, option in spec.own_options.items() if option.per_step and name != "s_noise")
    return {name: 0.0 for name in dials if spec.own_options[name].default > 0 or name == "eta"}


def can_be_silent(spec: SamplerSpec) -> bool:
    """Whether a sampler can run without noise."""
    return spec.draws == 0 or bool(no_noise(spec))


def paired(model: Callable[..., Any]) -> Callable[..., Any]:
    """A model that answers with its prediction twice, as guidance without a condition does."""

    def both(x: Any, sigma: Any) -> tuple[Any, Any]:
        denoised = model(x, sigma)
        return denoised, denoised

    return both


def half(x: Any, sigma: Any) -> tuple[Any, Any]:
    """A model that answers half its input, and another fraction unconditionally."""
    return x / 2, x / 3


CORNERS = [(spec, options) for spec in SPECS for options in corners(spec)]
CORNER_IDS = [
    f"{spec.name}-{'-'.join(f'{k}={v}' for k, v in options.items()) or 'default'}" for spec, options in CORNERS
]


def gaussian_denoiser(process: Process, mean: float = 0.3, std: float = 0.7) -> Callable[..., torch.Tensor]:
    """Exact posterior mean for normal data, in plain tensor operations of the state's own dtype."""
    import torch

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        sigma = sigma.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, *[1] * (x.ndim - 1))
        alpha, noise = process.alpha(sigma), process.noise_std(sigma)
        gain = alpha * std**2 / ((alpha * std) ** 2 + noise**2)
        return (mean + gain * (x - alpha * mean)).to(x.dtype)

    return denoise


def quick(mixture: GaussianMixture) -> Callable[..., torch.Tensor]:
    """The denoiser of a mixture of round parts, in a third of the time that any covariance takes.

    One line of Bayes' rule per part; tests/test_exact.py compares it.
    """
    import torch

    arrays = mixture.weights, mixture.means, mixture.covariances.reshape(len(mixture.weights), -1)[:, 0]
    of_dtype = {dtype: [torch.tensor(a, dtype=dtype) for a in arrays] for dtype in (torch.float32, torch.float64)}
    process = mixture.process

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        weights, means, variances = of_dtype[x.dtype]
        sigma = sigma.to(x.dtype).reshape(-1, 1)
        alpha, noise = process.alpha(sigma), process.noise_std(sigma)
        total = alpha * alpha * variances + noise * noise
        apart = x[:, None] - alpha[..., None] * means
        logs = weights.log() - (means.shape[1] * total.log() + apart.square().sum(-1) / total) / 2
        share = logs.softmax(1)
        denoised: torch.Tensor = share @ means + ((share * alpha * variances / total)[..., None] * apart).sum(1)
        return denoised

    return denoise


def start_state(
    process: Process, sigma: float, shape: tuple[int, ...] = (3, 5), seed: int = 1, **how: Any
) -> torch.Tensor:
    """Pure noise at a level, from a generator of its own."""
    import torch

    eps = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=how.pop("dtype", torch.float64))
    return torch.as_tensor(process.add_noise(torch.zeros_like(eps), eps, sigma), **how)

"""The functions ``sample_*`` with k-diffusion's signatures, each backed by a ksched sampler."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from ksched.denoisers.answer import answer
from ksched.execution.adaptive_run import AdaptiveRun, finish
from ksched.execution.loop import StepInfo, drive
from ksched.execution.registers import check_state
from ksched.execution.run import Run
from ksched.integrations.k_diffusion.noise import BrownianTreeNoiseSampler, NoiseSampler, global_noise
from ksched.integrations.k_diffusion.process import process_of
from ksched.integrations.k_diffusion.schedules import EMPTY, PUBLIC, as_number, schedule_signature
from ksched.names.enums import Dialect
from ksched.noise.sources import Seed, item_seeds
from ksched.options import check_steps
from ksched.probability_flow.likelihood import log_likelihood as _log_likelihood
from ksched.processes import Process, default_process
from ksched.sampler import Sampler, build_sampler
from ksched.samplers.dpm_fast import fast_orders
from ksched.samplers.spec import SamplerSpec

__all__ = ["log_likelihood", "sampler_function"]


# --------------------------------------------------------------------------------------------------- forms of functions
#: arguments of functions that take a range instead of sigmas; n is a number of model calls
_RANGE = ("sigma_min", "sigma_max", "n")


#: defaults of arguments that are not options of a ksched sampler
_MORE = {"noise_sampler": None, "return_info": False}


_RUN = ("extra_args", "callback", "disable")


def _published(spec: SamplerSpec) -> tuple[str, ...] | None:
    """The arguments of k-diffusion's own function; None if it has none."""
    return spec.arguments(Dialect.K_DIFFUSION)


def _range(spec: SamplerSpec) -> tuple[str, ...]:
    """The arguments that give a range; () if the function takes sigmas."""
    return tuple(name for name in _published(spec) or () if name in _RANGE)


def _parameters(spec: SamplerSpec) -> dict[str, Any]:
    """Names and defaults of a sampler's arguments; `EMPTY` for those without a default."""
    needed = dict.fromkeys(("model", "x", *(_range(spec) or ("sigmas",))), EMPTY)
    options: dict[str, Any] = {name: option.default for name, option in spec.own_options.items()}
    names = list(_published(spec) or ())
    if _published(spec) is None:
        noisy = spec.draws != 0 or options.keys() & {"eta", "s_churn", "tau"}
        first = [name for name in ("eta", "s_noise") if name in options]
        names = [*first, *(["noise_sampler"] if noisy else []), *(name for name in options if name not in first)]
    defaults: dict[str, Any] = {**options, **_MORE}
    own = {name: defaults[name] for name in names if name not in _RANGE}
    return {**needed, **dict.fromkeys(_RUN), **own}


class _Call(NamedTuple):
    """One call of a sampler."""

    model: Callable[..., Any]
    x: torch.Tensor
    extra_args: Mapping[str, Any]
    callback: Callable[[dict[str, Any]], object] | None
    disable: bool | None
    noise_sampler: NoiseSampler | None
    seed: Seed | None

    @classmethod
    def of(cls, given: dict[str, Any]) -> _Call:
        """The arguments that all samplers have, removed from ``given`` and checked.

        Raises
        ------
        TypeError, ValueError
            If an argument is invalid.
        """
        model, x = given.pop("model"), given.pop("x")
        extra_args, callback = given.pop("extra_args", None), given.pop("callback", None)
        noise_sampler, seed = given.pop("noise_sampler", None), given.pop("seed", None)
        check_state(x)
        for name, value in {"model": model, "callback": callback, "noise_sampler": noise_sampler}.items():
            if not callable(value) and (value is not None or name == "model"):
                raise TypeError(f"{name} must be callable; got {type(value).__name__}")
        if extra_args is not None and not isinstance(extra_args, Mapping):
            raise TypeError(f"extra_args must be a dictionary or None; got {type(extra_args).__name__}")
        if noise_sampler is not None and seed is not None:
            raise ValueError("pass either seed or noise_sampler, not both")
        if seed is not None:
            item_seeds(seed, len(x))
        return cls(model, x.detach(), extra_args or {}, callback, given.pop("disable", None), noise_sampler, seed)

    def start(self, sampler: Sampler, sigmas: torch.Tensor) -> Run | AdaptiveRun:
        """The run, with the requested noise."""
        host, spec = sampler.sigmas.tolist(), sampler.spec
        noise_sampler = self.noise_sampler
        if noise_sampler is None and spec.brownian_tree and sampler.plan.draws:
            ends = min(sigma for sigma in host if sigma > 0), host[0]
            return sampler.start(self.x, noise=BrownianTreeNoiseSampler(self.x, *ends, seed=self.seed))
        if self.seed is not None:
            return sampler.start(self.x, seed=self.seed)
        if noise_sampler is None:
            each = host if "s_churn" in (_published(spec) or ()) else None
            return sampler.start(self.x, noise=global_noise(self.x, each))
        given = dict(zip(host, sigmas, strict=True))

        def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
            ends = (given[s] if s in given else sigmas.new_tensor(s) for s in (sigma_from, sigma_to))
            return noise_sampler(*ends)

        return sampler.start(self.x, noise=noise)

    def ask(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        """Call the model."""
        return self.model(x, sigma.to(x.dtype), **self.extra_args)


@contextlib.contextmanager
def _progress(disable: bool | None, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar, as a function of the work done; without tqdm it does nothing."""
    bar = None
    if disable is not True:
        with contextlib.suppress(ImportError):
            from tqdm.auto import tqdm

            bar = tqdm(total=total, disable=disable)

    def update(done: int) -> None:
        if bar is not None:
            bar.update(done - bar.n)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()


@lru_cache(maxsize=64)
def _built(
    name: str, sigmas: tuple[float, ...], process: Process, dialect: str, options: tuple[tuple[str, Any], ...]
) -> Sampler:
    """The sampler of a call, cached because programs repeat the same few."""
    if not all(a < b for a, b in pairwise(sigmas)):
        return build_sampler(name, sigmas=sigmas, process=process, dialect=dialect, **dict(options))
    # Rising sigmas, from data to noise: the ODE of the same grid run down.
    down = build_sampler(name, sigmas=sigmas[::-1], process=process, dialect=dialect, **dict(options))
    if sigmas[0] == 0 or down.spec.adaptive or down.plan.draws:
        raise ValueError(
            f"sample_{name} must run from a higher to a lower sigma; got {sigmas[0]} to {sigmas[-1]}. To run up to "
            "noise, start above 0 and use a sampler that draws no noise, such as sample_euler, sample_dpmpp_2m or eta=0"
        )
    return replace(down, grid=replace(down.grid, levels=down.grid.levels[::-1]))


def _levels(sigmas: Any) -> torch.Tensor:
    """Sigmas as a floating-point tensor; a tensor is not copied."""
    try:
        levels = sigmas if isinstance(sigmas, torch.Tensor) else torch.tensor(np.asarray(sigmas, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise TypeError(f"sigmas must be a tensor or a list of numbers; got {sigmas!r}") from error
    if levels.ndim != 1:
        raise ValueError(f"sigmas must be one list of numbers; got shape {tuple(levels.shape)}")
    return levels if levels.is_floating_point() else levels.to(torch.get_default_dtype())


def _ranged(name: str, given: dict[str, Any]) -> torch.Tensor:
    """The sigmas for a range, which is removed from the arguments."""
    low, high = (float(as_number(given.pop(end))) for end in ("sigma_min", "sigma_max"))
    steps = check_steps(as_number(given.pop("n"))) if "n" in given else 1
    if not (0 < low < math.inf and 0 < high < math.inf and low != high):
        raise ValueError(
            f"sample_{name}: sigma_min and sigma_max, the last and first sigma, must be above 0, finite and different; "
            f"got {low} and {high}"
        )
    levels = np.geomspace(high, low, steps + 1)
    levels[0], levels[-1] = high, low
    return torch.from_numpy(levels)


@cache
def sampler_function(spec: SamplerSpec) -> Callable[..., Any]:
    """A sampler in k-diffusion's form."""
    name = f"sample_{spec.name}"
    signature = schedule_signature(_parameters(spec))
    by_calls = "n" in signature.parameters

    def sample(*args: Any, **kwargs: Any) -> Any:
        ours: dict[str, Any] = {key: kwargs.pop(key) for key in ("seed", "process", "dialect") if key in kwargs}
        try:
            given = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        given |= ours
        process, dialect = given.pop("process", None), given.pop("dialect", Dialect.K_DIFFUSION)
        return_info = given.pop("return_info", False)
        call = _Call.of(given)
        sigmas = _levels(given.pop("sigmas")) if "sigmas" in given else _ranged(spec.name, given)
        if len(sigmas) <= 1:
            return call.x
        if process is None:
            process = process_of(call.model) or default_process()
        options = {key: as_number(value) for key, value in given.items()}
        if by_calls:
            options["levels"] = "range"
        build = _built if all(isinstance(value, Hashable) for value in options.values()) else _built.__wrapped__
        sampler = build(spec.name, tuple(sigmas.tolist()), process, str(dialect), tuple(options.items()))
        with torch.no_grad():
            run = call.start(sampler, sigmas)
            if isinstance(run, AdaptiveRun):
                result = _adapt(call, run)
                return result if return_info else result[0]
            return _follow(call, run, sigmas, by_calls)

    sample.__name__ = sample.__qualname__ = name
    sample.__module__ = PUBLIC  # the module in which copy and pickle find it
    sample.__doc__ = _text(spec)
    sample.__signature__ = signature  # type: ignore[attr-defined]  # functions have no declared __signature__
    return sample


def _follow(call: _Call, run: Run, sigmas: torch.Tensor, fast: bool) -> torch.Tensor:
    """Run a plan to its end.

    With ``fast``, a step of dpm_fast is one of DPM-Solver's, of up to three model calls and as many levels.
    """
    host = run.plan.sigmas
    callback = call.callback
    firsts = [0, *np.cumsum(fast_orders(run.steps)).tolist()] if fast else []

    def tell(info: StepInfo) -> None:
        assert callback is not None
        told: dict[str, Any] = {"x": info.x, "denoised": info.denoised}
        if not fast:
            sigma = sigmas[info.step]
            hat = sigma if info.sigma == host[info.step] else sigmas.new_tensor(info.sigma)
            callback({**told, "i": info.step, "sigma": sigma, "sigma_hat": hat})
        elif info.nfe - 1 in firsts:
            callback({**told, "i": firsts.index(info.nfe - 1), **_at(info.sigma, info.x)})

    with _progress(call.disable, run.steps) as done:

        def ask(x: torch.Tensor, sigma: torch.Tensor) -> Any:
            done(run.step)
            return call.ask(x, sigma)

        result = drive(run, ask, None if callback is None else tell)
        done(run.steps)
    return result


def _adapt(call: _Call, run: AdaptiveRun) -> tuple[torch.Tensor, dict[str, int]]:
    """Run an adaptive sampler to its end; also returns its number of steps and model calls."""

    def counted() -> dict[str, int]:
        return {"steps": run.step, "nfe": run.nfe, "n_accept": run.accepted, "n_reject": run.rejected}

    told = 0
    first: torch.Tensor | None = None

    def tell() -> None:
        nonlocal told, first
        if call.callback is None or run.step == told:
            return
        state = run.state
        at = _at(state.level.label, run.x)
        error = torch.tensor(state.error)
        info = {"i": told, "x": state.x.to(run.dtype), "denoised": first, "error": error, "h": state.h}
        call.callback({**info, **at, **counted()})
        told, first = run.step, None

    with _progress(call.disable, None) as done:

        def ask() -> tuple[torch.Tensor, torch.Tensor | None]:
            nonlocal first
            done(run.nfe)
            tell()
            denoised, uncond = answer(call.ask, run.x, run.sigma, run.needs_uncond)
            if first is None and call.callback is not None:
                first = denoised.clone() if isinstance(denoised, torch.Tensor) else denoised
            return denoised, uncond

        finish(run, ask)
        done(run.nfe)
        tell()
    return run.x, counted()


def _at(sigma: float, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The values of a level that DPM-Solver passes to callbacks: sigma, and t = -log sigma."""
    level, t = (torch.tensor(value, device=x.device) for value in (sigma, -math.log(sigma)))
    return {"sigma": level, "sigma_hat": level, "t": t, "t_up": t}


def _text(spec: SamplerSpec) -> str:
    """The docstring of a function: the sampler's, and the parameters that all functions have."""
    shown = _parameters(spec)
    written = inspect.getdoc(spec.function) or ""
    _, _, rest = written.partition("Parameters\n----------\n")
    entries = re.split(r"\n(?=\S)", rest.partition("\n\n")[0])
    own = [entry for entry in entries if shown.keys() & set(entry.partition(" : ")[0].split(", "))]
    levels = "sigmas : Tensor\n    Noise levels, run as they are."
    if _range(spec):
        levels = "sigma_min, sigma_max : float\n    Last and first sigma."
    if "n" in shown:
        levels += "\nn : int\n    Number of model calls."
    common = ", ".join(name for name in (*_RUN, "noise_sampler") if name in shown)
    parameters = [
        f"model : callable\n    ``(x, sigma, **extra_args) -> {'(denoised, uncond)' if spec.uncond else 'denoised'}``.",
        "x : Tensor\n    Start state, batch first.",
        levels,
        f"{common}\n    As for every function of this module, like seed, process and dialect, which the signature does "
        "not show.",
        *own,
    ]
    if "return_info" in shown:
        parameters.append("return_info : bool\n    Whether to return the number of steps and model calls as well.")
    what = f"{spec.summary}\n\nThe sampler `{spec.name}` as a function with k-diffusion's interface."
    returns = "Returns\n-------\nTensor\n    Like ``x``.\n"
    return f"{what}\n\nParameters\n----------\n" + "\n".join(parameters) + f"\n\n{returns}"


# ----------------------------------------------------------------------------------------------------------- likelihood
def log_likelihood(
    model: Callable[..., Any],
    x: torch.Tensor,
    sigma_min: Any,
    sigma_max: Any,
    extra_args: Mapping[str, Any] | None = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
) -> tuple[torch.Tensor, dict[str, int]]:
    """Log-density of states under a model, with the interface of k-diffusion's function.

    Parameters
    ----------
    model : callable
        ``(x, sigma, **extra_args) -> denoised``, differentiable.
    x : Tensor
        States at ``sigma_min``, batch first.
    sigma_min, sigma_max : object
        Range to integrate over.
    extra_args : mapping or None
        Further arguments of the model.
    atol, rtol : float
        Errors allowed in a step.

    Returns
    -------
    tuple of (Tensor, dict of str to int)
        (log-densities in nats, shape (batch,); {"fevals": number of model calls}).

    Notes
    -----
    `ksched.log_likelihood`, which needs no torchdiffeq. The seed of its probe comes from torch's global generator.
    """
    inputs = extra_args or {}
    low, high = float(as_number(sigma_min)), float(as_number(sigma_max))
    seed = int(torch.randint(0, 2**63 - 1, []))
    found = _log_likelihood(
        lambda state, sigma: model(state, sigma.to(state.dtype), **inputs),
        x,
        sigma_min=low,
        sigma_max=high,
        seed=seed,
        rtol=rtol,
        atol=atol,
    )
    return found.value, {"fevals": found.nfe}

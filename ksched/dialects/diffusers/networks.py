"""Networks of other libraries: the process that a network was trained on, read from its scheduler or wrapper.

`Denoiser` takes any network; the functions here find its process and prediction type. No other library is imported:
configurations are mappings, and wrappers are recognised by their attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ksched.denoisers.calling import ask, is_denoiser, time_name
from ksched.denoisers.denoiser import Denoiser
from ksched.dialects.diffusers.betas import vp_of
from ksched.dialects.diffusers.levels import level_settings
from ksched.dialects.diffusers.words import is_velocity, prediction_word
from ksched.names.enums import Prediction
from ksched.processes import EDM, VP, AngleV, Flow, Process

__all__ = ["from_diffusers", "prediction_of", "process_of"]


#: diffusers transformers that are called with sigma itself; the others get 1000 times that (pipelines of 0.42)
_TOLD_SIGMA = frozenset({"QwenImageTransformer2DModel", "QwenImage21Transformer2DModel"}) | frozenset(
    f"{name}Transformer2DModel"
    for name in ("AuraFlow", "Chroma", "Flux", "Flux2", "Krea2", "LongCatImage", "OvisImage", "PRX")
)


#: transformers whose velocity points from noise to data; those in the second set are called with 1 - sigma
_NEGATED = frozenset({"HiDreamImageTransformer2DModel", "NucleusMoEImageTransformer2DModel"})


_TOLD_DATA = frozenset({"Lumina2Transformer2DModel", "LuminaNextDiT2DModel"})


_OTHERS = ("CMStochasticIterative", "DDPMWuerstchen", "IPNDM", "ScoreSde", "KarrasVe", "UnCLIP", "VQDiffusion", "SCM")


@dataclass(frozen=True)
class _Adapted:
    """A network whose timesteps and sign are converted to those that `Denoiser` uses."""

    network: Callable[..., Any]
    whole: bool = False  # round timesteps, for a network that looks them up
    of_data: float | None = None  # call it with this number, the timestep of noise, minus the timestep
    negated: bool = False

    def __call__(self, shown: torch.Tensor, timestep: torch.Tensor, **inputs: Any) -> Any:
        told = timestep if self.of_data is None else self.of_data - timestep
        told = told.round().long() if self.whole else told
        answer = ask(self.network, time_name(self.network), shown, told, inputs)
        if not self.negated:
            return answer
        return -(answer if isinstance(answer, torch.Tensor) else answer[0])


def from_diffusers(
    network: Callable[..., Any],
    scheduler: Any,
    *,
    prediction: Prediction | str | None = None,
    timestep_scale: float | None = None,
    whole_timesteps: bool = False,
    mu: float | None = None,
    **conditioning: Any,
) -> Denoiser:
    """The denoiser of a diffusers UNet or transformer, with process and prediction type from its scheduler.

    Parameters
    ----------
    network : callable
        Such as ``pipe.unet`` or ``pipe.transformer``.
    scheduler : object
        ``pipe.scheduler``, or its configuration as a mapping.
    prediction : Prediction, str or None
        Overrides the prediction type of the configuration.
    timestep_scale : float or None
        For flow networks, the timestep at sigma 1. None is 1 for networks that are known to use it (Flux and related
        ones) or whose scheduler has ``num_train_timesteps=1``, and otherwise 1000.
    whole_timesteps : bool
        Round timesteps, for a network that looks them up in a table.
    mu : float or None
        For flow networks whose scheduler has ``use_dynamic_shifting``: the log of their shift (see `mu_for_tokens`).
        The network does not depend on it, but noise schedules do.
    conditioning : object
        Passed to the network at every call, such as ``encoder_hidden_states=``; add more with `Denoiser.given`.

    Raises
    ------
    TypeError, ValueError
        As for `process_of` and `prediction_of`.

    Notes
    -----
    Networks whose velocity points the other way (Lumina, HiDream) are recognised by their class names and converted. So
    are networks whose scheduler has ``invert_sigmas``, which are called with the share of data (OmniGen, Mochi).
    """
    if is_denoiser(network):
        raise TypeError(f"{type(network).__name__} is already a denoiser; pass it to the sampler as it is")
    name = type(getattr(network, "_orig_mod", network)).__name__
    cls, settings = _settings(scheduler)
    inverted = _is_flow(cls, settings) and bool(settings.get("invert_sigmas"))
    if timestep_scale is None:
        of_one = name in _TOLD_SIGMA | _TOLD_DATA or settings["num_train_timesteps"] == 1
        timestep_scale = 1.0 if of_one else 1000.0
    plain = {**settings, "_class_name": cls, "invert_sigmas": False}
    process = process_of(plain if inverted else scheduler, timestep_scale=timestep_scale, mu=mu)
    of_data = timestep_scale if inverted or name in _TOLD_DATA else None
    adapted = _Adapted(network, whole_timesteps, of_data, inverted or name in _TOLD_DATA | _NEGATED)
    called = network if adapted == _Adapted(network) else adapted
    denoiser = Denoiser(called, process, prediction or prediction_of(scheduler))
    return denoiser.given(**conditioning) if conditioning else denoiser


def process_of(source: Any, *, timestep_scale: float = 1000.0, mu: float | None = None) -> Process:
    """The process that a network was trained on, read from its scheduler or wrapper.

    Parameters
    ----------
    source : object
        A diffusers scheduler, or its configuration as a mapping, with ``_class_name`` if settings are left at the
        defaults of its class; or a k-diffusion wrapper with a table ``sigmas``.
    timestep_scale, mu : float or None
        For flow networks, as for `from_diffusers`.

    Raises
    ------
    TypeError
        If the source is none of these.
    ValueError
        If ksched does not have the process of the scheduler class, or settings are not the class's.

    Examples
    --------
    >>> import ksched
    >>> ksched.networks.process_of({"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True})
    VP(<1000 betas, sigma 0.01 to 4518.76>, zero_terminal_snr=True)
    >>> ksched.networks.process_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    Flow(shift=3.0, num_timesteps=1000, timestep_scale=1000.0)
    """
    if is_denoiser(source) or not (isinstance(source, Mapping) or hasattr(source, "config")):
        return _of_table(source)
    name, s = _settings(source)
    if name.startswith(_OTHERS):
        raise ValueError(f"ksched does not have the process of {name}; create a Denoiser with a process of your own")
    if name.startswith("CosineDPMSolver"):
        return AngleV(s["sigma_min"], s["sigma_max"], s["sigma_data"])
    if name.startswith("EDM"):
        return EDM(s["sigma_min"], s["sigma_max"], s["sigma_data"])
    if _is_flow(name, s):
        return _flow_of(s, timestep_scale, mu)
    if s.get("timestep_type") == "continuous" and s["prediction_type"] == "v_prediction":
        if s.get("sigma_min") and s.get("sigma_max"):
            return EDM(s["sigma_min"], s["sigma_max"], sigma_data=1.0)  # called with log(sigma) / 4, scaled as VP
        return vp_of(s, log_sigma_timesteps=True)
    return vp_of(s)


def _flow_of(s: Mapping[str, Any], timestep_scale: float, mu: float | None) -> Flow:
    """The process of a flow model's configuration."""
    if s.get("invert_sigmas"):
        raise ValueError(
            "invert_sigmas=True changes the network's timesteps and sign, which a process does not express; use "
            "ksched.networks.from_diffusers(network, scheduler), or pass it 1 - sigma and negate its output"
        )
    length = int(s["num_train_timesteps"])
    length = 1000 if length == 1 else length  # the network is called with sigma itself, so there is no table
    if s.get("use_dynamic_shifting"):
        return Flow(1.0 if mu is None else float(np.exp(mu)), length, timestep_scale)
    return Flow(float(s["shift"] if "shift" in s else s.get("flow_shift", 1.0)), length, timestep_scale)


def prediction_of(scheduler: Any) -> Prediction:
    """The prediction type of a network, read from its diffusers scheduler.

    Parameters
    ----------
    scheduler : object
        A scheduler or its configuration as a mapping.

    Raises
    ------
    ValueError
        If the prediction type is unknown.
    """
    name, s = _settings(scheduler)
    said = s.get("prediction_type", "epsilon")
    if _is_flow(name, s):
        return Prediction.parse(said) if is_velocity(said) else Prediction.FLOW
    # these classes call the F of EDM's preconditioning "epsilon"
    of_edm = name.startswith(("EDM", "CosineDPMSolver")) and said == "epsilon"
    return Prediction.EDM if of_edm else Prediction.parse(said)


def _settings(source: Any) -> tuple[str, dict[str, Any]]:
    """The name of the class, and all settings that affect the process."""
    config = source if isinstance(source, Mapping) else getattr(source, "config", None)
    if not isinstance(config, Mapping):
        raise TypeError(f"scheduler must be a diffusers scheduler or its configuration; got {source!r}")
    name = str(config.get("_class_name", "")) if isinstance(source, Mapping) else type(source).__name__
    defaults: dict[str, Any] = {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "rescale_betas_zero_snr": False,
        "prediction_type": "epsilon",
    } | dict(level_settings(name))
    if name.startswith("EDM"):
        defaults |= {"sigma_data": 0.5}
    elif name.startswith("CosineDPMSolver"):
        defaults |= {"sigma_data": 1.0, "prediction_type": "v_prediction"}
    elif name.startswith("CogVideoX"):
        defaults |= {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        defaults |= {"snr_shift_scale": 3.0}
    elif name in ("LCMScheduler", "TCDScheduler"):
        defaults |= {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    settings = defaults | {key: value for key, value in config.items() if key[0] != "_"}
    settings["prediction_type"] = prediction_word(settings["prediction_type"])  # a user may use other words
    return name, settings


def _is_flow(name: str, s: Mapping[str, Any]) -> bool:
    told = s.get("use_flow_sigmas") or is_velocity(s["prediction_type"])
    return bool(told) or name.startswith(("FlowMatch", "LTXEuler")) or (not name and "shift" in s)


def _of_table(wrapper: Any) -> Process:
    """The process of a k-diffusion wrapper with a table of sigmas."""
    table = getattr(wrapper, "sigmas", None)
    if table is None:
        raise TypeError(
            "source must be a diffusers scheduler, its configuration, or a k-diffusion wrapper with a table of "
            f"sigmas; got {type(wrapper).__name__}"
        )
    sigmas = torch.as_tensor(table).detach().cpu().double().numpy()
    if sigmas.ndim != 1 or len(sigmas) < 2 or not (np.diff(sigmas) > 0).all():
        raise ValueError(f"the table of sigmas must rise; got {sigmas[:3]} ... of shape {sigmas.shape}")
    alpha_bar = 1 / (1 + sigmas**2)
    return VP(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))

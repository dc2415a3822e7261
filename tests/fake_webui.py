"""A stand-in for A1111 and Forge: the samplers and schedules as an extension sees them, and the calls to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

__all__ = ["Host"]


class SamplerData(tuple[Any, ...]):
    """A row of the menu of samplers."""

    name = property(lambda self: self[0])
    constructor = property(lambda self: self[1])
    aliases = property(lambda self: self[2])
    options = property(lambda self: self[3])

    def __new__(cls, *fields: Any) -> SamplerData:
        assert len(fields) == 4
        return super().__new__(cls, fields)


class Scheduler(SimpleNamespace):
    """A row of the menu of schedules."""

    def __init__(
        self,
        name: str,
        label: str,
        function: Any,
        default_rho: float = -1,
        need_inner_model: bool = False,
        aliases: Any = None,
    ) -> None:
        super().__init__(name=name, label=label, function=function, default_rho=default_rho)
        self.need_inner_model, self.aliases = need_inner_model, aliases


class Host:
    """The modules of the program, and a model in it.

    Parameters
    ----------
    denoiser : the wrapper of the model, with its table of levels
    predict : the prediction of the model
    """

    def __init__(self, denoiser: Any, predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.denoiser, self.predict = denoiser, predict
        host = self

        class KDiffusionSampler:
            """How the host calls a sampler: it picks arguments by the signature."""

            def __init__(self, funcname: Any, sd_model: Any, options: Any = None) -> None:
                assert callable(funcname)
                self.func, self.sd_model, self.options = funcname, sd_model, options or {}
                self.extra_params: list[str] = {}.get(funcname, [])  # hosts look functions up
                self.told: list[int] = []

            def sample(self, x: torch.Tensor, sigmas: torch.Tensor, p: Any) -> torch.Tensor:
                parameters = inspect.signature(self.func).parameters
                more: dict[str, Any] = {"eta": 0.8} if "eta" in parameters else {}
                if "n" in parameters:
                    more["n"] = len(sigmas) - 1
                if "sigma_min" in parameters:
                    more |= {"sigma_min": sigmas[-2], "sigma_max": sigmas[0]}
                if "sigmas" in parameters:
                    more["sigmas"] = sigmas
                if self.options.get("brownian_noise"):
                    more["noise_sampler"] = lambda sigma, sigma_next: torch.full_like(x, 2.0)
                inputs = {"cond": 1.0, "image_cond": None, "uncond": 0.0, "cond_scale": 7.0, "s_min_uncond": 0.0}
                result: torch.Tensor = self.func(
                    host.model, x, extra_args=inputs, disable=False, callback=self.callback_state, **more
                )
                return result

            def callback_state(self, d: dict[str, Any]) -> None:
                assert d["denoised"].shape == d["x"].shape
                self.told.append(d["i"])

        def set_samplers() -> None:
            menu.samplers = menu.all_samplers
            menu.samplers_map.clear()
            for data in menu.all_samplers:
                menu.samplers_map[data.name.lower()] = data.name
                menu.samplers_map.update((alias.lower(), data.name) for alias in data.aliases)

        own = SamplerData("Euler", lambda model: None, ["k_euler"], {})
        menu: Any = ModuleType("modules.sd_samplers")
        menu.all_samplers, menu.all_samplers_map, menu.samplers_map = [own], {"Euler": own}, {}
        menu.set_samplers = set_samplers
        common: Any = ModuleType("modules.sd_samplers_common")
        common.SamplerData = SamplerData
        kdiffusion: Any = ModuleType("modules.sd_samplers_kdiffusion")
        kdiffusion.KDiffusionSampler = KDiffusionSampler
        schedulers: Any = ModuleType("modules.sd_schedulers")
        automatic = Scheduler("automatic", "Automatic", None)
        schedulers.Scheduler, schedulers.schedulers = Scheduler, [automatic]
        schedulers.schedulers_map = {"automatic": automatic, "Automatic": automatic}
        package: Any = ModuleType("modules")
        package.__path__ = []
        self.modules = {"modules": package}
        for module in (menu, common, kdiffusion, schedulers):
            setattr(package, module.__name__.partition(".")[2], module)
            self.modules[module.__name__] = module
        self.menu, self.schedulers = menu, schedulers
        self.model = SimpleModel(self)

    def levels(self, scheduler: Any, steps: int) -> torch.Tensor:
        """The levels of a schedule, as the host asks for them."""
        given = {"inner_model": self.denoiser} if scheduler.need_inner_model else {}
        low, high = self.denoiser.sigmas[0].item(), self.denoiser.sigmas[-1].item()
        sigmas: torch.Tensor = scheduler.function(n=steps, sigma_min=low, sigma_max=high, device="cpu", **given)
        return sigmas


class SimpleModel:
    """The guided model that a sampler is given, around the wrapper of the network."""

    def __init__(self, host: Host) -> None:
        self.inner_model, self._host = host.denoiser, host

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, cond_scale: float, **more: Any) -> torch.Tensor:
        assert cond_scale == 7.0
        assert more.keys() == {"cond", "image_cond", "uncond", "s_min_uncond"}
        return self._host.predict(x, sigma)

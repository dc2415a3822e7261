"""How one public model is sampled: facts with their sources, and the sampler that its pipeline runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ksched.dialects.diffusers.class_levels import stock_levels
from ksched.dialects.diffusers.classes import request_of
from ksched.dialects.diffusers.process import process_of
from ksched.dialects.diffusers.request import Request
from ksched.model_settings.level_lists import Size, list_of, mu_of, rule_text
from ksched.model_settings.resolution import Resolution
from ksched.model_settings.told_timesteps import as_told
from ksched.names.enums import Dialect
from ksched.options import Option, check_steps
from ksched.plan.plan import Plan
from ksched.processes import EDM, Process
from ksched.sampler import Sampler, build_sampler
from ksched.schedules.select import calculate_sigmas
from ksched.types import Array

if TYPE_CHECKING:
    from ksched.dialects.diffusers.level_blocks import DiffusersLevels

__all__ = ["GUIDANCE_KINDS", "Recipe"]

#: kinds of guidance, with what each scale means
GUIDANCE_KINDS: Mapping[str, str] = {
    "cfg": "classifier-free guidance, two predictions per step",
    "embedded": "the network takes the scale as an input; one prediction per step",
    "frames": "classifier-free guidance with a scale that grows over the frames",
    "apg": "adaptive projected guidance, two predictions per step",
    "autoguidance": "a weaker network of the same kind replaces the unconditional prediction",
    "none": "distilled without guidance; one prediction per step",
}

#: argument that SANA-Sprint's scheduler takes only for two steps
_OF_TWO_STEPS = "intermediate_timesteps"


@dataclass(frozen=True)
class Recipe:
    """Sampling settings of a public model.

    Attributes
    ----------
    name, title : str
        Its name in ksched, and its name as its authors write it.
    makes : str
        "image", "video", "audio", "video and audio" or "protein".
    scheduler, config : str, mapping or None
        The diffusers scheduler class that its reference pipeline runs, and that class's settings; None if diffusers has
        no class that does the same.
    prediction : str
        What its network predicts.
    steps : int
        Number of steps that its authors or its pipeline use.
    guidance : mapping
        ``kind`` (one of `GUIDANCE_KINDS`) and ``scale``; values that are not published are left out.
    experts : mapping of str to float
        Networks of one model, each with the lowest sigma at which it is used, as `ksched.guidance.experts` takes them.
    size : Size
        Default width, height and frames.
    resolution : Resolution
        Rules for width, height and frames, and other sizes that its authors name.
    latent : mapping
        Facts about the latent space, if a source has them: ``channels``; ``spatial`` and ``temporal``, the number of
        pixels and frames per latent; ``scale`` and ``shift``, with which a latent of the autoencoder is passed to the
        network as ``(z - shift) * scale``; ``normalised``, if each channel has a mean and std of its own instead.
    streams : tuple of str
        Names of the parts that are denoised together, each with its own sigmas.
    listed : tuple of float or None
        Sigmas that the model was distilled for, before shift and end; None if it has none.
    notes : tuple of str
        Differences between sources, and peculiarities.
    sources : mapping of str to tuple of str
        For each fact, where it was published.
    pipeline : str or None
        The diffusers pipeline class that runs it, if there is one.
    distilled : bool
        Whether it was trained for its number of steps and no other.
    """

    name: str
    title: str
    makes: str
    scheduler: str | None
    config: Mapping[str, Any]
    steps: int
    prediction: str
    guidance: Mapping[str, Any]
    experts: Mapping[str, float]
    size: Size
    resolution: Resolution
    latent: Mapping[str, Any]
    streams: tuple[str, ...]
    listed: tuple[float, ...] | None
    notes: tuple[str, ...]
    sources: Mapping[str, tuple[str, ...]]
    pipeline: str | None = None
    distilled: bool = False
    _rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any], places: Mapping[str, str]) -> Recipe:
        """The recipe of a row of the data file, with the short names of its sources resolved."""

        def place(said: str) -> str:
            short, _, rest = said.partition(":")
            return f"{places[short]}: {rest.strip()}"

        said = {fact: (each,) if isinstance(each, str) else tuple(each) for fact, each in row["sources"].items()}
        return cls(
            name=name,
            title=row["title"],
            makes=row["makes"],
            scheduler=row["scheduler"],
            config=MappingProxyType(row.get("config", {})),
            steps=row["steps"],
            prediction=row["prediction"],
            guidance=MappingProxyType(row.get("guidance", {})),
            distilled=bool(row.get("distilled") or "listed" in row),
            experts=MappingProxyType(row.get("experts", {})),
            size=Size(**row.get("size", {})),
            resolution=Resolution.of(row.get("resolution", {})),
            latent=MappingProxyType(row.get("latent", {})),
            streams=tuple(row.get("streams", ())),
            listed=tuple(row["listed"]) if "listed" in row else None,
            notes=tuple(row.get("notes", ())),
            sources=MappingProxyType({fact: tuple(map(place, each)) for fact, each in said.items()}),
            pipeline=row.get("pipeline"),
            _rules={name: row.get(name, {}) for name in ("levels", "mu", "handed", "own", "told")},
        )

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def default(self) -> Sampler:
        """The sampler that `build` returns without arguments."""
        return self.build()

    @property
    def process(self) -> Process:
        """The process of the model in its pipeline; the shift of a run is in its sigmas."""
        return self.default.process

    @property
    def sampler(self) -> str:
        """Name of the sampler in ksched; peculiarities of a class's own loop are in the plan."""
        if self.scheduler is None:
            return str(self._rules["own"]["sampler"])
        found, counted = self._levels(self.scheduler, self.steps, self.size)
        return request_of(self.scheduler, self.config, found, counted).sampler

    @property
    def sigmas(self) -> tuple[float, ...] | None:
        """Sigmas of the run, if the model was distilled for them; None if a schedule makes them."""
        return None if self.listed is None else tuple(self.default.sigmas.tolist())

    @property
    def schedule(self) -> str | None:
        """The schedule in words; None if the model was distilled for a list of sigmas."""
        if self._rules["own"]:
            return str(self._rules["own"]["schedule"])
        return None if self.listed is not None else rule_text(self._rules["levels"], self._rules["mu"], self.config)

    @property
    def mu_rule(self) -> Mapping[str, Any]:
        """The rule for mu, as in the data file; empty if the model has none."""
        return MappingProxyType(dict(self._rules["mu"]))

    def build(
        self,
        *,
        steps: int | None = None,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        guidance: float | None = None,
    ) -> Sampler:
        """The sampler that the model's reference pipeline runs.

        Parameters
        ----------
        steps : int or None
            Number of steps; None uses the authors' number.
        width, height, frames : int or None
            Size of the result; it changes the sigmas if mu depends on the size, and must follow ``resolution``.
        guidance : float or None
            Scale that you intend to use. It does not change the sigmas; it is an error if the model takes none.

        Returns
        -------
        Sampler
            Sampler with the sigmas and timesteps of the pipeline.

        Raises
        ------
        TypeError, ValueError
            If a distilled model has no sigmas for these steps; the size is invalid, or the model cannot make it; the
            model was distilled without guidance.
        """
        self._check_guidance(guidance)
        given = {"width": width, "height": height, "frames": frames}
        for name, value in given.items():
            if value is not None:
                Option(name, int, None, 1, 1_000_000).check(f"recipe {self.name}", value)
        self.resolution.check(self.name, Size(**given))
        size = self.size._replace(**{name: value for name, value in given.items() if value is not None})
        return self._own(self._steps(steps)) if self.scheduler is None else self._of_class(self._steps(steps), size)

    def _own(self, steps: int) -> Sampler:
        """A ksched sampler and schedule, for a model without a diffusers class."""
        own, process = self._rules["own"], EDM(**self._rules["own"]["process"])
        how: Any = own.get("options", {})
        rho = {"rho": own["rho"]} if "rho" in own else {}
        if not own.get("ends_above_0"):
            sigmas = calculate_sigmas(own["schedule"], steps, process, **rho)
        else:
            sigmas = calculate_sigmas(own["schedule"], steps + 1, process, **rho)[:-1]
        return build_sampler(own["sampler"], sigmas=sigmas, process=process, **how)

    def _of_class(self, steps: int, size: Size) -> Sampler:
        """The sampler that represents a diffusers class."""
        assert self.scheduler is not None
        found, counted = self._levels(self.scheduler, steps, size)
        request = request_of(self.scheduler, self.config, found, counted)
        told = np.asarray(self._rules["told"] or found.timesteps, dtype=np.float64)
        if request.literal is not None:
            plan = request.literal(0, {})
            if not _falls(request.sigmas) or not _same_numbers(plan, _built(request, request.process).plan):
                return build_sampler(plan, process=_told(request, self.scheduler, self.config, plan, told))
        sampler = _built(request, request.process)
        process = _told(request, self.scheduler, self.config, sampler.plan, told)
        return sampler if process is request.process else _built(request, process)

    def _levels(self, scheduler: str, steps: int, size: Size) -> tuple[DiffusersLevels, int]:
        """The result of the pipeline's call of ``set_timesteps``."""
        handed = {name: value for name, value in self._rules["handed"].items() if steps == 2 or name != _OF_TWO_STEPS}
        if self._rules["mu"]:
            handed["mu"] = mu_of(self._rules["mu"], steps, size)
        if self.listed is not None:
            handed[handed.pop("as", "sigmas")] = list(self.listed)
        elif rule := self._rules["levels"]:
            handed["sigmas"] = list_of(rule, steps)
            if "timestep_scale" in rule:  # timesteps without the shift
                handed["timesteps"] = handed["sigmas"] * rule["timestep_scale"]
        lists = {"sigmas", "timesteps"} & handed.keys()
        found, counted = stock_levels(scheduler, self.config, None if lists else steps, **handed)
        if self._rules["levels"].get("ends_on_repeat"):
            assert found.sigmas is not None
            found = found._replace(sigmas=np.append(found.sigmas[:-1], found.sigmas[-2]))
        return found, counted

    def _steps(self, steps: int | None) -> int:
        steps = self.steps if steps is None else check_steps(steps)
        if self.distilled and steps != self.steps:
            raise ValueError(
                f"steps must be {self.steps}, since {self.name} was distilled for {self.steps} steps; got {steps}"
            )
        return steps

    def _check_guidance(self, guidance: float | None) -> None:
        if guidance is None:
            return
        scale = Option("guidance", float, None, 0.0, 1e6).check(f"recipe {self.name}", guidance)
        if self.guidance.get("kind") == "none" and scale not in (0.0, 1.0):
            raise ValueError(f"{self.name} was distilled without guidance; leave guidance out, got {guidance}")


def _built(request: Request, process: Process) -> Sampler:
    how: Any = dict(request.options)
    return build_sampler(request.sampler, sigmas=request.sigmas, process=process, dialect=Dialect.DIFFUSERS, **how)


def _falls(sigmas: Sequence[float]) -> bool:
    return all(s > t for s, t in pairwise(sigmas))


def _same_numbers(plan: Plan, other: Plan) -> bool:
    """Whether two plans are the same method at the same sigmas, to rounding."""
    if len(plan.rows) != len(other.rows) or len(plan.levels) != len(other.levels):
        return False
    rows = [(dict(a.terms), dict(b.terms)) for a, b in zip(plan.rows, other.rows, strict=True)]
    return np.allclose(plan.call_sigmas, other.call_sigmas, rtol=1e-12) and all(
        a.keys() == b.keys() and all(math.isclose(a[key], b[key], rel_tol=1e-9, abs_tol=1e-12) for key in a)
        for a, b in rows
    )


def _told(request: Request, scheduler: str, config: Mapping[str, Any], plan: Plan, told: Array) -> Process:
    """The process of a request, with the timesteps that the class passes to the network."""
    calls = plan.call_sigmas
    if len(told) < len(calls):
        return request.process
    sharing = []
    if not request.process.is_flow:  # its process may use another time
        trained = process_of(config, scheduler)
        sharing = [trained] if _same_states(trained, request, calls) else []
    return as_told([request.process, *sharing], calls, told[: len(calls)])


def _same_states(trained: Process, request: Request, calls: Array) -> bool:
    if trained.is_flow or float(calls.max()) > trained.sigma_limit:
        return False
    return np.allclose(trained.alpha(calls), request.process.alpha(calls), rtol=1e-9)

"""Samplers by name, with the facts that are declared of them and tested; dialects as tables of their options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from ksched.names.dialects import DIALECTS
from ksched.names.enums import Dialect, SamplerType
from ksched.options import Option, options_of
from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerFunction
from ksched.plan.trace import trace
from ksched.samplers import (
    adams,
    adaptive,
    auto,
    cfg_pp,
    deis,
    dpm_solver,
    dpmpp,
    er_sde,
    euler,
    exponential_multistep,
    exponential_single_step,
    res,
    runge_kutta,
    sa_solver,
    uni_pc,
)
from ksched.samplers.coordinates import VIEW_OPTIONS, view
from ksched.samplers.from_plan import own_levels, placed, replay
from ksched.samplers.linear_multistep import same_levels
from ksched.schedules.grid import Grid

__all__ = ["AUTO", "FAMILIES", "SamplerSpec", "families", "plan_spec", "register_sampler", "sampler_spec", "samplers"]


#: families of samplers, and what they are called in a heading
FAMILIES: Mapping[str, str] = {
    "euler": "Euler and its stochastic relatives",
    "runge_kutta": "Runge-Kutta",
    "exponential_single_step": "Exponential integrators, single-step",
    "exponential_multistep": "Exponential integrators, multistep",
    "dpm_solver": "DPM-Solver with all its options",
    "linear_multistep": "Linear multistep (Adams)",
    "cfg_pp": "CFG++",
    "adaptive": "Adaptive step size",
    "other": "Others",
}


Calls = Callable[[int, bool], int]  # (steps, whether they end at sigma 0) -> model calls of a run


OwnLevels = Callable[..., Sequence[float]]  # (steps, process, *, options) -> contract sigmas


@dataclass(frozen=True)
class SamplerSpec:
    """What the library knows of a sampler.

    Attributes
    ----------
    name : `SamplerType` value, or the name it was registered under
    function : ``(run, grid, x, *, options) -> x``
    order : order of convergence of the deterministic form, low-order start and end counted; 0 for a sampler that does
        not converge to the ODE
    source : paper or program
    calls : model calls per step; or a function ``(steps, to_zero) -> calls`` where steps differ; None where they depend
        on the levels
    calls_to_zero : model calls of the step into sigma 0
    draws : noises per step that does not end at 0, with default options; 0 for deterministic samplers, None where it
        depends on the levels
    weak_order : order of the mean and variance of the stochastic form; None if there is none
    uncond : whether it needs the unconditional prediction too
    adaptive : whether it chooses its steps by what the model answers, and so has no plan; order and calls are those of
        a step
    ends_at_denoised : whether a step to sigma 0 returns the prediction
    levels : ``(steps, process, *, options) -> sigmas``, where the sampler has levels of its own and takes no schedule
    family : the kind of method, one of `FAMILIES`. A stage of a "runge_kutta" method uses the slope at its state, not
        the prediction alone, which tells a host program what becomes of a state that is edited between two stages
    text : what finds it, if it is not in the registry: a plan as JSON
    steps : numbers of steps that it has levels for; () is any
    """

    name: str
    function: SamplerFunction
    order: int
    source: str
    calls: int | Calls | None = 1
    calls_to_zero: int = 1
    draws: int | None = 0
    weak_order: int | None = None
    uncond: bool = False
    adaptive: bool = False
    ends_at_denoised: bool = True
    levels: OwnLevels | None = None
    family: str = "other"
    text: str = ""
    steps: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What `sampler_spec` finds it by."""
        return self.text or self.name

    @property
    def own_options(self) -> Mapping[str, Option]:
        """The sampler's keyword-only options."""
        return options_of(self.function)

    @cached_property
    def options(self) -> Mapping[str, Option]:
        """The sampler's options and those of every sampler on a schedule, see `ksched.samplers.coordinates.view`."""
        return self.own_options if self.levels else {**self.own_options, **VIEW_OPTIONS}

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def nfe(self, steps: int, to_zero: bool = True) -> int:
        """Model calls of a run of ``steps`` steps.

        Raises
        ------
        TypeError : steps do not tell: the sampler is adaptive, or reads the levels
        """
        if self.adaptive or self.calls is None:
            what = "its error estimate asks" if self.adaptive else "its levels ask"
            raise TypeError(f"{self.name} makes as many model calls as {what} for")
        if callable(self.calls):
            return self.calls(steps, to_zero)
        return self.calls * steps - (self.calls - self.calls_to_zero if to_zero and steps else 0)

    def __call__(self, run: Any, grid: Grid, x: Any, **options: Any) -> Any:
        """The sampler on a grid as its options let it see it; arguments as for the function."""
        shown = {name: value for name, value in options.items() if name in VIEW_OPTIONS}
        own = {name: value for name, value in options.items() if name not in VIEW_OPTIONS}
        return self.function(run, view(grid, **shown) if shown else grid, x, **own)

    def plan(self, grid: Grid, options: Mapping[str, Any]) -> Plan:
        """The plan of the sampler on a grid; its levels are those of the process, however the sampler saw them."""
        plan = trace(self, grid, options)
        if not options.get("as_ve"):
            return plan
        level = grid.process.level
        rows = tuple(row if row.level is None else row._replace(level=level(row.level.label)) for row in plan.rows)
        return replace(plan, rows=rows)


def _spec(
    name: SamplerType, family: str, function: SamplerFunction, order: int, source: str, **facts: Any
) -> SamplerSpec:
    return SamplerSpec(name.value, function, order, source, family=family, **facts)


def _heunpp2_calls(steps: int, to_zero: bool) -> int:
    return max(3 * steps - (3 if to_zero else 1), min(steps, 1))


def _pece_calls(steps: int, to_zero: bool) -> int:
    return max(2 * steps - 1, 0)


def _pndm_calls(steps: int, to_zero: bool) -> int:
    return steps + 3 * min(3, max(steps - to_zero, 0))


_EDM, _DPM, _DPMPP = "arXiv:2206.00364", "Lu et al. 2022, arXiv:2206.00927", "Lu et al. 2022, arXiv:2211.01095"


_KARRAS = f"Karras et al. 2022, {_EDM}"


_PLUS = "Chung et al. 2024, arXiv:2406.08070"


_RES = "Zhang et al. 2023, arXiv:2308.02157"


_SEEDS = "Gonzalez et al. 2023, arXiv:2305.14267"


_SA = "Xue et al. 2023, arXiv:2309.05019"


_ADAMS = "Hochbruck & Ostermann 2011"


_SPECS = (
    _spec(SamplerType.EULER, "euler", euler.euler, 1, _KARRAS),
    _spec(SamplerType.EULER_CFG_PP, "cfg_pp", cfg_pp.euler_cfg_pp, 1, _PLUS, uncond=True),
    _spec(SamplerType.EULER_ANCESTRAL, "euler", euler.euler_ancestral, 1, "k-diffusion", draws=1, weak_order=1),
    _spec(
        SamplerType.EULER_ANCESTRAL_CFG_PP,
        "cfg_pp",
        cfg_pp.euler_ancestral_cfg_pp,
        1,
        _PLUS,
        draws=1,
        weak_order=1,
        uncond=True,
    ),
    _spec(SamplerType.HEUN, "runge_kutta", runge_kutta.heun, 2, _KARRAS, calls=2),
    _spec(SamplerType.HEUNPP2, "runge_kutta", runge_kutta.heunpp2, 2, "ComfyUI", calls=_heunpp2_calls),
    _spec(
        SamplerType.EXP_HEUN_2_X0,
        "exponential_single_step",
        exponential_single_step.exp_heun_2_x0,
        2,
        "Cox & Matthews 2002",
        calls=2,
    ),
    _spec(
        SamplerType.EXP_HEUN_2_X0_SDE,
        "exponential_single_step",
        exponential_single_step.exp_heun_2_x0_sde,
        2,
        "ComfyUI",
        calls=2,
        draws=1,
        weak_order=2,
    ),
    _spec(SamplerType.DPM_2, "runge_kutta", runge_kutta.dpm_2, 2, _DPM, calls=2),
    _spec(
        SamplerType.DPM_2_ANCESTRAL,
        "runge_kutta",
        runge_kutta.dpm_2_ancestral,
        2,
        "k-diffusion",
        calls=2,
        draws=1,
        weak_order=2,
    ),
    _spec(SamplerType.LMS, "linear_multistep", adams.lms, 2, "k-diffusion"),
    _spec(SamplerType.DPM_FAST, "exponential_single_step", exponential_single_step.dpm_fast, 2, _DPM, weak_order=2),
    _spec(SamplerType.DPM_ADAPTIVE, "adaptive", adaptive.dpm_adaptive, 3, _DPM, calls=3, adaptive=True),
    _spec(
        SamplerType.DPMPP_2S_ANCESTRAL,
        "exponential_single_step",
        exponential_single_step.dpmpp_2s_ancestral,
        2,
        _DPMPP,
        calls=2,
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.DPMPP_2S_ANCESTRAL_CFG_PP,
        "cfg_pp",
        cfg_pp.dpmpp_2s_ancestral_cfg_pp,
        2,
        "ComfyUI",
        calls=2,
        draws=1,
        weak_order=2,
        uncond=True,
    ),
    _spec(
        SamplerType.DPMPP_SDE,
        "exponential_single_step",
        exponential_single_step.dpmpp_sde,
        2,
        _DPMPP,
        calls=2,
        draws=2,
        weak_order=2,
    ),
    _spec(SamplerType.DPMPP_2M, "exponential_multistep", dpmpp.dpmpp_2m, 2, _DPMPP),
    _spec(SamplerType.DPMPP_2M_CFG_PP, "cfg_pp", cfg_pp.dpmpp_2m_cfg_pp, 2, "ComfyUI", uncond=True),
    _spec(SamplerType.DPMPP_2M_SDE, "exponential_multistep", dpmpp.dpmpp_2m_sde, 2, _DPMPP, draws=1, weak_order=2),
    _spec(
        SamplerType.DPMPP_2M_SDE_HEUN,
        "exponential_multistep",
        dpmpp.dpmpp_2m_sde_heun,
        2,
        _DPMPP,
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.DPMPP_3M_SDE,
        "exponential_multistep",
        dpmpp.dpmpp_3m_sde,
        2,
        "k-diffusion",
        draws=1,
        weak_order=2,
    ),
    _spec(SamplerType.DDPM, "euler", euler.ddpm, 1, "Ho et al. 2020, arXiv:2006.11239", draws=1, weak_order=1),
    _spec(SamplerType.LCM, "euler", euler.lcm, 0, "Luo et al. 2023, arXiv:2310.04378", draws=1),
    _spec(SamplerType.TCD, "euler", euler.tcd, 1, "Zheng et al. 2024, arXiv:2402.19159", draws=None),
    _spec(SamplerType.IPNDM, "linear_multistep", adams.ipndm, 2, "Liu et al. 2022, arXiv:2202.09778"),
    _spec(SamplerType.IPNDM_V, "linear_multistep", adams.ipndm_v, 2, "Zhou et al., diff-sampler"),
    _spec(SamplerType.DEIS, "exponential_multistep", deis.deis, 2, "Zhang & Chen 2022, arXiv:2204.13902"),
    _spec(SamplerType.RES_MULTISTEP, "exponential_multistep", res.res_multistep, 2, _RES),
    _spec(SamplerType.RES_MULTISTEP_CFG_PP, "cfg_pp", cfg_pp.res_multistep_cfg_pp, 2, "ComfyUI", uncond=True),
    _spec(
        SamplerType.RES_MULTISTEP_ANCESTRAL,
        "exponential_multistep",
        res.res_multistep_ancestral,
        2,
        _RES,
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.RES_MULTISTEP_ANCESTRAL_CFG_PP,
        "cfg_pp",
        cfg_pp.res_multistep_ancestral_cfg_pp,
        2,
        "ComfyUI",
        draws=1,
        weak_order=2,
        uncond=True,
    ),
    _spec(
        SamplerType.GRADIENT_ESTIMATION,
        "linear_multistep",
        adams.gradient_estimation,
        1,
        "Permenter & Yuan 2023, arXiv:2306.04848",
    ),
    _spec(
        SamplerType.GRADIENT_ESTIMATION_CFG_PP, "cfg_pp", cfg_pp.gradient_estimation_cfg_pp, 1, "ComfyUI", uncond=True
    ),
    _spec(
        SamplerType.ER_SDE,
        "exponential_multistep",
        er_sde.er_sde,
        2,
        "Cui et al. 2023, arXiv:2309.06169",
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.SEEDS_2,
        "exponential_single_step",
        exponential_single_step.seeds_2,
        2,
        _SEEDS,
        calls=2,
        draws=2,
        weak_order=2,
    ),
    _spec(
        SamplerType.SEEDS_3,
        "exponential_single_step",
        exponential_single_step.seeds_3,
        3,
        _SEEDS,
        calls=3,
        draws=3,
        weak_order=2,
    ),
    _spec(SamplerType.SA_SOLVER, "exponential_multistep", sa_solver.sa_solver, 3, _SA, draws=None, weak_order=2),
    _spec(
        SamplerType.SA_SOLVER_PECE,
        "exponential_multistep",
        sa_solver.sa_solver_pece,
        3,
        _SA,
        calls=_pece_calls,
        draws=None,
        weak_order=2,
    ),
    _spec(SamplerType.CFGPP_UD10_AB, "cfg_pp", cfg_pp.cfgpp_ud10_ab, 0, "ComfyUI", uncond=True, ends_at_denoised=False),
    _spec(SamplerType.DDIM, "euler", euler.ddim_eta, 1, "Song et al. 2020, arXiv:2010.02502", weak_order=1),
    _spec(SamplerType.UNI_PC, "exponential_multistep", uni_pc.uni_pc, 2, "Zhao et al. 2023, arXiv:2302.04867"),
    _spec(SamplerType.UNI_PC_BH2, "exponential_multistep", uni_pc.uni_pc_bh2, 2, "Zhao et al. 2023, arXiv:2302.04867"),
    _spec(SamplerType.EXP_AB, "exponential_multistep", exponential_multistep.exp_ab, 2, _ADAMS),
    _spec(SamplerType.EXP_PC, "exponential_multistep", exponential_multistep.exp_pc, 3, _ADAMS),
    _spec(SamplerType.DPM_MULTISTEP, "dpm_solver", dpm_solver.dpm_multistep, 2, _DPMPP, weak_order=2),
    _spec(SamplerType.DPM_SINGLESTEP, "dpm_solver", dpm_solver.dpm_singlestep, 2, _DPM, weak_order=2),
    _spec(SamplerType.PNDM, "linear_multistep", adams.pndm, 2, "Liu et al. 2022, arXiv:2202.09778", calls=_pndm_calls),
    _spec(SamplerType.MIDPOINT, "runge_kutta", runge_kutta.midpoint, 2, "Runge 1895", calls=2),
    _spec(SamplerType.RALSTON, "runge_kutta", runge_kutta.ralston, 2, "Ralston 1962", calls=2),
    _spec(
        SamplerType.BOGACKI_SHAMPINE, "runge_kutta", runge_kutta.bogacki_shampine, 3, "Bogacki & Shampine 1989", calls=3
    ),
    _spec(SamplerType.RK4, "runge_kutta", runge_kutta.rk4, 4, "Kutta 1901", calls=4),
    _spec(SamplerType.DORMAND_PRINCE, "runge_kutta", runge_kutta.dormand_prince, 5, "Dormand & Prince 1980", calls=6),
    _spec(SamplerType.RES_2S, "exponential_single_step", exponential_single_step.res_2s, 2, _RES, calls=2),
    _spec(
        SamplerType.RES_3S,
        "exponential_single_step",
        exponential_single_step.res_3s,
        3,
        "Hochbruck & Ostermann 2005",
        calls=3,
    ),
    _spec(
        SamplerType.ETDRK4, "exponential_single_step", exponential_single_step.etdrk4, 4, "Cox & Matthews 2002", calls=4
    ),
    _spec(
        SamplerType.RESTART,
        "runge_kutta",
        runge_kutta.restart,
        2,
        "Xu et al. 2023, arXiv:2306.14878",
        calls=None,
        draws=None,
        weak_order=2,
    ),
    _spec(
        SamplerType.RK_ADAPTIVE, "adaptive", adaptive.rk_adaptive, 5, "Dormand & Prince 1980", calls=6, adaptive=True
    ),
)


_REGISTRY: dict[str, SamplerSpec] = {spec.name: spec for spec in _SPECS}


#: a choice among samplers, not one of them
AUTO = SamplerSpec(
    "auto", auto.auto, 2, "ksched", ends_at_denoised=False, levels=auto.auto_levels, family="exponential_multistep"
)


def samplers() -> Iterator[SamplerSpec]:
    """Every sampler, ours first, then those registered by others."""
    return iter(tuple(_REGISTRY.values()))


def families(specs: Iterable[SamplerSpec] | None = None) -> dict[str, list[SamplerSpec]]:
    """Samplers by family: headings and what stands under them, in a fixed order.

    Parameters
    ----------
    specs : which ones; None is every sampler
    """
    members = list(samplers() if specs is None else specs)
    found = {heading: [spec for spec in members if spec.family == family] for family, heading in FAMILIES.items()}
    return {heading: specs for heading, specs in found.items() if specs}


def sampler_spec(name: SamplerType | str) -> SamplerSpec:
    """The sampler of a name: one registered by that very name, else by any spelling `SamplerType.parse` knows.

    "auto" is `ksched.samplers.auto.auto`; and the JSON of a `Plan` is a sampler too, on the levels of the plan.

    Raises
    ------
    TypeError, ValueError : no such sampler; the message lists near names
    """
    if isinstance(name, str) and name.lstrip().startswith("{"):
        return plan_spec(Plan.from_json(name))
    if name == AUTO.name:
        return AUTO
    if isinstance(name, str) and name in _REGISTRY:
        return _REGISTRY[name]
    return _REGISTRY[SamplerType.parse(name)]


@dataclass(frozen=True, eq=False)
class _OfPlan(SamplerSpec):
    """A plan as a sampler; equal if the plans are."""

    whole: Plan | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OfPlan) and self.whole == other.whole

    def __hash__(self) -> int:
        return hash(self.whole)

    def plan(self, grid: Grid, options: Mapping[str, Any]) -> Plan:
        """The plan itself on its own levels."""
        assert self.whole is not None
        here = placed(self.whole, grid.process)
        own = same_levels([level.label for level in grid.levels], here.sigmas)
        return here if own else super().plan(grid, options)


def plan_spec(plan: Plan) -> SamplerSpec:
    """A plan as a sampler, on its own levels and, with a general method, on the last few of them."""

    def calls(steps: int, to_zero: bool) -> int:
        return plan.nfe

    facts: dict[str, Any] = {"calls": calls, "draws": len(plan.draws), "ends_at_denoised": False}
    facts |= {"uncond": any(row.both for row in plan.rows), "levels": partial(own_levels, plan)}
    facts |= {"steps": tuple(dict.fromkeys((plan.steps, plan.nfe)))}
    return _OfPlan(f"plan {plan.digest[:8]}", replay(plan), 0, "a plan", text=plan.to_json(), whole=plan, **facts)


def dialect_options(spec: SamplerSpec, dialect: Dialect) -> Mapping[str, Any]:
    """What a sampler's name means in a dialect, as options; those of samplers that others registered do not change."""
    return DIALECTS[dialect].get(SamplerType(spec.name), {}) if spec.name in list(SamplerType) else {}


def register_sampler(
    name: str,
    function: SamplerFunction,
    *,
    order: int,
    source: str = "",
    calls: int | Calls | None = 1,
    calls_to_zero: int = 1,
    draws: int | None = 0,
    weak_order: int | None = None,
    uncond: bool = False,
    adaptive: bool = False,
    ends_at_denoised: bool = True,
    family: str = "other",
) -> SamplerSpec:
    """Add a sampler of your own; it then works with every schedule and process, and by name everywhere.

    Parameters
    ----------
    name : the name to give `build_sampler`; must be new
    function : ``(run, grid, x, *, options) -> x``
    order, source, calls, calls_to_zero, draws, weak_order, uncond, adaptive, ends_at_denoised, family : facts about it
        (see `SamplerSpec`)

    Raises
    ------
    ValueError : the name is taken, by a sampler or by a peer's spelling of one; an option that every sampler has; a
        family that there is not
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a sampler is named by a string; got {name!r}")
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    try:
        taken = sampler_spec(name)
    except ValueError:
        facts: dict[str, Any] = {
            "calls": calls,
            "calls_to_zero": calls_to_zero,
            "draws": draws,
            "weak_order": weak_order,
        }
        facts |= {"uncond": uncond, "adaptive": adaptive, "ends_at_denoised": ends_at_denoised, "family": family}
        spec = SamplerSpec(name, function, order, source, **facts)
        if clash := spec.own_options.keys() & VIEW_OPTIONS.keys():  # a mistake in the signature shows here too
            raise ValueError(f"every sampler has an option {min(clash)!r} already; rename that of {name!r}") from None
        _REGISTRY[name] = spec
        return spec
    raise ValueError(f"the name {name!r} is taken by sampler {taken.name!r}; choose another")

"""`SamplerSpec`: everything the library knows of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ksched.names.enums import Dialect
from ksched.options import Option, options_of
from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerFunction
from ksched.plan.trace import trace
from ksched.processes import Level, Process
from ksched.samplers.coordinates import VIEW_OPTIONS, view
from ksched.samplers.peer_names import PeerName, words_for
from ksched.schedules.grid import Grid

__all__ = ["FAMILIES", "Calls", "SamplerSpec"]


#: families of samplers, and their headings
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
    """Everything the library knows of a sampler.

    Attributes
    ----------
    name : str
        `SamplerType` value, or the name that it was registered under.
    function : callable
        ``(run, grid, x, *, options) -> x``.
    order : int
        Order of convergence of the deterministic form, including its low-order start and end; 0 for a sampler that does
        not converge to the ODE.
    source : str
        Paper or program.
    calls : int, callable or None
        Model calls per step; a function ``(steps, to_zero) -> calls`` if steps differ; None if they depend on the
        levels.
    calls_to_zero : int
        Model calls of the step to sigma 0.
    draws : int or None
        Noises per step that does not end at 0, with default options; 0 for deterministic samplers, None if it depends
        on the levels.
    weak_order : int or None
        Order of the mean and variance of the stochastic form; None if there is none.
    uncond : bool
        Whether it needs the unconditional prediction too.
    adaptive : bool
        Whether it chooses its steps from the model's answers and so has no plan; order and calls are then those of one
        step.
    ends_at_denoised : bool
        Whether a step to sigma 0 returns the prediction.
    keeps_variance : bool
        Whether every state has the variance of its level if all data is a single point. Together with the mean of the
        level, this is what the proofs require of a sampler.
    flow_only : bool
        Whether it is made for flow processes and has no meaning on others.
    levels : callable or None
        ``(steps, process, *, options) -> sigmas``, for a sampler with its own levels, which takes no schedule.
    family : str
        The kind of method, one of `FAMILIES`. A stage of a "runge_kutta" method uses the slope at its state, not only
        the prediction; host programs need this when they edit a state between two stages.
    text : str
        The text that finds the sampler if it is not in the registry: a plan as JSON.
    steps : tuple of int
        Numbers of steps that it has levels for; () means any.
    brownian_tree : bool
        Whether ComfyUI and k-diffusion take its noise from a Brownian tree.
    spellings : tuple of str
        Names that `SamplerType.parse` reads besides those of ``peers``.
    peers : tuple of PeerName
        Its names in other programs.
    dialects : mapping
        Options that its name implies in other programs.
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
    keeps_variance: bool = True
    flow_only: bool = False
    levels: OwnLevels | None = None
    family: str = "other"
    text: str = ""
    steps: tuple[int, ...] = ()
    brownian_tree: bool = False
    spellings: tuple[str, ...] = ()
    peers: tuple[PeerName, ...] = field(default=(), compare=False)
    dialects: Mapping[Dialect, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> str:
        """The name or text by which `sampler_spec` finds it."""
        return self.text or self.name

    @property
    def words(self) -> list[str]:
        """Every spelling of its name except its own."""
        return [*self.spellings, *(word for peer in self.peers for word in words_for(peer, self.name))]

    def arguments(self, program: Dialect) -> tuple[str, ...] | None:
        """Options that a function or class of a program takes for it; None if the program has no such function."""
        taken = [peer.arguments for peer in self.peers if peer.program is program and peer.arguments is not None]
        return tuple(dict.fromkeys(name for names in taken for name in names)) if taken else None

    @property
    def own_options(self) -> Mapping[str, Option]:
        """The sampler's keyword-only options."""
        return options_of(self.function)

    @cached_property
    def options(self) -> Mapping[str, Option]:
        """The sampler's options and those that all samplers have, see `ksched.samplers.coordinates.view`."""
        return self.own_options if self.levels else {**self.own_options, **VIEW_OPTIONS}

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def nfe(self, steps: int, to_zero: bool = True) -> int:
        """Model calls of a run of ``steps`` steps.

        Raises
        ------
        TypeError
            If the number of steps does not determine the calls: the sampler is adaptive, or depends on the levels.
        """
        if self.adaptive or self.calls is None:
            what = "its error estimate requires" if self.adaptive else "its levels require"
            raise TypeError(f"{self.name} makes as many model calls as {what}; the number of steps does not tell")
        if callable(self.calls):
            return self.calls(steps, to_zero)
        return self.calls * steps - (self.calls - self.calls_to_zero if to_zero and steps else 0)

    def runs_on(self, process: Process) -> bool:
        """Whether the sampler has a meaning on a process."""
        return process.is_flow or not self.flow_only

    def __call__(self, run: Any, grid: Grid, x: Any, **options: Any) -> Any:
        """Run the sampler on a grid, read as the options say; arguments as for the function.

        Raises
        ------
        ValueError
            For a flow-only sampler on another process.
        """
        shown = {name: value for name, value in options.items() if name in VIEW_OPTIONS}
        own = {name: value for name, value in options.items() if name not in VIEW_OPTIONS}
        seen = view(grid, **shown) if shown else grid
        if not self.runs_on(seen.process):
            raise ValueError(
                f"sampler {self.name} must run on a flow process, whose states are (1 - sigma) * x0 + sigma * noise; "
                f"got {seen.process!r}. For stochastic steps that keep a level's variance on any process, use "
                "'dpmpp_2m_sde' or 'euler_ancestral'"
            )
        return self.function(run, seen, x, **own)

    def plan(self, grid: Grid, options: Mapping[str, Any]) -> Plan:
        """The plan of the sampler on a grid, with the process's own levels even if the sampler read them otherwise."""
        plan = trace(self, grid, options)
        if not options.get("as_ve"):
            return plan

        def own(level: Level | None) -> Level | None:
            return None if level is None else grid.process.level(level.label)

        rows = tuple(row._replace(level=own(row.level), state_level=own(row.state_level)) for row in plan.rows)
        return replace(plan, rows=rows)

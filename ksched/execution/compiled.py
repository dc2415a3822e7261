"""A plan as one matrix per model call, so that a step of a run is a pure function of tensors.

Between two model calls, everything is linear in the run's registers, the model's answer and the noises. One step can
therefore be compiled, exported or captured once and used with other numbers at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any, TypeAlias

import torch

from ksched.denoisers.answer import Model, answer
from ksched.denoisers.denoiser import Denoiser
from ksched.execution.matrices import Matrices, product
from ksched.execution.registers import WRITTEN, check_output, check_state
from ksched.kernels.torch_internals import writes_to
from ksched.noise.sources import Noise, Seed, noise_source
from ksched.processes import Process
from ksched.processes.agreement import check_agreement

__all__ = ["CompiledStep", "advance", "step"]


# Tensors of one shape: the registers held between two model calls, of which the model receives the first; or noises.
Tensors: TypeAlias = tuple[torch.Tensor, ...]


def step(
    model: Model,
    state: Tensors,
    table: torch.Tensor,
    noise: Tensors = (),
    *,
    both: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensors:
    """One model call and the update after it: a pure function in which calls differ only in tensor values.

    Parameters
    ----------
    model : callable
        ``(x, sigma) -> denoised``, or (denoised, uncond); sigma of shape (batch,).
    state : tuple of Tensor
        From `CompiledStep.start` or the step before.
    table : Tensor
        The table of the call, from `CompiledStep.tables`.
    noise : tuple of Tensor
        The noises of the call, from `CompiledStep.noises`.
    both : bool
        Whether the plan needs ``uncond``, see `CompiledStep.both`.
    dtype : dtype or None
        Dtype in which the model receives ``x``; None means the dtype of ``state``.

    Returns
    -------
    the next state, in new tensors

    Raises
    ------
    TypeError, ValueError
        For an answer that is not a tensor like the state; arguments from different plans.

    Notes
    -----
    Sampler, levels, number of steps and seed are all in the tensors. Runs with the same number of registers and noises
    and with states of one kind therefore share what was compiled or captured. torch keeps eight compiled versions of a
    function and with ``fullgraph=True`` refuses a ninth; `CompiledStep.compiled` returns a new function each time.

    A compiler cannot follow what a model stores at its first call, as a `ksched.Denoiser` stores its process's table.
    Call such a model once on the device before compiling.
    """
    x = state[0]
    sigma = table[0, -1].repeat(x.shape[0])
    shown = x if dtype is None else x.to(dtype)
    if torch.compiler.is_compiling():
        denoised, uncond = answer(
            model, shown.clone(), sigma, both
        )  # a lazy copy: it costs nothing unless the model writes to it
    else:
        writes = writes_to(x)
        denoised, uncond = answer(model, shown, sigma, both)
        if writes_to(x) != writes:
            raise RuntimeError(WRITTEN)
    if both:
        check_output("U", uncond, x.shape, x.device)
    return advance(state, table, denoised, uncond, noise)


def advance(
    state: Tensors,
    table: torch.Tensor,
    denoised: torch.Tensor,
    uncond: torch.Tensor | None = None,
    noise: Tensors = (),
) -> Tensors:
    """`step` without the model, if you call the model yourself: on ``state[0]``, at sigma ``table[0, -1]``.

    Pass ``uncond`` only for a plan that needs it.
    """
    outputs = {"D": denoised} if uncond is None else {"D": denoised, "U": uncond}
    for kind, value in outputs.items():
        check_output(kind, value, state[0].shape, state[0].device)
    if table.shape != (len(state), len(state) + len(outputs) + len(noise) + 1):
        raise ValueError(
            "registers, noises and uncond must match the table's plan; got "
            f"{len(state)} registers, {len(noise)} noises, {' and '.join(outputs)}, and a table of {tuple(table.shape)}"
        )
    return product(table, (*state, *(value.to(state[0].dtype) for value in outputs.values()), *noise))


@dataclass(frozen=True)
class CompiledStep(Matrices):
    """A plan in the form that `ksched.execution.compiled.step` takes; `ksched.Sampler.matrices` makes it for a sampler.

    Parameters
    ----------
    plan : Plan
        The plan to run.
    process : Process or None
        The process of the levels; only ``noise="brownian"`` needs it.

    Notes
    -----
    Use it with a compiler, which turns a step into one pass. Without a compiler, `ksched.Sampler.sample` is several
    times faster because it leaves out terms of weight 0. It is also faster with a compiler if states are small, or if
    the model is a call that the compiler cannot fuse: the step can then gain at most the model's last operations.

    Examples
    --------
    The loop of a server or an exporter. The step is not compiled here, to keep the example fast.

    >>> import ksched, torch
    >>> from ksched.execution.compiled import step
    >>> def model(x, sigma):
    ...     return x / (1 + sigma.reshape(-1, 1) ** 2)  # exact for standard normal data
    >>> sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 8)
    >>> x = 14.6146 * torch.ones(2, 3)
    >>> form = sampler.matrices
    >>> turn = step  # torch.compile(step, fullgraph=True) compiles once
    >>> tables, noises = form.tables(x), form.noises(x, seed=7)
    >>> state = form.start(x, noises(-1))
    >>> for call in range(form.nfe):
    ...     state = turn(model, state, tables[call], noises(call))
    >>> torch.allclose(state[0], sampler.sample(model, x, seed=7))
    True
    """

    process: Process | None = None

    def tables(self, x: torch.Tensor) -> torch.Tensor:
        """`matrices`, each with the call's sigma as an additional last column; on ``x``'s device, at least float32."""
        return torch.tensor(self.with_sigmas.tolist(), dtype=_compute(x), device="cpu").to(x.device, non_blocking=True)

    def start(self, x: torch.Tensor, noise: Tensors = ()) -> Tensors:
        """The state of the first model call.

        Parameters
        ----------
        x : Tensor
            Start state, batch first.
        noise : tuple of Tensor
            The noises drawn before that call, ``noises(-1)``.

        Raises
        ------
        TypeError, ValueError
            For anything that is not a floating-point tensor with a batch axis; the number of noises is not `draws`.
        """
        check_state(x)
        if len(noise) != self.draws:
            raise ValueError(
                f"the start needs as many noises as a step, {self.draws}; pass noises(-1); got {len(noise)}"
            )
        return product(self.first.tolist(), (x.to(_compute(x)), *noise))

    def noises(
        self, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None
    ) -> Callable[[int], Tensors]:
        """The noises of a run as a function of the call index: those drawn after it; -1 gives those before the first.

        There are always `draws` noises, with zeros if fewer are drawn. Arguments, errors and noises are those of
        `ksched.Sampler.sample`.
        """
        check_state(x)
        source, _ = noise_source(bool(self.plan.draws), x.shape[0], seed, noise, self.process)
        like = x.new_empty((), dtype=_compute(x)).expand(x.shape)

        def drawn(call: int) -> Tensors:
            found = [source(self.plan.draws[number], like).contiguous() for number, _ in self.turn(call).draws]
            return (*found, *(like.new_zeros(like.shape) for _ in range(self.draws - len(found))))

        return drawn

    def compiled(self, **how: Any) -> Callable[..., Tensors]:
        """`step`, compiled; ``how`` are further arguments of ``torch.compile``."""
        # a separate function, because torch would count all versions as one function's
        own = FunctionType(step.__code__.replace(), step.__globals__, "step", step.__defaults__)
        own.__kwdefaults__ = step.__kwdefaults__
        return torch.compile(own, fullgraph=True, **how)

    @cached_property
    def _compiled(self) -> Callable[..., Tensors]:
        return self.compiled()

    def sample(
        self,
        model: Model,
        x: torch.Tensor,
        *,
        seed: Seed | None = None,
        noise: Noise | None = None,
        step: Callable[..., Tensors] | None = None,
    ) -> torch.Tensor:
        """`ksched.Sampler.sample` with the model and the arithmetic in one compiled step.

        Parameters
        ----------
        model : as for `ksched.Sampler.sample`; ``torch.compile`` must be able to trace it
        x, seed, noise : as for `ksched.Sampler.sample`
        step : callable or None
            The step function; None means the result of `compiled`, compiled at the first call and cached.

        Returns
        -------
        tensor of ``x``'s shape, dtype and device: the result of `ksched.Sampler.sample` up to rounding
        """
        if self.process is not None:
            check_agreement(model, self.process, self.plan.sigmas)
        noises, tables = self.noises(x, seed=seed, noise=noise), self.tables(x)
        process = model.process if isinstance(model, Denoiser) else self.process
        if process is not None:
            process.timestep(tables[:, 0, -1])  # uploads its table to the device
        turn = self._compiled if step is None else step
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            state = self.start(x, noises(-1))
            for call, table in enumerate(tables.unbind()):
                state = turn(model, state, table, noises(call), both=self.both, dtype=x.dtype)
            return state[0].to(x.dtype)


def _compute(x: torch.Tensor) -> torch.dtype:
    """Dtype of the sums: half precision is only for the model."""
    return torch.promote_types(x.dtype, torch.float32)

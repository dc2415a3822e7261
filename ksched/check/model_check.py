"""A check on clean data and known noise: whether a model is the kind of network that its user believes.

The check knows data x0 and noise eps, so it knows the answer of an ideal network of each kind to ``x0 + rho * eps``: a
*target* ``p * x0 + q * eps`` with the p and q of its prediction type. No network can reach its target, but one trained
for it does better than the best linear function of the state; that, not zero, is the yardstick. A network trained for
another target misses by the size of the target itself at most levels. A *reading* is a way to pass states to the
network (scale and timestep) together with a way to interpret its answer (prediction type and sign). If the claimed
reading fails, the others show what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ksched.check import words
from ksched.check.alternatives import Alternatives
from ksched.check.probe import Probe
from ksched.check.ranking import CLOSE, Ranking
from ksched.check.readings import Claim, Hypothesis
from ksched.check.report import Finding, LevelFigures, ModelReport
from ksched.names.enums import Prediction
from ksched.processes import Process

__all__ = ["check_model"]


def check_model(
    model: Callable[..., Any],
    process: Process | None = None,
    *,
    data: Any,
    prediction: Prediction | str | None = None,
    noise: Any = None,
    levels: int = 8,
    seed: int = 0,
) -> ModelReport:
    """Check on clean data and known noise whether a model predicts what you believe.

    Parameters
    ----------
    model : callable
        A `Denoiser`; or a network ``(scaled x, timestep) -> output`` with its ``prediction``; or, without
        ``prediction``, a denoiser ``(x, sigma) -> denoised``, such as a k-diffusion wrapper.
    process : Process or None
        Process that the model was trained on; None takes the model's own, if it knows one as a `Denoiser` does.
    data : Tensor
        Clean items that the model was trained on, scaled as in training: a tensor ``(batch, *shape)`` with the model's
        device and dtype. The model is called on batches of this length, with whatever conditioning is bound to it
        (`Denoiser.given`). Eight images, or a few hundred rows of a table, are plenty.
    prediction : Prediction, str or None
        What you believe the network predicts, as for `Denoiser`.
    noise : Tensor or None
        Unit noise like ``data``, to use your own pairs; None draws it from ``seed``, at least 16 states per level.
    levels : int
        Number of noise levels, at least 3, in addition to the ends of the process's range.
    seed : int
        Seed of the noise.

    Returns
    -------
    ModelReport
        Report with ``ok``, ``findings`` in words, and errors per level. Whatever the model does, nothing is raised; to
        raise an error for a wrong model, call `ModelReport.raise_if_wrong`.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid: the process is not one, the data is constant or not finite, or the process cannot
        have the prediction.

    Notes
    -----
    Some mistakes cannot be seen in data: see the how-to page. A model in training mode stays in it.

    Examples
    --------
    >>> import ksched, torch
    >>> truth = ksched.exact.digits()
    >>> data = torch.tensor(truth.sample(32, seed=0)).float()
    >>> print(ksched.check_model(truth, ksched.VP(), data=data, levels=3))
    denoiser of VP(<1000 betas, sigma 0.02917 to 14.6146>): nothing wrong ...
    >>> def network(scaled, timestep):  # predicts x0
    ...     sigma = ksched.VP().sigma(timestep)
    ...     return truth(scaled * (1 + sigma[:, None] ** 2) ** 0.5, sigma)
    >>> ksched.check_model(network, ksched.VP(), prediction="epsilon", data=data).kinds
    ('prediction',)
    """
    claim = Claim.of(model, process, prediction)
    probe = Probe(claim, data, noise, levels, seed)
    if finding := _first_answers(probe):
        return ModelReport(str(claim), (finding,), (), (), probe.calls)
    ranking = Ranking(probe)
    claimed = ranking.claimed()
    notes = [] if _is_repeatable(probe) else [words.not_repeatable(claim.model)]
    best, readings = _search(ranking, claimed)
    findings: list[Finding] = []
    if best is None:
        findings = [_unexplained(ranking, claimed)]
    elif best is not claimed:
        findings = list(words.explain(claim, best, probe.ratios))
    elif outputs := ranking.equally_good_outputs(claimed, readings):
        notes.append(words.ambiguous(claim, outputs))
    return ModelReport(str(claim), tuple(findings), tuple(notes), _figures(ranking, claimed), probe.calls)


def _first_answers(probe: Probe) -> Finding | None:
    """Call the model as claimed and cache its answers; returns a finding if they cannot be used."""
    claim, shape = probe.claim, tuple(probe.data.shape)
    products = probe.no_products()
    bad: dict[float, None] = {}
    answers = probe.answers(claim.scaling, claim.timesteps)
    while True:
        try:
            level, row, answer = next(answers, (-1, 0, None))
        except Exception as error:  # any error of the model is a finding
            return words.raises(claim, shape, error)
        if level < 0:
            break
        if not isinstance(answer, torch.Tensor):
            return words.not_a_tensor(answer)
        if tuple(answer.shape) != shape:
            return words.wrong_shape(answer, shape)
        if bool(answer.isfinite().all()):
            products[level, row : row + probe.count] = probe.products_of(level, row, answer)
        else:
            bad[float(probe.ratios[level])] = None
    if bad:
        sigmas = [probe.sigma(rho) for rho in bad]
        return words.not_finite(sigmas, len(bad) == len(probe.ratios), probe.data.dtype)
    probe.hold(claim.scaling, claim.timesteps, products)
    return None


def _is_repeatable(probe: Probe) -> bool:
    """Whether the model gives the same answer to the same question twice."""
    middle = len(probe.ratios) // 2
    state = next(probe.states(middle, probe.claim.scaling))
    timestep = probe.claim.timesteps.timestep(float(probe.ratios[middle]))
    first, second = probe.call(state, timestep).detach().clone(), probe.call(state, timestep)
    return torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max()))


def _search(ranking: Ranking, claimed: Hypothesis) -> tuple[Hypothesis | None, list[Hypothesis]]:
    """The best reading, and all that were tried: the claim and its neighbours, then more if none of them fits."""
    alternatives = Alternatives(ranking.claim, ranking.probe.ratios)
    readings = [*ranking.hypotheses(alternatives.near()), *ranking.rescaled()]
    best = ranking.best(claimed, readings)
    # a score depends so weakly on its timestep that a wrong one may look like poor training
    doubtful = ranking.claim.prediction == "score" and claimed.excess.max() > CLOSE
    if doubtful or best is not claimed or not ranking.knows_data(claimed):
        readings += ranking.hypotheses(alternatives.far())
        best = ranking.best(claimed, readings)
        if best is None or best.excess.max() > CLOSE:
            readings += ranking.hypotheses(alternatives.combined())
            best = ranking.best(claimed, readings)
    return best, readings


def _unexplained(ranking: Ranking, claimed: Hypothesis) -> Finding:
    """The finding if no reading explains the answers."""
    probe = ranking.probe
    sigmas = [probe.sigma(rho) for rho in probe.ratios[claimed.excess > ranking.tolerance]]
    return words.unexplained(
        sigmas,
        len(sigmas) == len(probe.ratios),
        mean=probe.mean * probe.scale,
        std=math.sqrt(probe.variance) * probe.scale,
        low=float(probe.data.min()),
        high=float(probe.data.max()),
    )


def _figures(ranking: Ranking, claimed: Hypothesis) -> tuple[LevelFigures, ...]:
    """Errors of the claimed reading at every level."""
    probe, timestep = ranking.probe, ranking.claim.timesteps.timestep
    levels = zip(probe.ratios.tolist(), claimed.errors, ranking.linear_errors.tolist(), strict=True)
    return tuple(
        LevelFigures(
            probe.sigma(rho),
            timestep(rho),
            math.sqrt(max(0.0, float(errors.mean()))) * probe.scale,
            math.sqrt(linear) * probe.scale,
        )
        for rho, errors, linear in levels
    )

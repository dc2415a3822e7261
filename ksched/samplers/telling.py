"""Plans that give the model other noise levels than those of its states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ksched.names.enums import Prediction
from ksched.plan.plan import Plan
from ksched.plan.rows import Register, Row, in_order
from ksched.processes import EDM, Level, Process
from ksched.processes.conversion import conversion
from ksched.types import ArrayLike

__all__ = ["tell"]


def tell(plan: Plan, sigmas: ArrayLike, *, process: Process, prediction: Prediction | str | None = None) -> Plan:
    """The plan with other noise levels given to the network than those of the states it receives.

    Parameters
    ----------
    plan : Plan
        The plan to run.
    sigmas : array_like
        Contract sigma given to the network at each model call, above 0.
    process : Process
        The noise process that the network was trained on.
    prediction : Prediction, str or None
        None reads the network's answer as the x0 prediction at the level that it is given. If you say what the network
        predicts, as for `Denoiser`, its answer is read at the level of the state, so that a velocity or a noise
        prediction stays as it is.

    Returns
    -------
    a plan of the same steps, with rows that undo how a denoiser reads the answer at the other level

    Raises
    ------
    ValueError
        If the number of sigmas is not the plan's number of model calls, or the process does not have them.

    Notes
    -----
    A denoiser is a function of a state and a sigma. The sigma that it is given sets everything: its input scaling, its
    timestep and how it reads the network's answer. Programs that decouple the two times differ in what else they
    change. LD3 (Tong et al. 2024, arXiv:2405.15506) reads the answer as x0 at the given time where its solver predicts
    data (DPM-Solver++, UniPC), and keeps the noise prediction as it is where its solver predicts noise (iPNDM). All of
    this is linear, so the rows can express it. As in those programs, the network sees the state scaled for the state's
    own level. EDM is the exception: its scaling is part of the network, so it follows the level that the network is
    given.

    Examples
    --------
    >>> import ksched
    >>> sampler = ksched.build_sampler("euler", sigmas=[1, 0.5, 0], process=ksched.Flow())
    >>> print(ksched.tell(sampler.plan, [1, 0.4], process=ksched.Flow(), prediction="flow"))
    x0   eval s=1
    x1   eval s=0.4 at 0.5  +0.500000 x0  +0.500000 D0
    x2                      -0.250000 x1  +1.250000 D1
    """
    told = [process.level(float(sigma)) for sigma in np.asarray(sigmas, dtype=np.float64).ravel()]
    if len(told) != plan.nfe or not all(0 < level.label <= process.sigma_limit for level in told):
        raise ValueError(
            f"sigmas must be one for each of the {plan.nfe} model calls, above 0 and at most {process.sigma_limit:g}; "
            f"got {[level.label for level in told]}"
        )
    known: dict[Register, Mapping[Register, float]] = {}  # old registers as sums of new ones
    rows: list[Row] = []
    calls = 0
    for k, row in enumerate(plan.rows):
        terms = _summed(row, known)
        old = row.level
        if old is None:
            rows.append(row._replace(terms=in_order(terms)))
            known[Register("x", k)] = {Register("x", len(rows) - 1): 1.0}
            continue
        new = told[calls]
        share = _scale(process, new) / _scale(process, old)
        if not k and share != 1:  # the start state is not scaled yet
            rows.append(Row((), None, row.step))
            terms = {Register("x", 0): 1.0}
        scaled = {register: value * share for register, value in terms.items()}
        own = None if row.at == new else row.at
        rows.append(row._replace(terms=in_order(scaled), level=new, state_level=own))
        here = Register("x", len(rows) - 1)
        known[Register("x", k)] = {here: 1 / share}
        of_x, of_answer = (0.0, 1.0) if prediction is None else _read(process, prediction, old, new, share)
        for answer in (Register("D", calls), Register("U", calls)):
            known[answer] = {answer: of_answer, here: of_x}
        calls += 1
    return replace(plan, rows=tuple(rows))


def _summed(row: Row, known: Mapping[Register, Mapping[Register, float]]) -> dict[Register, float]:
    """The terms of a row, in new registers."""
    total: dict[Register, float] = {}
    for register, value in row.terms:
        for own, share in known.get(register, {register: 1.0}).items():
            total[own] = total.get(own, 0.0) + value * share
    return {register: value for register, value in total.items() if value}


def _scale(process: Process, level: Level) -> float:
    """Divisor of the network's input, if scaling is not part of the network."""
    return 1.0 if isinstance(process, EDM) else float(process.input_norm(level.label))


def _read(process: Process, prediction: Prediction | str, old: Level, new: Level, share: float) -> tuple[float, float]:
    """Factors that turn a state and the denoiser's answer at one level into the prediction at another."""
    kind = Prediction.parse(prediction)
    (_, of_x, of_output), (_, told_x, told_output) = (
        tuple(map(float, conversion(process, kind, level.label))) for level in (old, new)
    )
    of_answer = of_output / told_output
    return of_x / share - of_answer * told_x, of_answer

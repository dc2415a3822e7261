"""Options that control how much noise is drawn, with one number per step: lists, windows, and what is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import COORDINATES, SPECS, process_for
from command import command_of
from hypothesis import given
from hypothesis import strategies as st
from representatives import each

import ksched
from ksched import Process, build_sampler
from ksched.options import Dial
from ksched.plan.analysis import measured_order, table
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw, Row
from ksched.samplers.spec import SamplerSpec
from ksched.testing.samplers import check_plan
from ksched.testing.strategies import sigma_curves

DIALS = [(spec, option) for spec in SPECS for option in spec.own_options.values() if option.per_step]
IDS = [f"{spec.name}-{option.name}" for spec, option in DIALS]
#: dials with which states keep their law: no factors of the noise, no values that only repeat another program
LAWFUL = [(spec, option.name) for spec, option in DIALS if option.name != "s_noise" and not option.quirks]


def plan_of(spec: SamplerSpec, process: Process, **options: Any) -> Plan:
    if "gamma_min" in spec.own_options:
        options = {"gamma_min": 0.0, **options}  # noise at every step
    return build_sampler(spec.name, "simple", 6, process=process_for(spec, process), **options).plan


# ---------------------------------------------------------------------------------------------------- what plans are
@pytest.mark.parametrize(("spec", "dial"), LAWFUL, ids=lambda value: getattr(value, "name", value))
@given(data=st.data())
def test_every_state_keeps_its_law_whatever_the_dial_is_at_every_step(
    spec: SamplerSpec, dial: str, data: st.DataObject
) -> None:
    for name, process in COORDINATES.items():
        if not spec.runs_on(process):
            continue
        sigmas = data.draw(sigma_curves(process), name)
        high = 60.0 if dial == "s_churn" else 1.0 if spec.own_options[dial].high == 1 else 1.4
        number = st.just(0.0) | st.just(1.0) | st.floats(0, high)
        values: Any = data.draw(st.lists(number, min_size=len(sigmas) - 1, max_size=len(sigmas) - 1), dial)
        options: dict[str, Any] = {dial: values}
        plan = build_sampler(spec.name, sigmas=sigmas, process=process, **options).plan
        check_plan(plan, keeps_variance=spec.keeps_variance)


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@each("spec, option", DIALS)
def test_a_list_of_one_number_is_the_number(process: Process, spec: SamplerSpec, option: ksched.options.Option) -> None:
    for value in (0.0, 0.6, option.default):
        noisy = {"s_churn": 3.0} if option.name == "s_noise" and "s_churn" in spec.own_options else {}
        one, many, array = (
            plan_of(spec, process, **noisy, **{option.name: given})
            for given in (value, [value] * 6, np.full(6, value, dtype=np.float64))
        )
        assert one.digest == many.digest == array.digest


def formed_in(plan: Plan, step: int) -> list[tuple[int, Row]]:
    """Rows that come of the model calls of a step, with their numbers."""
    found, current = list[tuple[int, Row]](), -1
    for k, row in enumerate(plan.rows):
        found += [(k, row)] if current == step else []
        current = row.step if row.level is not None else current
    return found


Terms = list[tuple[tuple[str, int], float]]


def of_step(plan: Plan, step: int) -> list[tuple[Terms, Any]]:
    """The rows of a step, registers numbered from its first call on, and where the model is called at each."""
    seen = [k for k, row in enumerate(plan.rows) if row.level is not None]
    call = next(n for n, k in enumerate(seen) if plan.rows[k].step == step)
    first = {"x": seen[call], "D": call, "U": call, "xi": 0}
    return [
        ([((register.kind, register.number - first[register.kind]), value) for register, value in row.terms], row.level)
        for _, row in formed_in(plan, step)
    ]


def remembers(plan: Plan, step: int) -> bool:
    """Whether a step reads what was there before it."""
    return any(number < 0 for terms, _ in of_step(plan, step) for (_, number), _ in terms)


def within(draw: Draw, plan: Plan, step: int) -> bool:
    """Whether a noise is drawn in a step, or above its level before it, as churn does."""
    if draw.sigma_to > draw.sigma_from:
        return draw.sigma_from == plan.sigmas[step]
    return max(draw[:2]) <= plan.sigmas[step] and min(draw[:2]) >= plan.sigmas[step + 1]


@pytest.mark.parametrize(
    ("spec", "dial"),
    [(spec, option.name) for spec, option in DIALS if option.name != "s_noise"],
    ids=lambda value: getattr(value, "name", value),
)
@each("process", COORDINATES.values())
def test_zero_at_a_step_is_the_ode_step_there(process: Process, spec: SamplerSpec, dial: str) -> None:
    quiet, loud = (plan_of(spec, process, **{dial: value}) for value in (0.0, 0.6))
    mixed = plan_of(spec, process, **{dial: [0.6, 0, 0, 0.6, 0, 0]})
    assert not quiet.draws
    for step in (1, 2, 4, 5):
        assert not any(within(draw, mixed, step) for draw in mixed.draws)
    assert loud.draws
    assert any(within(draw, mixed, 3) for draw in mixed.draws)
    if not remembers(quiet, 1):  # what follows a step may be noised up for the next one, which is quiet too
        assert of_step(mixed, 1) == of_step(quiet, 1)
    assert plan_of(spec, process, **{dial: [0.0] * 6}).digest == quiet.digest


def test_most_samplers_with_a_dial_have_no_memory() -> None:
    """The comparison above is of something."""
    plain = [spec.name for spec, dial in LAWFUL if not remembers(plan_of(spec, ksched.VE(), **{dial: 0.0}), 1)]
    assert {"euler", "heun", "euler_ancestral", "dpm_2_ancestral", "ddim", "tcd", "seeds_3", "dpmpp_sde"} <= {*plain}
    assert not {"dpmpp_2m_sde", "er_sde", "dpm_singlestep", "sa_solver"} & {*plain}


@pytest.mark.parametrize(
    "spec", [spec for spec, option in DIALS if option.name == "s_noise"], ids=lambda spec: spec.name
)
def test_no_noise_is_drawn_where_its_factor_is_0(spec: SamplerSpec) -> None:
    noisy = {"s_churn": 3.0, "eta": 0.8, "mu": 0.5}
    if spec.name == "restart":
        noisy |= {"restart_steps": 2, "s_min": 0.5, "s_max": 3.0}
    how = {name: value for name, value in noisy.items() if name in spec.options}
    if "mu" in how:  # another way to say eta
        del how["eta"]
    process = ksched.VP()
    loud, quiet = (plan_of(spec, process, s_noise=value, **how) for value in (1.0, [0.0] * 6))
    assert loud.draws
    assert not quiet.draws
    if spec.name != "restart":  # whose noise is not of a step
        alternating = plan_of(spec, process, s_noise=[1, 0, 1, 0, 1, 0], **how)
        assert {k for k in range(6) for draw in alternating.draws if within(draw, alternating, k)} <= {0, 2, 4}
        assert alternating.draws


def test_of_noise_behind_a_step_the_factor_is_that_of_the_step() -> None:
    how: dict[str, Any] = {"restart_steps": 2, "s_min": 0.5, "s_max": 3.0}
    plans = [
        build_sampler("restart", sigmas=[8, 3, 0.5, 0.1, 0], s_noise=[*np.eye(4)[k]], **how).plan for k in range(4)
    ]
    assert [len(plan.draws) for plan in plans] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "order", "dial"),
    [
        *((name, 2, "eta") for name in ("dpmpp_2m_sde", "res_multistep_ancestral", "er_sde", "dpmpp_3m_sde")),
        *((name, 2, "eta") for name in ("seeds_2", "seeds_3", "dpmpp_2s_ancestral", "dpm_multistep")),
        *((name, 2, "eta") for name in ("res_multistep_ancestral_cfg_pp", "dpm_2_ancestral")),
        ("sa_solver", 2, "tau"),
    ],
)
def test_the_law_has_its_order_where_noise_goes_on_and_off(name: str, order: int, dial: str) -> None:
    def built(sigmas: np.ndarray[Any, Any]) -> Plan:
        steps = len(sigmas) - 1
        on = [0.8 if 4 * k // steps in (1, 2) else 0.0 for k in range(steps)]  # of the half of the run in the middle
        options: dict[str, Any] = {dial: on}
        return build_sampler(name, sigmas=sigmas, process=ksched.VE(), **options).plan

    assert measured_order(built, ksched.VE(), weak=True) > order - 0.15


@each("process", COORDINATES.values())
@given(data=st.data())
def test_a_step_measures_the_one_before_as_itself(process: Process, data: st.DataObject) -> None:
    """The ancestral method measures down to the noise that is kept, and is the SDE's at eta 0 and 1, mixed as well."""
    sigmas = data.draw(sigma_curves(process))
    etas = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(sigmas) - 1, max_size=len(sigmas) - 1))
    names = ("res_multistep_ancestral", "dpmpp_2m_sde_heun")
    got, want = (table(build_sampler(name, sigmas=sigmas, process=process, eta=etas).plan) for name in names)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_singlestep"])
def test_stages_of_one_step_have_the_same_noise(name: str) -> None:
    """Where the dial changes a new step begins: a change after every step leaves steps of one call."""
    sigmas, process = [8.0, 4.0, 2.0, 1.0, 0.5, 0.2], ksched.VE()
    etas = [0.2, 0.4, 0.6, 0.8, 1.0]
    if name == "dpm_fast":  # which keeps at least the noise of the last level
        lengths = [
            len(build_sampler(name, sigmas=sigmas, process=process, eta=[0.2, 0.2, 0.2, 0.8, last]).plan.rows[-1].terms)
            for last in (0.9, 0.8)
        ]
        assert lengths == [2, 4]  # a step of order 1, and the second stage of one of order 2
        return
    ours = build_sampler(name, sigmas=sigmas, process=process, eta=etas).plan
    assert ours.digest == build_sampler("dpm_multistep", sigmas=sigmas, process=process, order=1, eta=etas).plan.digest


# ------------------------------------------------------------------------------------------------------------ windows
def test_a_window_is_its_number_at_its_steps_and_0_elsewhere() -> None:
    for steps, listed in (
        ([2, 3], [0, 0, 0.7, 0.7, 0, 0]),
        ([-1], [0, 0, 0, 0, 0, 0.7]),
        (range(-6, -4), [0.7, 0.7, 0, 0, 0, 0]),
        (np.array([5, 0]), [0.7, 0, 0, 0, 0, 0.7]),
        ([], [0] * 6),
    ):
        sampler, same = (
            build_sampler("dpmpp_2m_sde", "karras", 6, eta=eta) for eta in (ksched.window(0.7, steps=steps), listed)
        )
        assert sampler == same
        assert dict(sampler.options)["eta"] == tuple(map(float, listed))


def test_a_window_fits_any_number_of_steps_and_of_calls() -> None:
    window = ksched.window(0.5, steps=[1, -2])
    for steps in (4, 9):
        assert len(build_sampler("seeds_2", "karras", steps, eta=window).plan.draws) == 4
    assert build_sampler("seeds_2", "karras", calls=9, eta=window).steps == 5


def test_a_window_is_a_dictionary_that_json_holds() -> None:
    window = ksched.window(0.7, steps=np.array([2, 3]))
    assert repr(window) == "window(0.7, steps=[2, 3])"
    saved = json.loads(json.dumps(window))
    assert saved == {"value": 0.7, "steps": [2, 3]}
    ours = build_sampler("ddim", "karras", 5, eta=window)
    assert ours == build_sampler("ddim", "karras", 5, eta=saved) == pickle.loads(pickle.dumps(ours))


# --------------------------------------------------------------------------------------------------------- refused
def with_eta(eta: Any, sampler: str = "euler_ancestral", **how: Any) -> Callable[[], object]:
    return lambda: build_sampler(sampler, "karras", 4, eta=eta, **how)


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        with_eta([0.5, 0.5]),
        ValueError,
        "sampler euler_ancestral: eta must be one number, or one for each of the 4 steps; got 2 numbers",
    ),
    (with_eta([]), ValueError, "eta must be one number, or one for each of the 4 steps; got 0 numbers"),
    (with_eta(np.ones(5)), ValueError, "one for each of the 4 steps; got 5 numbers"),
    (with_eta([0.1, -1, 0, 0]), ValueError, "eta[1] must be a finite number of at least 0; got -1"),
    (with_eta([0.1, True, 0, 0]), TypeError, "eta[1] must be a number; got True"),
    (with_eta([0.1, None, 0, 0]), TypeError, "eta[1] must be a number; got None"),
    (with_eta([[0.1]] * 4), TypeError, "eta[0] must be one number, not one per step; got [0.1]"),
    (with_eta(np.ones((2, 2))), TypeError, "eta must be a number; got array"),
    (with_eta({"value": 0.5}), TypeError, "eta must be a number; got {'value': 0.5}"),
    (with_eta([0.1, 0.2, 2, 1], "tcd"), ValueError, "sampler tcd: eta[2] must be at least 0 and at most 1; got 2"),
    (
        with_eta(ksched.window(0.5, steps=[1, 4])),
        ValueError,
        "eta must be a window over steps of the run, 0 to 3 or -4 to -1; got 4",
    ),
    (with_eta(ksched.window(0.5, steps=[-5])), ValueError, "0 to 3 or -4 to -1; got -5"),
    (with_eta(ksched.window(0.5, steps=[3, -1])), ValueError, "may be given only once; got 3 and -1"),
    (with_eta(ksched.window(-0.5, steps=[3])), ValueError, "eta must be a finite number of at least 0; got -0.5"),
    (lambda: ksched.window(0.5, steps=[1, 2, 1]), ValueError, "may be given only once; got 1 and 1"),
    (lambda: ksched.window(0.5, steps=[1.0]), TypeError, "must be whole numbers; got 1.0"),  # type: ignore[list-item]
    (lambda: ksched.window(0.5, steps=[True]), TypeError, "must be whole numbers; got True"),
    (lambda: ksched.window(0.5, steps=2), TypeError, "must be a list of whole numbers; got 2"),  # type: ignore[arg-type]
    (lambda: ksched.window("a", steps=[2]), TypeError, "value of a window must be a number; got 'a'"),  # type: ignore[arg-type]
    (
        with_eta([0.1] * 4, "dpm_adaptive"),
        ValueError,
        "sampler dpm_adaptive: eta must be one number, because an adaptive sampler's steps are not known in advance; "
        "got [0.1, 0.1, 0.1, 0.1]",
    ),
    (
        with_eta([0.1, 0, 0, 0], "dpm_fast", levels="range"),
        ValueError,
        "dpm_fast: eta must be one number, because the steps with levels='range' are not the schedule's steps",
    ),
    (
        lambda: build_sampler("restart", "karras", 24, s_noise=[1] * 24, levels="karras"),
        ValueError,
        "restart: s_noise must be one number, because the steps with levels='karras' are not the schedule's steps",
    ),
    (
        lambda: build_sampler("lcm", "karras", 2, s_noise=[1, 0], s_noise_end=0.5),
        ValueError,
        "lcm: s_noise must be one number, because s_noise_end sets how it changes",
    ),
    (
        lambda: build_sampler("euler", "karras", 2, s_tmin=[1, 0]),
        TypeError,
        "sampler euler: s_tmin must be one number, not one per step; got [1, 0]",
    ),
    (
        lambda: build_sampler("euler", sigmas=[3, 2, 0], s_churn=[1, 0, 0]),
        ValueError,
        "sampler euler: s_churn must be one number, or one for each of the 2 steps; got 3 numbers",
    ),
]


@pytest.mark.parametrize(("call", "kind", "said"), REFUSED, ids=[said[:60] for _, _, said in REFUSED])
def test_what_is_no_number_for_every_step_is_refused(
    call: Callable[[], object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        call()


# ---------------------------------------------------------------------------------------------- samplers of one's own
def test_a_sampler_of_ones_own_has_dials_and_plain_numbers() -> None:
    def own(run: Any, grid: Any, x: Any, *, eta: Dial = 1.0, weight: float = 1.0) -> Any:
        for s, t, share in grid.steps_with(eta):
            denoised = run.denoise(x, s)
            x = t.alpha * denoised + t.sigma / s.sigma * (1 - share) * (x - s.alpha * denoised)
            x = x + (1 - (1 - share) ** 2) ** 0.5 * t.sigma * run.noise(s, t)
        return x

    spec = SamplerSpec("own", own, 1, "")
    assert spec.options["eta"].per_step
    assert not spec.options["weight"].per_step
    grid = build_sampler("euler", "karras", 3).grid
    check_plan(spec.plan(grid, {"eta": [0.2, 0.0, 1.0]}))
    assert len(spec.plan(grid, {"eta": (0.2, 0.0, 1.0)}).draws) == 1  # nothing is drawn at 0, and into sigma 0
    with pytest.raises(ValueError, match=r"a dial must be one number, or one for each of the 3 steps; got 2"):
        spec.plan(grid, {"eta": (0.2, 0.0)})


def test_a_sampler_with_lists_is_a_value() -> None:
    ours = build_sampler("er_sde", "karras", 3, eta=[0.5, 0.0, 1.0])
    assert hash(ours) == hash(build_sampler("er_sde", "karras", 3, eta=(0.5, 0, 1)))
    assert "eta=(0.5, 0.0, 1.0)" in repr(ours)
    assert json.loads(json.dumps(dict(ours.options))) == {"eta": [0.5, 0.0, 1.0]}


# ------------------------------------------------------------------------------------------------------- in programs
@pytest.mark.parametrize("text", ["0,0.7,0.7,0", " 0, .7,0.7 ,0"])
def test_the_command_reads_numbers_between_commas(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = command_of(capsys)("plan", "euler_ancestral", "--steps", 4, "-o", f"eta={text}", "--json")
    assert Plan.from_json(said.out) == build_sampler("euler_ancestral", steps=4, eta=[0, 0.7, 0.7, 0]).plan


def test_the_command_says_what_may_be_one_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    command = command_of(capsys)
    assert "eta=1.0: number from 0, or one per step" in command("list", "euler_ancestral").out
    refused = command("plan", "euler_ancestral", "--steps", 4, "-o", "eta=0,1")
    assert refused.code != 0
    assert "or one for each of the 4 steps; got 2 numbers" in " ".join(refused.err.split())


def test_k_diffusions_functions_take_lists() -> None:
    from ksched.integrations import k_diffusion

    x, sigmas = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 2.0, 1.0, 0.0])
    got, want = (
        k_diffusion.sample_dpmpp_2m_sde(lambda x, sigma: x / 2, x, sigmas, eta=eta, seed=3)
        for eta in ([0.5, 0.5, 0.5], 0.5)
    )
    assert torch.equal(got, want)


class TestPipelines:
    """`KSchedScheduler` with a list, and what becomes of it where a pipeline begins amid a run."""

    @staticmethod
    def made(eta: Any, sampler: str = "euler_ancestral", steps: int | None = 4) -> Any:
        integration = pytest.importorskip("ksched.integrations.diffusers")
        scheduler = integration.KSchedScheduler(
            beta_schedule="scaled_linear", sampler=sampler, schedule="karras", sampler_options={"eta": eta}
        )
        if steps:
            scheduler.set_timesteps(steps)
        return scheduler

    @staticmethod
    def result(scheduler: Any, begin: int = 0, seed: int = 5) -> torch.Tensor:
        x = 10 * torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(seed)
        scheduler.set_begin_index(begin)
        for t in scheduler.timesteps[begin:]:
            x = scheduler.step(x / 12, t, x, generator=generator).prev_sample
        return x

    @pytest.mark.parametrize("eta", [[0, 0.7, 0.7, 0], (0, 0.7, 0.7, 0), ksched.window(0.7, steps=[1, 2])])
    def test_a_list_and_a_window_do_the_same(self, eta: Any) -> None:
        want = self.result(self.made([0.0, 0.7, 0.7, 0.0]))
        assert torch.equal(self.result(self.made(eta)), want)
        assert not torch.equal(self.result(self.made([0.7, 0.7, 0.7, 0.0])), want)

    @pytest.mark.parametrize("eta", [[0, 0.7, 0.7, 0], ksched.window(0.7, steps=[1, 2])])
    def test_configurations_are_saved(self, eta: Any, tmp_path: Any) -> None:
        ours = self.made(eta)
        ours.save_pretrained(tmp_path)
        loaded, pickled = type(ours).from_pretrained(tmp_path), pickle.loads(pickle.dumps(ours))
        loaded.set_timesteps(4)
        want = self.result(ours)
        for other in (loaded, pickled):
            assert torch.equal(self.result(other), want)

    def test_a_list_for_another_number_of_steps_is_refused(self) -> None:
        with pytest.raises(ValueError, match="eta must be one number, or one for each of the 5 steps; got 4 numbers"):
            self.made([0, 0.7, 0.7, 0], steps=None).set_timesteps(5)

    @pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "dpm_singlestep", "seeds_2", "dpm_fast"])
    @pytest.mark.parametrize("begin", [1, 2, 3])
    def test_a_run_that_begins_later_has_the_values_of_its_steps(self, sampler: str, begin: int) -> None:
        steps = {"seeds_2": 3}.get(sampler, 5)  # by model calls
        one, many = (self.made(eta, sampler, 5) for eta in (0.6, [0.6] * steps))
        assert torch.equal(self.result(one, begin), self.result(many, begin))
        quiet = [0.6] * max(begin - 1, 0) + [0.0] * (steps - max(begin - 1, 0))
        first, second = (self.result(self.made(quiet, sampler, 5), begin, seed) for seed in (5, 6))
        assert torch.equal(first, second)


def test_a_configuration_for_stable_diffusion_has_lists() -> None:
    from ksched.stable_diffusion.config import SamplingConfig

    window = ksched.window(0.7, steps=[1])
    for eta in ([0, 0.7, 0.7, 0], window):
        config = SamplingConfig(prompt="a fox", sampler="ddim", steps=4, sampler_options={"eta": eta})
        assert SamplingConfig.from_toml(config.to_toml()) == config

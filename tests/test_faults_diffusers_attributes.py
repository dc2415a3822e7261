"""Attributes that programs read, call and assign on a diffusers scheduler, by row of the list of faults."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from representatives import each

diffusers = pytest.importorskip("diffusers")

from ksched import Flow as OurFlow  # noqa: E402
from ksched import build_sampler  # noqa: E402
from ksched.dialects.diffusers.attributes import ATTRIBUTES, REFUSED_ATTRIBUTES  # noqa: E402
from ksched.dialects.diffusers.classes import CLASSES  # noqa: E402
from ksched.execution.run import Run  # noqa: E402
from ksched.integrations.diffusers.scheduler import KSchedScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
Flow = diffusers.FlowMatchEulerDiscreteScheduler
X, EPS = torch.linspace(-1, 1, 32).view(2, 4, 2, 2), torch.full((2, 4, 2, 2), 0.5)


def stock_of(name: str, **options: Any) -> Any:
    """A diffusers scheduler; skips if a package that it needs is not installed."""
    if name.startswith("KDPM2"):  # goes through all timesteps of the training when it is made, at 1 ms each
        options = {"num_train_timesteps": 200, **options}
    try:
        return getattr(diffusers, name)(**options)
    except ImportError as error:
        pytest.skip(str(error).strip())


def model(x: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.tanh(0.5 * x + torch.as_tensor(t, dtype=torch.float32) / 1000)


def loop(
    scheduler: Any, begin: int = 0, calls: int | None = None, x: torch.Tensor = X, noise: int | None = None
) -> torch.Tensor:
    given = {} if noise is None else {"generator": torch.Generator().manual_seed(noise)}
    for t in scheduler.timesteps[begin : None if calls is None else begin + calls]:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(seen, t), t, x, **given, return_dict=False)[0]
    return x


# ---------------------------------------------------------------------------------------------------------------- row 8


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: KSchedScheduler(1000, "euler"), r"beta_start must be a number; got 'euler'.*give sampler='euler' by"),
        (lambda: KSchedScheduler(1000, 0.1, "karras"), "beta_end .* give schedule='karras' by keyword"),
        (lambda: KSchedScheduler(1000, 0.1, 0.2, "euler"), "beta_schedule must be one of linear.*sampler='euler'"),
        (lambda: KSchedScheduler(beta_schedule="karras"), "give schedule='karras' by keyword"),
        (lambda: KSchedScheduler(1000, 0.1, 0.2, "linear", "dpmpp_2m"), "trained_betas must be .*sampler='dpmpp_2m'"),
        (lambda: KSchedScheduler("dpmpp_2m", "karras"), "give sampler='dpmpp_2m', schedule='karras' by keyword"),
        (lambda: KSchedScheduler("DPM++ 2M Karras"), "If this is a label, give sampler='dpmpp_2m', schedule='karras'"),
        (lambda: KSchedScheduler(Flow().config), "Use KSchedScheduler.from_config"),
        (lambda: KSchedScheduler.from_config(Flow().config, "euler"), "return_unused_kwargs .* sampler='euler' by"),
        (
            lambda: KSchedScheduler.from_config("euler"),
            r"must be the configuration of the scheduler to replace; got 'euler'.*sampler='euler'",
        ),
        (lambda: KSchedScheduler.from_config("beta"), r"scheduler to replace; got 'beta'.*schedule='beta'"),
        (lambda: KSchedScheduler.from_config("dpmpp2m karas"), "scheduler to replace; got"),
        (lambda: KSchedScheduler.from_config(Flow(), sampler="euler"), "Pass its .config"),
        (lambda: KSchedScheduler.from_diffusers("euler"), "takes a diffusers scheduler or its configuration"),
    ],
)
def test_row_8_names_by_place(made: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        made()


# --------------------------------------------------------------------------------------------------------------- row 10

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("EulerDiscrete", {**SD, "timestep_spacing": "trailing"}),
    ("EulerDiscrete", {**SD, "timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": True}),
    ("EulerDiscrete", {**SD, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ("EulerDiscrete", {**SD, "prediction_type": "v_prediction", "timestep_type": "continuous"}),
    ("EulerDiscrete", {**SD, "interpolation_type": "log_linear", "final_sigmas_type": "sigma_min"}),
    ("EulerAncestralDiscrete", {**SD, "rescale_betas_zero_snr": True}),
    ("HeunDiscrete", {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}),
    ("KDPM2Discrete", {"num_train_timesteps": 200}),
    ("DDIM", {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    ("DDIM", {**SD, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "v_prediction"}),
    ("DDPM", {"beta_schedule": "sigmoid", "variance_type": "learned_range"}),
    ("DPMSolverMultistep", {**SD, "use_karras_sigmas": True}),
    ("DPMSolverMultistep", {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}),
    ("DPMSolverMultistep", {**SD, "rescale_betas_zero_snr": True, "algorithm_type": "sde-dpmsolver++"}),
    ("UniPCMultistep", {"use_flow_sigmas": True, "flow_shift": 5.0, "prediction_type": "flow_prediction"}),
    ("UniPCMultistep", {**SD, "use_beta_sigmas": True}),
    ("EDMEuler", {"sigma_data": 1.0, "sigma_schedule": "exponential"}),
    ("PNDM", {**SD, "skip_prk_steps": True, "steps_offset": 1}),
    ("LCM", {"original_inference_steps": 25}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True, "shift_terminal": 0.02}),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True, "num_train_timesteps": 1}),
    ("FlowMatchEulerDiscrete", {"stochastic_sampling": True, "shift": 2.0, "use_karras_sigmas": True}),
    ("FlowMatchHeunDiscrete", {"shift": 3.0}),
    ("LTXEulerAncestralRF", {"eta": 0.5}),
]
EVERY: list[tuple[str, dict[str, Any]]] = [
    (name.removesuffix("Scheduler"), {}) for name in CLASSES if "Inverse" not in name
] + OPTIONS
TABLES = ("timesteps", "sigmas", "alphas_cumprod", "betas", "init_noise_sigma", "num_inference_steps")


def same(ours: Any, theirs: Any) -> None:
    if theirs is None or isinstance(theirs, str):
        assert ours == theirs
    else:
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=1e-5, atol=1e-6)


def equal_tables(ours: Any, stock: Any, names: tuple[str, ...] = TABLES) -> None:
    for name in names:
        if hasattr(stock, name):
            same(getattr(ours, name), getattr(stock, name))


@pytest.mark.parametrize(("name", "options"), EVERY, ids=str)
def test_row_10_before_set_timesteps_as_the_class(name: str, options: dict[str, Any]) -> None:
    stock = stock_of(f"{name}Scheduler", **options)
    ours = KSchedScheduler.from_diffusers(stock)
    equal_tables(ours, stock, (*TABLES, "begin_index", "step_index"))
    if hasattr(type(stock), "__len__"):
        assert len(ours) == len(stock)
    for place in (3, 700):
        for method in ("add_noise", "scale_noise", "get_velocity", "scale_model_input"):
            if not hasattr(stock, method):
                continue
            known = stock.timesteps is not None and len(stock.timesteps) > place
            t = stock.timesteps[[place, place - 2]] if known else torch.tensor([1, 0])
            given = {
                "add_noise": (X, EPS, t), "scale_noise": (X, t, EPS), "get_velocity": (X, EPS, t),
                "scale_model_input": (X, t[0]),
            }[method]  # fmt: skip
            try:
                want = getattr(stock, method)(*given)
            except (
                IndexError,
                TypeError,
                AttributeError,
                RuntimeError,
            ):  # the class does not do that before it is told a number
                continue
            same(getattr(ours, method)(*given), want)
    if getattr(stock, "step_index", None) is not None:  # the first scale_model_input says where the run is
        assert ours.step_index == stock.step_index


@pytest.mark.parametrize(("name", "options"), EVERY, ids=str)
@each("how", [{"sampler": "euler"}, {"schedule": "karras"}])
def test_row_10_tables_with_a_sampler_of_ours(name: str, options: dict[str, Any], how: dict[str, Any]) -> None:
    if name == "IPNDM":
        pytest.skip("its networks are told an angle")
    stock = stock_of(f"{name}Scheduler", **options)
    ours = KSchedScheduler.from_diffusers(stock, **how)
    equal_tables(ours, stock)


def test_row_10_a_timestep_and_its_level() -> None:
    ours = KSchedScheduler.from_diffusers(Flow(shift=3.0))
    assert (float(ours.timesteps[500]), float(ours.sigmas[500])) == pytest.approx((750, 0.75), abs=1e-3)


# --------------------------------------------------------------------------------------------------------------- row 18


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscrete", {"shift": 3.0}),
        ("FlowMatchEulerDiscrete", {"invert_sigmas": True}),
        ("FlowMatchHeunDiscrete", {}),
        ("EulerDiscrete", SD),
        ("EulerDiscrete", {**SD, "use_karras_sigmas": True}),
        ("HeunDiscrete", SD),
        ("EDMEuler", {}),
        ("DPMSolverMultistep", {**SD, "final_sigmas_type": "sigma_min", "use_karras_sigmas": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("write", ["last", "middle", "whole"])
def test_row_18_sigmas_that_are_written_to(name: str, options: dict[str, Any], write: str) -> None:
    stock = stock_of(f"{name}Scheduler", **options)
    ours = KSchedScheduler.from_diffusers(stock)
    ends = []
    for scheduler in (stock, ours):
        scheduler.set_timesteps(6)
        if write == "last":
            scheduler.sigmas[-1] = scheduler.sigmas[-2]
        elif write == "middle":
            old = scheduler.sigmas[3].clone()
            scheduler.sigmas[scheduler.sigmas == old] = 0.7 * old + 0.3 * scheduler.sigmas[2]
        else:
            scheduler.sigmas = 0.9 * scheduler.sigmas if "invert_sigmas" not in options else scheduler.sigmas**1.1
        ends.append((scheduler.sigmas, loop(scheduler)))
    if write == "middle" and "Heun" in name:
        assert torch.isfinite(ends[1][1]).all()
    torch.testing.assert_close(ends[1][0], ends[0][0].float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc", "lms"])
@pytest.mark.parametrize("inference", [False, True])
def test_row_18_a_written_end_with_a_sampler_of_ours(sampler: str, inference: bool) -> None:
    """The last step has no length then, as Cosmos 2 asks for it."""
    ours = KSchedScheduler.from_config(Flow().config, sampler=sampler, schedule="simple")
    with torch.inference_mode(inference):
        ours.set_timesteps(6)
        ours.sigmas[-1] = ours.sigmas[-2]
        copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), copy.copy(ours), ours]
        ends = [loop(scheduler) for scheduler in copies]
    assert all(torch.equal(end, ends[0]) for end in ends)
    assert [float(s.sigmas[-1]) for s in copies] == [float(copies[0].sigmas[-2])] * 4
    levels = list(dict.fromkeys(copies[0].sigmas.tolist()))
    run = Run(build_sampler(sampler, sigmas=levels, process=OurFlow()).plan, X)
    while not run.done:
        run.feed(run.x - run.sigma * model(run.x, 1000 * run.sigma))
    torch.testing.assert_close(ends[0], run.x, rtol=1e-4, atol=1e-4)


def test_row_18_sigmas_amid_a_run_are_refused() -> None:
    ours = KSchedScheduler.from_diffusers(Flow())
    ours.set_timesteps(6)
    x = loop(ours, 0, 2)
    ours.sigmas[-1] = ours.sigmas[-2]
    with pytest.raises(ValueError, match="sigmas must be written after set_timesteps and before the first step"):
        ours.step(x, ours.timesteps[2], x)
    ours.set_timesteps(6)
    assert float(ours.sigmas[-1]) == 0  # a new run has the levels of the class
    with pytest.raises(ValueError, match="sigmas must be a list of 7 numbers here"):
        ours.sigmas = [1.0, 0.0]
    stages = KSchedScheduler.from_diffusers(diffusers.KDPM2DiscreteScheduler())
    stages.set_timesteps(4)
    with pytest.raises(ValueError, match="sigmas cannot be written here"):
        stages.sigmas = 0.9 * stages.sigmas


def test_row_18_sigmas_of_another_device_or_dtype() -> None:
    ours = KSchedScheduler.from_diffusers(Flow(shift=3.0))
    ours.set_timesteps(6)
    want = loop(ours)
    ours.set_timesteps(6)
    before = KSchedScheduler.from_diffusers(Flow(shift=3.0))
    before.sigmas, before.timesteps = before.sigmas.double(), before.timesteps.half()
    assert (before.sigmas.dtype, before.timesteps.dtype) == (torch.float64, torch.float16)
    ours.sigmas, ours.timesteps = ours.sigmas.to(torch.float64), ours.timesteps.to(torch.float64)
    assert ours.sigmas.dtype == ours.timesteps.dtype == torch.float64
    torch.testing.assert_close(loop(ours), want, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- row 22


@pytest.mark.parametrize("sampler", [None, "euler", "dpmpp_2m", "rk4", "dpmpp_2m_sde", "lms", "uni_pc"])
def test_row_22_a_state_for_each_view(sampler: str | None) -> None:
    """MultiDiffusion's loop (Bar-Tal et al. 2023, arXiv:2302.08113) over two views, as Panorama keeps their states."""
    config = diffusers.DPMSolverMultistepScheduler(**SD).config

    def made() -> Any:
        return KSchedScheduler.from_config(config, noise_seed=3, **({} if sampler is None else {"sampler": sampler}))

    one = made()
    one.set_timesteps(6)
    states = [copy.deepcopy(one.__dict__) for _ in range(2)]
    views = [X, X.flip(0)]
    for i in range(len(one.timesteps)):
        for k in range(2):
            one.__dict__.update(states[k])
            t = one.timesteps[i]
            seen = one.scale_model_input(views[k], t)
            views[k] = one.step(model(seen, t), t, views[k], return_dict=False)[0]
            states[k] = copy.deepcopy(one.__dict__)
    for k, start in enumerate((X, X.flip(0))):
        alone = made()
        alone.set_timesteps(6)
        torch.testing.assert_close(views[k], loop(alone, x=start), rtol=0, atol=0)


def test_row_22_views_of_one_state_as_the_class() -> None:
    """The views' states are averaged where they meet, so each step is at an edited state."""
    ends = []
    for scheduler in (diffusers.DDIMScheduler(**SD), KSchedScheduler.from_diffusers(diffusers.DDIMScheduler(**SD))):
        scheduler.set_timesteps(5)
        latents = torch.linspace(-2, 2, 96).view(1, 4, 2, 12)
        views = [(0, 8), (4, 12)]
        states = [copy.deepcopy(scheduler.__dict__)] * 2
        for t in scheduler.timesteps:
            total, count = torch.zeros_like(latents), torch.zeros_like(latents)
            for k, (a, b) in enumerate(views):
                scheduler.__dict__.update(states[k])
                part = latents[..., a:b]
                total[..., a:b] += scheduler.step(model(part, t), t, part, return_dict=False)[0]
                count[..., a:b] += 1
                states[k] = copy.deepcopy(scheduler.__dict__)
            latents = total / count
        ends.append(latents)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------- row 23

UNCOMPARED = {"set_shift", "_init_step_index", "noise_sampler"}


@pytest.mark.parametrize(("name", "options"), EVERY, ids=str)
@each("steps", [None, 6])
def test_row_23_attributes_are_there_where_the_class_has_them(
    name: str, options: dict[str, Any], steps: int | None
) -> None:
    stock = stock_of(f"{name}Scheduler", **options)
    ours = KSchedScheduler.from_diffusers(stock)
    if steps is not None:
        if options.get("num_train_timesteps") == 1:
            pytest.skip("a table of one level has runs by a list alone")
        given: dict[str, Any] = {"mu": 1.0} if options.get("use_dynamic_shifting") else {}
        given |= {"intermediate_timesteps": None} if name == "SCM" else {}
        stock.set_timesteps(steps, **given)
        ours.set_timesteps(steps, **given)
    for attribute in [*ATTRIBUTES, *REFUSED_ATTRIBUTES]:
        there = hasattr(stock, attribute) and attribute not in REFUSED_ATTRIBUTES
        assert hasattr(ours, attribute) == there, attribute
        value = getattr(stock, attribute, None)
        if there and not callable(value) and attribute not in UNCOMPARED:
            mine = getattr(ours, attribute)
            if isinstance(value, list) and value and isinstance(value[0], type(None)):
                assert mine == value
            elif value is None or isinstance(value, str):
                assert mine == value, attribute
            else:
                mine, value = (torch.as_tensor(v).double() for v in (mine, value))
                torch.testing.assert_close(mine, value, rtol=1e-4, atol=1e-5, msg=attribute, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in CLASSES if "Inverse" not in name])
def test_row_23_every_attribute_of_the_class_is_known(name: str) -> None:
    """A name that a newer diffusers adds shows up here."""
    stock = stock_of(name)
    ours = KSchedScheduler.from_diffusers(stock)
    for attribute in dir(stock):
        if not attribute.startswith("__") and not hasattr(diffusers.SchedulerMixin, attribute):
            known = attribute in ATTRIBUTES or attribute in REFUSED_ATTRIBUTES or hasattr(ours, attribute)
            assert known, attribute


def test_row_23_settings_of_other_classes_are_no_attributes() -> None:
    ours = KSchedScheduler.from_diffusers(diffusers.DDIMScheduler())
    stock = diffusers.DDIMScheduler()
    for name in ("shift", "use_dynamic_shifting", "flow_shift", "clip_sample", "solver_order", "steps_offset"):
        assert hasattr(ours, name) == hasattr(stock, name), name
        assert name in ours.config
    ours.register_to_config(of_a_program=3)
    assert ours.of_a_program == 3


def both(name: str, **options: Any) -> tuple[Any, Any]:
    stock = stock_of(f"{name}Scheduler", **options)
    return stock, KSchedScheduler.from_diffusers(stock)


def test_row_23_functions_of_the_class() -> None:
    for scheduler, wanted in zip(*[iter(both("FlowMatchEulerDiscrete", use_dynamic_shifting=True))] * 2, strict=True):
        assert torch.equal(
            scheduler.time_shift(1.0, 1.0, torch.tensor(0.5)), wanted.time_shift(1, 1, torch.tensor(0.5))
        )
    stock, ours = both("FlowMatchEulerDiscrete", shift=2.0, shift_terminal=0.1)
    levels = torch.tensor([1.0, 0.6, 0.2])
    assert torch.equal(stock.stretch_shift_to_terminal(levels), ours.stretch_shift_to_terminal(levels))
    stock, ours = both("DDIM", **SD)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(10)
    assert float(ours._get_variance(501, 401)) == pytest.approx(float(stock._get_variance(501, 401)))
    stock, ours = both("DDPM", **SD)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(10)
    for t in stock.timesteps:
        assert float(ours._get_variance(t)) == pytest.approx(float(stock._get_variance(t)))
    stock, ours = both("DPMSolverMultistep", **SD, use_karras_sigmas=True)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(8)
        loop(scheduler, 0, 3)
    for place in (3, 5):
        t = stock.timesteps[place]
        assert ours.index_for_timestep(ours.timesteps[place]) == stock.index_for_timestep(t) == place
        log_sigmas = np.log(np.array(((1 - stock.alphas_cumprod) / stock.alphas_cumprod) ** 0.5))
        sigma = np.array(stock.sigmas[place])
        assert float(ours._sigma_to_t(sigma, log_sigmas)) == pytest.approx(float(stock._sigma_to_t(sigma, log_sigmas)))
    assert (ours.step_index, ours.lower_order_nums) == (stock.step_index, stock.lower_order_nums)
    same(ours.convert_model_output(0.3 * X, sample=X), stock.convert_model_output(0.3 * X, sample=X))
    same(ours.dpm_solver_first_order_update(0.3 * X, sample=X), stock.dpm_solver_first_order_update(0.3 * X, sample=X))


@pytest.mark.parametrize("config", [{"shift": 3.0}, {"shift": 2.0, "shift_terminal": 0.1}, {}], ids=str)
def test_row_23_set_shift(config: dict[str, Any]) -> None:
    stock, ours = both("FlowMatchEulerDiscrete", **config)
    ends = []
    for scheduler in (stock, ours):
        scheduler.set_shift(5.0)
        before = scheduler.sigmas.clone()
        scheduler.set_timesteps(6)
        ends.append((scheduler.shift, before, scheduler.sigmas, scheduler.timesteps, loop(scheduler)))
    for mine, theirs in zip(ends[1], ends[0], strict=True):
        torch.testing.assert_close(torch.as_tensor(mine), torch.as_tensor(theirs), rtol=1e-5, atol=1e-5)
    own = KSchedScheduler.from_config(Flow(**config).config, sampler="dpmpp_2m", schedule="simple")
    own.set_shift(5.0)
    own.set_timesteps(4)
    other = KSchedScheduler.from_config(Flow(**{**config, "shift": 5.0}).config, sampler="dpmpp_2m", schedule="simple")
    other.set_timesteps(4)
    assert torch.equal(own.sigmas, other.sigmas)
    assert copy.deepcopy(own).shift == 5.0
    assert own.config.shift == Flow(**config).config.shift  # as in the class, what is saved is as it was


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "EulerDiscrete", "DPMSolverMultistep"])
def test_row_23_another_table(name: str) -> None:
    """Programs assign tables: at once in classes that go by timesteps, and from the next run on in the others."""
    stock, ours = both(name, **SD)
    other = torch.from_numpy(np.cumprod(1 - np.linspace(0.0002, 0.015, 1000))).float()
    ends = []
    for scheduler in (stock, ours):
        scheduler.set_timesteps(6)
        scheduler.alphas_cumprod = other
        if not name.startswith("DD"):
            scheduler.set_timesteps(6)
        ends.append(loop(scheduler, noise=0))
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.set_timesteps(6)
        ends.append(loop(scheduler, noise=0))
        same(scheduler.alphas_cumprod.float(), other)
    assert ours.alphas_cumprod.dtype == torch.float64
    torch.testing.assert_close(ends[2:], ends[:2], rtol=2e-4, atol=2e-4, check_dtype=False)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr=True"):
        ours.alphas_cumprod = torch.linspace(1, 0, 1000)
    with pytest.raises(ValueError, match="must have num_train_timesteps numbers"):
        ours.alphas_cumprod = other[:5]


def test_row_23_what_is_assigned() -> None:
    stock, ours = both("DDIM", **SD)
    for scheduler in (stock, ours):
        scheduler.init_noise_sigma = 2.0
        scheduler.betas = scheduler.betas.double()
        scheduler.set_timesteps(5)
        assert scheduler.init_noise_sigma == 2.0
        assert scheduler.betas.dtype == torch.float64
        scheduler.something_else = 7
    assert ours.something_else == 7
    euler = KSchedScheduler.from_diffusers(diffusers.EulerDiscreteScheduler())
    for name in ("init_noise_sigma", "step_index"):
        with pytest.raises(AttributeError):
            setattr(euler, name, 1.0)
    with pytest.raises(ValueError, match=r"set_timesteps\(timesteps=...\)"):
        ours.timesteps = ours.timesteps[1:]
    with pytest.raises(
        AttributeError, match="final_alpha_cumprod cannot be assigned, because it follows from the conf"
    ):
        ours.final_alpha_cumprod = torch.tensor(0.5)
    ours.final_alpha_cumprod = ours.final_alpha_cumprod
    with pytest.raises(AttributeError, match="the data that a step leaves for the next is stored in the run"):
        _ = KSchedScheduler.from_diffusers(diffusers.PNDMScheduler(skip_prk_steps=True)).ets
    with pytest.warns(UserWarning, match="ets has no effect here"):
        KSchedScheduler.from_diffusers(diffusers.IPNDMScheduler()).ets = [X]


def test_row_23_an_entry_of_the_configuration_that_is_assigned() -> None:
    """LEDITS++ and Stable Cascade assign to entries, which diffusers' configurations let them."""
    ends = []
    for scheduler in both("DDIM", **SD):
        scheduler.set_timesteps(5)
        scheduler.config.timestep_spacing = "trailing"
        scheduler.config.clip_sample = False
        scheduler.set_timesteps(5)
        ends.append((scheduler.timesteps, loop(scheduler, x=3 * X)))
    assert torch.equal(ends[0][0], ends[1][0])
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["UniPCMultistep", "DPMSolverMultistep"])
@pytest.mark.parametrize("options", [{}, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}], ids=str)
def test_row_23_a_state_that_changes_its_size(name: str, options: dict[str, Any]) -> None:
    """ChronoEdit drops the frames between the first and the last amid a run, of what the scheduler holds too."""
    ends = []
    for scheduler in both(name, **options):
        scheduler.set_timesteps(8)
        x = torch.linspace(-2, 2, 2 * 5 * 4).view(1, 2, 5, 2, 2)
        x = loop(scheduler, 0, 4, x)
        x = x[:, :, [0, -1]]
        for j, held in enumerate(scheduler.model_outputs):
            if held is not None and x.shape[-3] != held.shape[-3]:
                scheduler.model_outputs[j] = held[:, :, [0, -1]]
        if getattr(scheduler, "last_sample", None) is not None:
            scheduler.last_sample = scheduler.last_sample[:, :, [0, -1]]
        ends.append(loop(scheduler, 4, None, x))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscrete", "EulerDiscrete", "DDIM"])
def test_row_23_a_state_of_another_size_where_nothing_is_held(name: str) -> None:
    ends = []
    for scheduler in both(name):
        scheduler.set_timesteps(6)
        x = loop(scheduler, 0, 3)
        ends.append(loop(scheduler, 3, None, x.repeat(1, 1, 2, 2)))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-4)


def test_row_23_a_state_that_changes_its_size_alone() -> None:
    _, ours = both("UniPCMultistep")
    ours.set_timesteps(8)
    x = loop(ours, 0, 4)[..., :1]
    ours.last_sample = ours.last_sample[..., :1]
    with pytest.raises(ValueError, match="write to every entry of model_outputs that is not None and to last_sample"):
        ours.step(x, ours.timesteps[4], x)


@pytest.mark.parametrize("steps", [1000, 999])
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM"])
def test_row_23_every_timestep_with_an_offset(name: str, steps: int) -> None:
    """Stable Diffusion's own configuration: the first of 1000 timesteps is beyond its table."""
    how = {"skip_prk_steps": True} if name == "PNDM" else {}
    stock, ours = both(name, **SD, steps_offset=1, **how)
    ends = []
    for scheduler in (stock, ours):
        scheduler.set_timesteps(steps)
        ends.append((scheduler.timesteps, loop(scheduler, steps - 30, noise=None if name == "PNDM" else 0)))
    assert torch.equal(ends[0][0], ends[1][0])
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-4, atol=1e-4)
    if steps == 1000:
        ours.set_timesteps(steps)
        with pytest.raises(ValueError, match="timestep 1000 is beyond the training table"):
            ours.step(X, ours.timesteps[0], X)
    own = KSchedScheduler.from_diffusers(stock, sampler="dpmpp_2m")
    own.set_timesteps(steps)
    assert len(own.timesteps) == steps
    if name == "DDIM":  # its table is that of the others
        assert torch.isfinite(loop(own)).all()


# --------------------------------------------------------------------------------------------------------------- row 41


def test_row_41_repr_says_what_was_chosen() -> None:
    config = diffusers.EulerDiscreteScheduler(**SD).config
    ours = KSchedScheduler.from_config(config, sampler="dpmpp_2m", schedule="karras", noise_seed=3)
    assert repr(ours) == (
        "KSchedScheduler(stock_class='EulerDiscreteScheduler', sampler='dpmpp_2m', schedule='karras', "
        "beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', noise_seed=3)"
    )
    assert repr(KSchedScheduler.from_diffusers(Flow(shift=3.0))) == (
        "KSchedScheduler(stock_class='FlowMatchEulerDiscreteScheduler', shift=3.0)"
    )
    many = KSchedScheduler(trained_betas=list(np.linspace(0.1, 0.2, 100)))
    assert len(repr(many)) < 200


def test_row_41_what_is_saved_is_as_it_was(tmp_path: Any) -> None:
    ours = KSchedScheduler.from_config(Flow(shift=3.0).config, sampler="euler")
    ours.save_pretrained(tmp_path)
    again = KSchedScheduler.from_pretrained(tmp_path)
    assert repr(again) == repr(ours)
    assert dict(again.config).keys() >= {"shift", "sampler", "schedule", "layout"}

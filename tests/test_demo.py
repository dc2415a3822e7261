"""The demo: its numbers agree with an independent computation, and its pictures are valid."""

import math
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from command import Command, command_of
from matplotlib.patches import Rectangle
from representatives import is_schedule_form, short

import ksched
from ksched.cli import demo_of_words
from ksched.cli.demo import _try_next
from ksched.pictures import demo, plots
from ksched.pictures.style import line_look
from ksched.plan.analysis import gaussian_law
from ksched.samplers.registry import AUTO, families, sampler_spec
from ksched.schedules import SCHEDULES, schedule_options

VP = ksched.VP()
command = pytest.fixture(command_of)
NAMES = tuple(SCHEDULES)


def check_picture(path: Path) -> None:
    pixels = matplotlib.image.imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.05
    assert pixels.min() < 0.1 < 0.9 < pixels.max()


@pytest.mark.parametrize(
    ("sampler", "process", "steps", "names"),
    [
        ("euler_ancestral", ksched.Flow(), 3, tuple(filter(is_schedule_form, NAMES))[:2]),
        pytest.param("heun", ksched.EDM(), 1, NAMES, marks=pytest.mark.exhaustive),
    ],
)
def test_run_writes_four_pictures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    process: ksched.Process,
    steps: int,
    names: tuple[ksched.NoiseSchedule, ...],
) -> None:
    threads = torch.get_num_threads()
    measured = {name: SCHEDULES[name] for name in (*names, ksched.NoiseSchedule.KARRAS)}
    monkeypatch.setattr(demo, "SCHEDULES", measured)
    how: dict[str, Any] = {"process": process, "calls": (3,), "maps": (4,), "images": 2}
    told: list[tuple[str, float]] = []
    report = demo.run(
        sampler, "karras", steps, out=tmp_path / "a" / "b", progress=lambda *how_far: told.append(how_far), **how
    )
    doing, shares = zip(*told, strict=True)
    assert list(dict.fromkeys(doing)) == ["sampling digits", "measuring every sampler", "drawing pictures"]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert list(shares) == sorted(shares)
    steps_of_it = [b - a for a, b in pairwise(shares[doing.index("measuring every sampler") :])]
    assert max(steps_of_it[:-2]) < 0.1  # it does not stand still and then jump
    assert torch.get_num_threads() == threads
    pictures = ["digits.png", "schedules.png", "errors.png", "error_curves.png"]
    assert [path.name for path in report.pictures] == pictures
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(p.name for p in report.pictures)
    for path in report.pictures:
        check_picture(path)
    for calls in report.maps:
        shown = report.at(calls)
        assert all(error.nfe <= calls and math.isfinite(error.value) and error.value > 0 for error in shown)
        for spec in demo.measured(process):
            # a sampler cannot run where one step takes more calls than there are
            can = [name for name in measured if ksched.build_sampler(spec.name, name, 1, process=process).nfe <= calls]
            assert [error.schedule for error in shown if error.sampler == spec.name] == can
        (auto,) = (error for error in shown if error.sampler == "auto")
        assert (auto.schedule, auto.nfe) == (None, calls)


def test_errors_are_at_equal_model_calls_with_as_many_steps_as_they_allow() -> None:
    names = [ksched.NoiseSchedule.KARRAS, ksched.NoiseSchedule.SIMPLE]
    specs = [spec for spec in demo.measured(VP) if spec.draws == 0]
    for error in demo.path_errors([(spec, 8) for spec in specs], names, VP, images=1):
        assert error.schedule is not None
        more = ksched.build_sampler(error.sampler, error.schedule, error.steps + 1)
        assert error.nfe <= 8 < more.nfe
        assert error.nfe == ksched.build_sampler(error.sampler, error.schedule, error.steps).nfe
    assert not demo.law_errors([(sampler_spec("restart"), 1)], names, VP)[2:]


def test_row_34_the_map_has_auto_on_top_and_families_in_their_order() -> None:
    specs = [AUTO, *demo.measured(VP)]
    errors = [demo.Error("auto", None, 8, 8, 8, 0.04), demo.Error("heun", NAMES[0], 8, 4, 7, 0.2)]
    rows = demo._rows(errors, specs, 8)
    headings = list(families(demo.measured(VP)))
    assert [h.removesuffix(", with noise") for h in rows if h] == [
        heading
        for noisy in (False, True)
        for heading in headings
        if any((spec.draws != 0) is noisy for spec in families(demo.measured(VP))[heading])
    ]
    first = next(iter(rows.values()))
    assert [(row.name, row.errors, row.steps, row.calls) for row in first] == [("auto", {"": 0.04}, "8", "8")]
    (heun,) = (row for group in rows.values() for row in group if row.name == "heun")
    assert (heun.errors, heun.steps, heun.calls) == ({NAMES[0].value: 0.2}, "4", "7")
    (rk4,) = (row for group in rows.values() for row in group if row.name == "rk4")
    assert (rk4.errors, rk4.note) == ({}, "needs more than 8 model calls")
    assert sorted(row.name for group in rows.values() for row in group) == sorted(spec.name for spec in specs)


def test_digits_of_words(tmp_path: Path) -> None:
    for module in ("diffusers", "transformers"):
        pytest.importorskip(module)
    import tiny_pipelines

    from ksched.cli.image_options import quiet

    tiny_pipelines.build("sd15").pipe.save_pretrained(tmp_path / "model")
    with quiet():
        pictures = demo_of_words.from_text(
            tmp_path / "model", "euler", steps=1, out=tmp_path / "a", images=2, compared=(1, 2), many=3
        )
    assert [path.name for path in pictures] == ["prompts.png", "compared.png"]
    for path in pictures:
        check_picture(path)


@pytest.mark.parametrize("with_words", [True, False])
def test_what_the_demo_says_to_try_next_works(
    with_words: bool, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_words:
        for module in ("diffusers", "transformers"):
            pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    lines = [line.strip() for line in _try_next(with_words).splitlines() if line.startswith("  ksched ")]
    assert len(lines) == 3
    for line in lines[: 1 if with_words else 3]:  # the others are the same
        code, out, err = command(*shlex.split(line)[1:])
        assert (code, bool(out)) == (0, True), err


def test_run_checks_before_it_makes_anything(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown sampler"):
        demo.run("eulr", out=tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_trajectory_goes_from_noise_to_digits() -> None:
    shown = demo.trajectory(ksched.build_sampler("dpmpp_2m", "karras", 20))
    assert shown.result.shape == (64, 64)
    assert [step.sigma for step in shown.steps] == shown.sampler.sigmas[:-1].tolist()
    assert float(shown.steps[0].x.std()) == pytest.approx(VP.sigma_max, rel=0.05)  # 4096 numbers: 1.1 % is one sigma
    model = ksched.exact.digits()
    assert len({model.labels[k] for k in model.responsibilities(shown.result, 0.0).argmax(1)}) >= 8
    # as likely as digits that were drawn from the mixture itself
    typical = model.log_density(torch.from_numpy(model.sample(64, 1)), 0.0)
    assert model.log_density(shown.result.double(), 0.0).median() > typical.quantile(0.05)
    again = demo.trajectory(ksched.build_sampler("dpmpp_2m", "karras", 20), items=3)
    torch.testing.assert_close(again.result, shown.result[:3], rtol=0, atol=1e-4)  # other batch, other rounding


def test_path_errors_are_distances_to_the_exact_solution() -> None:
    """Against the plain way: one run at a time in float64, each with its own solution from its own start."""
    jobs = [(sampler_spec(name), 6) for name in ("euler", "heun", "uni_pc", "auto")]
    names = [ksched.NoiseSchedule.KARRAS, ksched.NoiseSchedule.DDIM_UNIFORM]  # the latter starts below sigma_max
    found = iter(demo.path_errors(jobs, names, VP, images=2))
    model = ksched.exact.digits()
    start = VP.sigma_max * demo._start_noise(2, 0)

    @cache
    def solved(sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        first = model.solve(start, [VP.sigma_max, sigma])[-1]
        return first, model.solve(first, [sigma, 0.0])[-1]

    for spec, calls in jobs:
        for name in [None] if spec.name == "auto" else names:
            sampler = ksched.build_sampler(spec.name, name, calls=calls)
            first, exact = solved(float(sampler.sigmas[0]))
            spread = float(((exact - torch.from_numpy(model.mean)) ** 2).mean().sqrt())
            distances = ((sampler.sample(model, first) - exact) ** 2).mean(-1).sqrt()
            error = next(found)
            assert error[:5] == (spec.name, name, calls, sampler.steps, sampler.nfe)
            assert error.value == pytest.approx(float(distances.mean()) / spread, rel=1e-3)
    assert not list(found)


def test_path_errors_fall_with_the_calls() -> None:
    jobs = [(sampler_spec(name), calls) for name in ("euler", "dpmpp_2m") for calls in (8, 40)]
    errors = demo.path_errors(jobs, [ksched.NoiseSchedule.KARRAS], VP, images=2)
    euler_8, euler_40, dpmpp_8, dpmpp_40 = (error.value for error in errors)
    assert euler_40 < euler_8 / 2
    assert dpmpp_40 < dpmpp_8 / 4
    assert dpmpp_40 < euler_40 / 2


def test_law_errors_are_distances_of_normal_laws() -> None:
    spec = sampler_spec("euler_ancestral")
    (error,) = demo.law_errors([(spec, 5)], [ksched.NoiseSchedule.KARRAS], VP)
    model = ksched.exact.digits()
    variances, axes = np.linalg.eigh(model.covariance)
    plan = ksched.build_sampler(spec.name, "karras", 5).plan
    laws = [
        gaussian_law(plan, m, s) for m, s in zip((model.mean @ axes).tolist(), np.sqrt(variances).tolist(), strict=True)
    ]
    means, stds = np.array([law.mean for law in laws]), np.sqrt([law.variance for law in laws])
    total = np.hypot(np.linalg.norm(means - model.mean @ axes), np.linalg.norm(stds - np.sqrt(variances)))
    assert error.value == pytest.approx(total / math.sqrt(np.trace(model.covariance)), rel=1e-9)


@short(lambda process, steps: (steps == 1) == (process == VP))
@pytest.mark.parametrize("steps", [1, 30])
@pytest.mark.parametrize("process", [VP, ksched.VE(), ksched.Flow(3.0)])
def test_sigma_curves_draws_what_the_schedules_visit(process: ksched.Process, steps: int) -> None:
    figure = plots.sigma_curves(NAMES, steps, process)
    figure.draw_without_rendering()
    groups = plots.families(NAMES)
    assert sorted(name for names in groups.values() for name in names) == sorted(NAMES)
    curves, rows = figure.axes[::2], figure.axes[1::2]
    for left, right, (heading, names) in zip(curves, rows, groups.items(), strict=True):
        assert left.get_title("left") == heading
        for name, curve, row in zip(names, left.lines, right.lines, strict=True):
            expected = ksched.calculate_sigmas(name, steps, process)[:-1]
            np.testing.assert_array_equal(np.asarray(curve.get_ydata()), expected)
            np.testing.assert_array_equal(np.asarray(row.get_xdata()), expected)
            assert curve.get_color() == row.get_color()


KINDS = [VP, ksched.AngleV(), ksched.Flow(3.0)]


@short(lambda process, dialect: list(ksched.Dialect).index(dialect) == KINDS.index(process))
@pytest.mark.parametrize("dialect", ksched.Dialect)
@pytest.mark.parametrize("process", KINDS)
def test_schedule_curves_draws_sigma_log_snr_and_timestep(process: ksched.Process, dialect: ksched.Dialect) -> None:
    flow = isinstance(process, ksched.Flow)
    names = [n for n in NAMES if not flow or ksched.calculate_sigmas(n, 12, process, dialect=dialect).max() <= 1]
    figure = plots.schedule_curves(names, 12, process, dialect=dialect, options={"rho": 2.0})
    figure.draw_without_rendering()
    for name, *lines in zip(names, *(panel.lines for panel in figure.axes), strict=True):
        own = {"rho": 2.0} if "rho" in schedule_options(name) else {}
        sigmas = ksched.calculate_sigmas(name, 12, process, dialect=dialect, **own)
        above = sigmas[sigmas > 0]
        lams = np.array([process.level(float(sigma)).lam for sigma in sigmas])
        drawn = [np.asarray(line.get_ydata()) for line in lines]
        np.testing.assert_array_equal(drawn[0], sigmas if flow else above)
        np.testing.assert_array_equal(drawn[1], lams[np.isfinite(lams)])
        np.testing.assert_array_equal(drawn[2], process.timestep(above))
    assert [text.get_text() for text in figure.legends[0].texts][:2] == ["simple", "karras rho=2.0"]


def test_schedule_curves_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(TypeError, match="none of karras, beta has an option 'rh'"):
        plots.schedule_curves(["karras", "beta"], 5, options={"rh": 1.0})
    with pytest.raises(ValueError, match="at least one schedule"):
        plots.schedule_curves([], 5)
    with pytest.raises(
        ValueError, match=r"vp in the dialect comfyui starts at sigma 152\.167, but the largest sigma of"
    ):
        plots.schedule_curves(["vp"], 5, ksched.Flow(), dialect="comfyui")


def test_every_line_looks_different() -> None:
    looks = [line_look(k) for k in range(len(ksched.NoiseSchedule))]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(looks)


def test_error_map_draws_the_numbers_and_frames_the_smallest() -> None:
    row = plots.ErrorRow
    one = {
        "": [row("auto", {"": 0.3}, "8", "8")],
        "A": [row("euler", {"simple": 0.5, "karras": 0.02, "own": 12.4}, "8", "8"), row("rk4", {}, note="needs more")],
        "A, with noise": [row("ddpm", {"karras": 0.0004}, "8", "8")],
    }
    figure = plots.error_map({"8 model calls": one, "20 model calls": {"A": [row("euler", {"karras": 0.001})]}})
    figure.draw_without_rendering()
    assert len(figure.axes) == 2
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    for text in ("euler", "50", "2.0", "1k", "30   (on its own noise levels)", "needs more", "0.04", "A, with noise"):
        assert text in texts
    columns = [
        texts[name].get_position()[0] for name in ("karras", "simple", "own")
    ]  # in families, then what is in none
    assert columns == sorted(columns)
    assert texts["auto"].get_position()[1] < texts["euler"].get_position()[1] < texts["ddpm"].get_position()[1]
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    for text, frame in zip(("2.0", "0.04"), frames, strict=True):
        (x, y), (left, top) = texts[text].get_position(), frame.get_xy()
        assert left < x < left + frame.get_width()
        assert top < y < top + frame.get_height()


def test_error_curves_has_a_panel_per_sampler_and_a_line_per_schedule() -> None:
    curves = {f"sampler {k}": {"karras": [(4, 0.1), (8, 0.02)], "simple": [(4, 0.2), (8, 0.0)]} for k in range(6)}
    figure = plots.error_curves({"one": curves, "two": {"alone": {"linear": [(5, 1e-3)]}}}, columns=4)
    figure.draw_without_rendering()
    panels = [axes for part in figure.subfigs for axes in part.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [*curves, "alone"]
    assert [len(axes.lines) for axes in panels] == [2] * 6 + [1]
    assert [text.get_text() for text in figure.legends[0].texts] == ["karras", "simple", "linear"]

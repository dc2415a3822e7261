"""check_model names every mistake and blames no correct model; tested on exact and nearly exact models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import PROCESSES, quick
from representatives import in_turn, short

from ksched import EDM, VE, VP, AngleV, Denoiser, Flow, FlowVE, ModelReport, Process, check_model, exact
from ksched.denoisers.denoiser import Prediction

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mixture(process: Process) -> exact.GaussianMixture:
    means = [[1.0, -0.5, 0.2, 0.8], [-0.6, 0.3, 0.0, -0.2]]
    return exact.GaussianMixture([0.3, 0.7], means, [0.09, 0.04], process)


def items(truth: Callable[[Process], exact.GaussianMixture], n: int, seed: int = 3) -> torch.Tensor:
    return torch.tensor(truth(VE()).sample(n, seed=seed)).float()


DATA = items(mixture, 256)
#: half as many as by default, where their number makes no difference to what is found
FEW_LEVELS = 4


def same(z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return z


def network(
    process: Process,
    prediction: str,
    truth: exact.GaussianMixture,
    *,
    told: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    shown: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = same,
    times: float = 1.0,
    error: float = 0.0,
) -> Network:
    """The exact network of a process, by the definition of its prediction, with a mistake built in.

    ``told`` and ``shown`` are done to what it is given, ``times`` to what it returns; ``error`` is the size of a
    deterministic error of its own, relative to the output, as training leaves one.
    """

    posterior_mean = quick(truth) if len(truth.weights) == 2 else truth

    def answer(z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sigma = (
            process.sigma(told(timestep)).nan_to_num().clamp(process.sigma_min, process.sigma_max)
        )  # as it was trained
        s = sigma.reshape(-1, *[1] * (z.ndim - 1))
        z = shown(z, s)
        x = z * process.input_norm(s)
        a, std = process.alpha(s), process.noise_std(s) / process.noise_scale
        x0 = posterior_mean(x, sigma)
        eps = (x - a * x0) / std
        data = getattr(process, "sigma_data", 1.0)
        norm = ((a * data) ** 2 + std**2).sqrt()
        outputs: dict[str, Callable[[], torch.Tensor]] = {
            "epsilon": lambda: eps,
            "sample": lambda: x0,
            "flow": lambda: eps - x0,
            "v_prediction": lambda: a * data / norm * eps - std / norm * x0 / data,
            "edm": lambda: std / norm * x0 / data - a * data / norm * eps,
            "velocity_to_data": lambda: x0 - eps,
            "score": lambda: -eps / std * process.input_norm(s) * shown(torch.ones_like(s), s),
        }
        output = outputs[prediction]()
        if error:
            wave = torch.sin(1e3 * z + 7 * torch.cos(31 * z.flip(-1))) * math.sqrt(2)
            output = output + error * output.square().mean().sqrt() * wave
        output = times * output
        return output

    return answer


def fitting(process: Process) -> list[Prediction]:
    kinds = process.predictions
    zero = getattr(process, "zero_terminal_snr", False)
    return [kind for kind in kinds if not (zero and kind in ("epsilon", "score"))]  # type: ignore[misc]


EVERY = [(name, kind) for name, process in PROCESSES.items() for kind in fitting(process)]
FEW: list[Process] = [VP(), VP(zero_terminal_snr=True), EDM(), VE(), Flow(3.0)]
PAIRS = [(process, kind) for process in FEW for kind in fitting(process)]
IDS = [f"{type(process).__name__}-{i}-{kind}" for i, process in enumerate(FEW) for kind in fitting(process)]


def every_process(process: Process, kind: Prediction) -> bool:
    """Every process, each with another prediction where it has several."""
    return kind == in_turn(FEW.index(process), fitting(process))


def text(report: ModelReport, *words: str) -> None:
    for word in words:
        assert word in str(report), str(report)


# Right models


@short(lambda name, kind: kind == in_turn(list(PROCESSES).index(name), fitting(PROCESSES[name])))
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_right_networks_are_not_blamed(name: str, kind: Prediction) -> None:
    process = PROCESSES[name]
    error = 0.1 * (EVERY.index((name, kind)) % 2)
    report = check_model(network(process, kind, mixture(process), error=error), process, prediction=kind, data=DATA)
    assert report.ok, str(report)
    assert not report.notes
    report.raise_if_wrong()
    text(report, "nothing wrong", kind)


@short(lambda name: PROCESSES[name] in FEW)  # the test above has networks of every process
@pytest.mark.parametrize("name", PROCESSES)
def test_right_denoisers_are_not_blamed(name: str) -> None:
    process = PROCESSES[name]
    report = check_model(mixture(process), process, data=DATA)
    assert report.ok, str(report)


@pytest.mark.parametrize("process", FEW, ids=lambda process: type(process).__name__)
def test_digits_are_not_blamed(process: Process) -> None:
    kind = fitting(process)[0]
    right = network(process, kind, exact.digits(process), error=0.05)
    report = check_model(right, process, prediction=kind, data=items(exact.digits, 32), levels=4)
    assert report.ok, str(report)


@pytest.mark.exhaustive  # test_what_cannot_be_told_is_said has such data too
@pytest.mark.parametrize(
    ("covariance", "seed"),
    [(0.2, 1), (1.0, 0), (5.0, 1)],
)
def test_plain_gaussian_data_do_not_blame(covariance: float, seed: int) -> None:
    """The yardstick itself is exact here, so nothing is left but chance; few items and many."""
    for process in (VP(), Flow(), EDM()):
        for n in (4, 100):
            truth = exact.Gaussian([0.3] * 16, covariance, process)
            data = torch.tensor(truth.sample(n, seed=seed)).float()
            kind = fitting(process)[seed % len(fitting(process))]
            report = check_model(
                network(process, kind, truth), process, prediction=kind, data=data, seed=seed, levels=4
            )
            assert report.ok, str(report)


def test_finitely_many_points_do_not_blame() -> None:
    points = items(exact.digits, 5)
    for process in (VP(), Flow()):
        truth = exact.Empirical(points.double().numpy(), process)
        assert check_model(truth, process, data=points, levels=3).ok


@pytest.mark.parametrize("shape", [(8, 1, 8, 8), (1, 1, 8, 8), (40, 64)])
def test_figures(shape: tuple[int, ...]) -> None:
    truth = exact.digits()
    data = items(exact.digits, shape[0]).reshape(shape)
    report = check_model(truth, VP(), data=data, levels=5)
    assert len(report.levels) >= 5
    assert all(level.error < 1.02 * level.linear for level in report.levels)
    assert min(level.error / level.linear for level in report.levels) < 0.8
    assert report.calls > 0
    assert [level.sigma for level in report.levels] == sorted(level.sigma for level in report.levels)
    assert str(report).count("\n") == len(report.levels) + 1
    assert len(str(report).splitlines()[-1].split()) == 4


# Mistakes


@short(every_process)
@pytest.mark.parametrize(("process", "kind"), PAIRS, ids=IDS)
def test_a_wrong_prediction_is_named(process: Process, kind: Prediction) -> None:
    for claimed in fitting(process):
        if {claimed, kind} in ({claimed}, {"v_prediction", "edm"}, {"flow", "velocity_to_data"}):
            continue
        wrong = network(process, kind, mixture(process), error=0.1)
        report = check_model(wrong, process, prediction=claimed, data=DATA)
        assert report.kinds == ("prediction",), str(report)
        text(report, f'it predicts {kind}, not {claimed}: Denoiser(network, process, prediction="{kind}")')


@short(every_process)
@pytest.mark.parametrize(("process", "kind"), PAIRS, ids=IDS)
def test_a_swapped_sign_is_named(process: Process, kind: Prediction) -> None:
    wrong = network(process, kind, mixture(process), times=-1.0, error=0.1)
    report = check_model(wrong, process, prediction=kind, data=DATA)
    assert report.kinds == ("sign",), str(report)
    text(report, "negate it")
    if kind == "flow":
        text(report, 'prediction="velocity_to_data"')
    if kind == "v_prediction" and isinstance(process, EDM):
        text(report, 'prediction="edm"')


@short(every_process)
@pytest.mark.parametrize(("process", "kind"), PAIRS, ids=IDS)
def test_a_scaled_output_is_named(process: Process, kind: Prediction) -> None:
    report = check_model(
        network(process, kind, mixture(process), times=2.0, error=0.1), process, prediction=kind, data=DATA
    )
    assert report.kinds == ("scale",), str(report)
    text(report, "must be multiplied by 0.4" if "by 0.4" in str(report) else "must be multiplied by 0.5")


SCALED: list[Process] = [VP(), EDM(), AngleV(), FlowVE()]
SCALED_PAIRS = [(process, kind) for process in SCALED for kind in fitting(process)]


@short(lambda process, kind: kind == in_turn(SCALED.index(process), fitting(process)))
@pytest.mark.parametrize(("process", "kind"), SCALED_PAIRS, ids=[f"{type(p).__name__}-{k}" for p, k in SCALED_PAIRS])
def test_input_scaled_twice_or_never_is_named(process: Process, kind: Prediction) -> None:
    twice = network(process, kind, mixture(process), shown=lambda z, s: z / process.input_norm(s))
    report = check_model(twice, process, prediction=kind, data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("input",), str(report)
    text(report, "scaled twice")
    never = network(process, kind, mixture(process), shown=lambda z, s: z * process.input_norm(s))
    report = check_model(never, process, prediction=kind, data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("input",), str(report)
    text(report, "not scaled")


@short(every_process)
@pytest.mark.parametrize(("process", "kind"), PAIRS, ids=IDS)
def test_a_wrong_timestep_scale_is_named(process: Process, kind: Prediction) -> None:
    large = isinstance(process, VP | Flow)
    factor = 1000.0 if large else 0.001
    wrong = network(process, kind, mixture(process), told=lambda t: t * factor)
    report = check_model(wrong, process, prediction=kind, data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("timestep",), str(report)
    text(report, "it needs timesteps from 0 to 1," if large else "it needs timesteps from 0 to 1000")


def test_time_that_counts_the_other_way_is_named() -> None:
    """Networks told how much data there is, whose velocity points to it."""
    process = Flow()
    wrong = network(process, "flow", mixture(process), told=lambda t: 1000 * (1 - t), times=-1.0)
    report = check_model(wrong, process, prediction="flow", data=DATA, levels=FEW_LEVELS)
    assert set(report.kinds) == {"timestep", "sign"}
    text(
        report,
        "1 minus a thousandth of the timestep",
        "Flow(timestep_scale=1.0, reverse_time=True)",
        'prediction="velocity_to_data"',
    )


@pytest.mark.parametrize("zero", [False, True])
def test_zero_terminal_snr_is_named(zero: bool) -> None:
    process, claimed = VP(zero_terminal_snr=zero), VP(zero_terminal_snr=not zero)
    wrong = network(process, "v_prediction", mixture(process), error=0.05)
    report = check_model(wrong, claimed, prediction="v_prediction", data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("table",), str(report)
    text(report, f"{'with' if zero else 'without'} zero terminal SNR")


@pytest.mark.parametrize("process", [VP.linear(), VP.cosine()], ids=["linear", "cosine"])
def test_another_table_is_named(process: VP) -> None:
    report = check_model(
        network(process, "epsilon", mixture(process)), VP(), prediction="epsilon", data=DATA, levels=FEW_LEVELS
    )
    assert report.kinds == ("table",), str(report)
    text(report, "linear table" if process == VP.linear() else "cosine table")


@pytest.mark.parametrize(
    ("process", "kind", "claimed", "claim", "words"),
    [
        (Flow(), "flow", VP(), "epsilon", "Flow()"),
        (VP(), "epsilon", Flow(), "flow", "VP()"),
        (EDM(), "edm", VP(), "v_prediction", "EDM()"),
        (VP(), "epsilon", VE(), "epsilon", "VP()"),
        (Flow(timestep_scale=1.0), "flow", EDM(), "edm", "Flow(timestep_scale=1.0)"),
    ],
)
def test_another_process_is_named(
    process: Process, kind: Prediction, claimed: Process, claim: Prediction, words: str
) -> None:
    report = check_model(
        network(process, kind, mixture(process)), claimed, prediction=claim, data=DATA, levels=FEW_LEVELS
    )
    assert report.kinds == ("process",), str(report)
    text(report, f'Denoiser(network, ksched.{words}, "{kind}")')


# Denoisers


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_denoiser_that_returns_something_else_is_named(kind: Prediction) -> None:
    process = VP()
    raw = Denoiser(network(process, kind, mixture(process)), process, kind)

    def output(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return raw.output(x / process.input_norm(sigma)[:, None], process.timestep(sigma))

    report = check_model(output, process, data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("prediction",), str(report)
    text(report, f"it returns {kind}")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_denoiser_that_forgot_to_scale_is_named(kind: Prediction) -> None:
    process = VP()
    right = network(process, kind, mixture(process))

    def forgot(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        _, of_x, of_output = Denoiser(right, process, kind)._conversion(sigma[:, None])
        denoised: torch.Tensor = of_x * x + of_output * right(x, process.timestep(sigma))
        return denoised

    report = check_model(forgot, process, data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("input",), str(report)
    text(report, "does not scale the state")


@pytest.mark.parametrize("process", [VP(), Flow()], ids=lambda process: type(process).__name__)
def test_a_raw_network_in_place_of_a_denoiser_is_named(process: Process) -> None:
    kind = fitting(process)[0]
    report = check_model(network(process, kind, mixture(process)), process, data=DATA, levels=FEW_LEVELS)
    assert not report.ok
    text(report, "raw network", kind)


def test_a_k_diffusion_wrapper_is_a_denoiser() -> None:
    class Wrapper:
        def __init__(self) -> None:
            self.inner_model = network(VP(), "epsilon", mixture(VP()))

        def sigma_to_t(self, sigma: torch.Tensor) -> torch.Tensor:
            return VP().timestep(sigma)

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            s = sigma[:, None]
            return x - s * self.inner_model(x / (1 + s**2).sqrt(), self.sigma_to_t(sigma))

    assert check_model(Wrapper(), VP(), data=DATA, levels=FEW_LEVELS).ok
    with pytest.raises(ValueError, match="is already a denoiser"):
        check_model(Wrapper(), VP(), data=DATA, prediction="epsilon")


# Models that are no such thing


def test_what_is_raised_is_told() -> None:
    def broken(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        raise KeyError("encoder_hidden_states")

    report = check_model(broken, VP(), prediction="epsilon", data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("raises",)
    text(report, "KeyError", "encoder_hidden_states", "(256, 4)")
    with pytest.raises(ValueError, match="KeyError"):
        report.raise_if_wrong()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x, t: None, "must return a tensor"),
        (lambda x, t: "text", "got str"),
        (lambda x, t: x[:, :2], "(256, 4); got (256, 2)"),
        (lambda x, t: torch.cat([x, x, x], 1), "keep only those of the prediction"),
        (lambda x, t: x.sum(), "got ()"),
    ],
)
def test_no_output_of_the_right_shape(output: Network, words: str) -> None:
    report = check_model(output, VP(), prediction="epsilon", data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("output",)
    text(report, words)


def test_what_is_not_finite_is_told_where() -> None:
    right = network(VP(), "epsilon", mixture(VP()))

    def overflows(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.where(timestep[:, None] > 990, math.inf, right(x, timestep))

    report = check_model(overflows, VP(), prediction="epsilon", data=DATA, levels=FEW_LEVELS)
    assert report.kinds == ("not_finite",)
    text(report, "not finite at sigma 14.61")
    report = check_model(lambda x, t: x * math.nan, VP(), prediction="epsilon", data=DATA.half())
    text(report, "at every level", "overflow in torch.float16")


def test_what_nothing_explains() -> None:
    torch_weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    report = check_model(
        lambda x, t: (x @ torch_weights).sin(), VP(), prediction="epsilon", data=DATA, levels=FEW_LEVELS
    )
    assert report.kinds == ("unknown",), str(report)
    text(report, "worse than a linear prediction", "std 0.5", "Check that it is trained")


def test_data_of_another_range_are_told() -> None:
    report = check_model(
        network(VP(), "epsilon", mixture(VP())), VP(), prediction="epsilon", data=255 * (DATA + 1), levels=FEW_LEVELS
    )
    assert not report.ok
    text(report, "that these are its data")


def test_chance_in_a_model_is_noted() -> None:
    right = network(VP(), "epsilon", mixture(VP()))
    generator = torch.Generator().manual_seed(0)

    def drops(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        output = right(x, timestep)
        return output + 0.1 * torch.randn(output.shape, generator=generator)

    report = check_model(drops, VP(), prediction="epsilon", data=DATA, levels=FEW_LEVELS)
    assert report.ok
    text(report, "gave different answers")


def test_what_cannot_be_told_is_said() -> None:
    """The best v for white unit-variance data is 0, so its sign cannot be seen."""
    truth = exact.Gaussian([0.0] * 4, 1.0, VP())
    data = torch.tensor(truth.sample(256, seed=1)).float()
    for times in (1.0, -1.0):
        wrong = network(VP(), "v_prediction", truth, times=times)
        report = check_model(wrong, VP(), prediction="v_prediction", data=data, levels=3)
        assert report.ok, str(report)
        text(report, "the negative of v_prediction would fit these data equally well")


# Calling it


def test_own_pairs_and_a_seed() -> None:
    right = Denoiser(network(VP(), "epsilon", mixture(VP())), VP(), "epsilon")
    noise = torch.randn(DATA.shape, generator=torch.Generator().manual_seed(5))
    assert check_model(right, data=DATA, noise=noise).ok
    assert check_model(right, VP(), data=DATA.numpy(), seed=4).ok
    assert str(check_model(right, data=DATA, seed=1)) == str(check_model(right, data=DATA, seed=1))
    seen = []

    def spy(x: torch.Tensor, timestep: torch.Tensor) -> Any:
        seen.append((x.dtype, tuple(x.shape), timestep.dtype, tuple(timestep.shape), torch.is_grad_enabled()))
        return (right.network(x, timestep), "more")

    assert check_model(spy, VP(), prediction="epsilon", data=DATA[:8]).ok
    assert set(seen) == {(torch.float32, (8, 4), torch.float32, (8,), False)}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": 3}, TypeError, "model must be callable"),
        ({"process": None}, TypeError, "process must be"),
        ({"data": torch.ones(4, 3)}, ValueError, "must not be constant"),
        ({"data": torch.ones(4, 3, dtype=torch.int64)}, TypeError, "floating-point"),
        ({"data": torch.tensor([[1.0, math.nan]])}, ValueError, "data must be finite"),
        ({"noise": torch.ones(3, 3)}, ValueError, "noise must have the shape of data"),
        ({"levels": 2}, ValueError, "levels must be a whole number, at least 3"),
        ({"prediction": "flow"}, ValueError, "a VP network predicts"),
        (
            {"model": Denoiser(lambda x, t: x, VP()), "process": VE()},
            ValueError,
            "must be left out or match the Denoiser",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"model": lambda x, t: x, "process": VP(), "data": DATA} | arguments
    with pytest.raises(error, match=words):
        check_model(given.pop("model"), given.pop("process"), **given)

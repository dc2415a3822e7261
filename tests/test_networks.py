"""Networks of diffusers: what their scheduler configurations say, and the networks themselves if installed."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from cases import start_state

import ksched
from ksched import EDM, VE, VP, AngleV, Flow, Process
from ksched.dialects.diffusers.networks import from_diffusers, prediction_of, process_of

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    ("name", "config", "process", "prediction"),
    [
        ("PNDM", SD, VP(), "epsilon"),
        ("DDPM", {}, VP.linear(), "epsilon"),
        ("DDIM", SD | {"prediction_type": "v_prediction"}, VP(), "v_prediction"),
        ("DDIM", SD | {"rescale_betas_zero_snr": True}, VP(zero_terminal_snr=True), "epsilon"),
        ("DDPM", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, VP.cosine(), "sample"),
        ("DDPM", {"beta_schedule": "sigmoid"}, VP.sigmoid(), "epsilon"),
        ("HeunDiscrete", {"beta_schedule": "exp"}, VP.exponential(), "epsilon"),
        ("HeunDiscrete", {}, VP.linear(0.00085, 0.012), "epsilon"),
        ("LCM", {}, VP(), "epsilon"),
        ("DEISMultistep", {"trained_betas": [0.1, 0.2, 0.3]}, VP([0.1, 0.2, 0.3]), "epsilon"),
        ("CogVideoXDDIM", {}, VP(snr_shift=3.0), "epsilon"),
        ("EulerDiscrete", {"num_train_timesteps": 500}, VP.linear(steps=500), "epsilon"),
        (
            "EulerDiscrete",
            SD | {"timestep_type": "continuous", "prediction_type": "v_prediction"},
            VP(log_sigma_timesteps=True),
            "v_prediction",
        ),
        (
            "EulerDiscrete",
            {
                "timestep_type": "continuous",
                "prediction_type": "v_prediction",
                "sigma_min": 0.002,
                "sigma_max": 700.0,
            },
            EDM(0.002, 700.0, 1.0),
            "v_prediction",
        ),
        ("EDMEuler", {}, EDM(), "edm"),
        ("EDMDPMSolverMultistep", {"prediction_type": "v_prediction"}, EDM(), "v_prediction"),
        ("CosineDPMSolverMultistep", {}, AngleV(0.3, 500.0), "v_prediction"),
        ("FlowMatchEulerDiscrete", {"shift": 3.0}, Flow(3.0), "flow"),
        ("FlowMatchEulerDiscrete", {"shift": 3.0, "use_dynamic_shifting": True}, Flow(), "flow"),
        ("UniPCMultistep", {"use_flow_sigmas": True, "flow_shift": 5.0}, Flow(5.0), "flow"),
        ("DPMSolverMultistep", {"prediction_type": "flow_prediction", "flow_shift": 2.0}, Flow(2.0), "flow"),
    ],
)
def test_what_a_configuration_says(name: str, config: dict[str, Any], process: Process, prediction: str) -> None:
    saved = {"_class_name": f"{name}Scheduler", "_diffusers_version": "0.42.1", **config}
    assert process_of(saved) == process
    assert prediction_of(saved) == prediction


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="does not have the process of UnCLIPScheduler"):
        process_of({"_class_name": "UnCLIPScheduler"})
    with pytest.raises(ValueError, match=r"got 'laplace'\. Pass trained_betas"):
        process_of({"_class_name": "DDPMScheduler", "beta_schedule": "laplace"})
    with pytest.raises(ValueError, match=r"unknown prediction type 'logits'"):
        prediction_of({"prediction_type": "logits"})
    with pytest.raises(ValueError, match="invert_sigmas"):
        process_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True})
    with pytest.raises(TypeError, match="scheduler must be"):
        prediction_of(3)
    with pytest.raises(TypeError, match="source must be"):
        process_of(3)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        from_diffusers(lambda x, t: x, {"rescale_betas_zero_snr": True})


def test_the_table_of_a_wrapper() -> None:
    class Wrapper:
        sigmas = torch.tensor(VP().sigmas.tolist())
        inner_model = sigma_to_t = None

    found = process_of(Wrapper())
    np.testing.assert_allclose(found.sigmas, VP().sigmas, rtol=1e-6)
    with pytest.raises(TypeError, match="is already a denoiser"):
        from_diffusers(Wrapper(), SD)  # type: ignore[arg-type]


def test_what_networks_are_told() -> None:
    seen: list[torch.Tensor] = []

    class FluxTransformer2DModel(torch.nn.Module):
        def forward(self, hidden_states: Any, encoder_hidden_states: Any = None, timestep: Any = None) -> Any:
            seen.append(timestep)
            return (hidden_states * 0,)

    class Lumina2Transformer2DModel(FluxTransformer2DModel):
        def forward(self, hidden_states: Any, timestep: Any = None) -> Any:  # type: ignore[override]
            seen.append(timestep)
            return (hidden_states - 1,)

    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True}
    x, sigma = torch.ones(2, 3), torch.tensor([0.25, 0.5])
    flux = from_diffusers(FluxTransformer2DModel(), config, mu=1.0)
    assert flux.process == Flow(float(np.exp(1.0)), 1000, 1.0)
    assert torch.equal(flux(x, sigma), x)
    assert torch.equal(seen[-1], sigma)
    lumina = from_diffusers(Lumina2Transformer2DModel(), config)
    assert torch.equal(lumina(x, sigma), x)  # velocity -(x - 1) = 0
    assert torch.equal(seen[-1], 1 - sigma)
    table = torch.ones(1000, 1)
    embedded = from_diffusers(lambda x, t: x + table[t], SD, whole_timesteps=True)
    assert embedded(x, 3.0).shape == x.shape


def by_hand(network: Any, process: Process, inputs: Any, x: torch.Tensor, sigma: torch.Tensor) -> Any:
    s, t = sigma.reshape(-1, 1, 1, 1), process.timestep(sigma)
    if isinstance(process, Flow):
        return x - s * network(hidden_states=x, timestep=t, return_dict=False, **inputs)[0]
    return x - s * network(x / (1 + s**2).sqrt(), t, **inputs).sample[:, :3]


def test_unets_and_transformers_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            num_class_embeds=5,
        )
        dit = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=3,
            out_channels=6,
            num_layers=1,
            norm_num_groups=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )
        sd3 = diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=3,
            out_channels=3,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=8,
            caption_projection_dim=8,
            pooled_projection_dim=8,
        )
    labels = torch.tensor([1, 2])
    text = {"encoder_hidden_states": torch.ones(2, 4, 8), "pooled_projections": torch.ones(2, 8)}
    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (unet, diffusers.DDIMScheduler(), {"class_labels": labels}),
        (dit, diffusers.DDPMScheduler(variance_type="learned_range"), {"class_labels": labels}),
        (sd3, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), text),
    ]
    for network, scheduler, inputs in cases:
        network = network.eval()
        denoiser = from_diffusers(network, scheduler, **inputs)
        process = denoiser.process
        sampler = ksched.build_sampler("euler", "simple", 4, process=process)
        x = start_state(process, sampler.sigmas[0], (2, 3, 8, 8), dtype=torch.float32)

        with torch.no_grad():
            expected = sampler.sample(partial(by_hand, network, process, inputs), x)
        found = sampler.sample(denoiser, x)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        data, noise = torch.rand((2, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
        report = ksched.check_model(denoiser, data=data, noise=noise, levels=3)
        assert "raises" not in report.kinds, str(report)  # it is not trained, but it can be asked
        assert "output" not in report.kinds, str(report)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' own
def test_a_scheduler_object_says_what_its_configuration_says() -> None:
    diffusers = pytest.importorskip("diffusers")
    for name in ("DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler", "HeunDiscreteScheduler", "DDPMScheduler"):
        scheduler = getattr(diffusers, name)()
        assert process_of(scheduler) == process_of({"_class_name": name})
        sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().numpy()
        np.testing.assert_allclose(process_of(scheduler).sigmas, sigmas, rtol=1e-3)
    assert process_of(diffusers.EDMEulerScheduler()) == EDM()
    assert isinstance(process_of({"_class_name": "EDMEulerScheduler"}), EDM)
    assert VE() != process_of(diffusers.FlowMatchEulerDiscreteScheduler()) == Flow()

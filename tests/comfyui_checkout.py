"""Compare our nodes with ComfyUI's own samplers, inside a checkout: ``python comfyui_checkout.py PATH``.

Everything is ComfyUI's except the network, a small convolution, and stand-ins for modules that it imports but does not
need here. psutil and torchsde must be installed. Prints one JSON object of measurements. A difference is the largest
over all elements, divided by the largest element of what ComfyUI's own sampler returns.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from ksched.integrations import comfyui
from ksched.integrations.comfyui import __main__ as command
from ksched.integrations.comfyui.nodes import NODES

#: what ComfyUI imports besides, of which nothing runs here
ABSENT = (
    "aiohttp av comfy_kitchen comfyui_frontend_package einops kornia sentencepiece simpleeval spandrel tokenizers "
    "torchaudio torchvision transformers"
)
STEPS, SEED, CFG = 6, 1234, 2.0


class _Any(type):
    """A class that has everything."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Anything(metaclass=_Any):
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class _Standing(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Absent(MetaPathFinder, Loader):
    """Finds stand-ins for modules that are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [name for name in names if importlib.util.find_spec(name) is None]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self._names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Standing(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


class Host:
    """ComfyUI's modules, imported from a checkout for the processor."""

    def __init__(self, path: Path) -> None:
        sys.path.insert(0, str(path))
        sys.argv = sys.argv[:1]
        sys.meta_path.append(_Absent(ABSENT.split()))
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        self.args = importlib.import_module("comfy.cli_args").args
        self.args.cpu = True
        for name in (
            "samplers",
            "sample",
            "model_base",
            "model_patcher",
            "latent_formats",
            "model_management",
            "utils",
        ):
            setattr(self, name, importlib.import_module(f"comfy.{name}"))
        self.version = importlib.import_module("comfyui_version").__version__

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def model(self, kind: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
        """A MODEL of a kind, as nodes are given it."""
        config = SimpleNamespace(
            unet_config={"disable_unet_model_creation": True},
            latent_format=self.latent_formats.SD15(),
            manual_cast_dtype=None,
            custom_operations=None,
            optimizations={},
            scaled_fp8=None,
            memory_usage_factor=1.0,
            sampling_settings=settings,
        )
        made = self.model_base.BaseModel(config, model_type=self.model_base.ModelType[kind])
        made.diffusion_model = Network(dtype)
        cpu = torch.device("cpu")
        return self.model_patcher.ModelPatcher(made, cpu, cpu)


class Network(torch.nn.Module):
    """A small network whose answer depends on state, timestep and condition; it is told of no more than float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        generator = torch.Generator().manual_seed(0)
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
        with torch.no_grad():
            for weights in self.conv.parameters():
                weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
        self.to(dtype)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, **more: Any) -> torch.Tensor:
        told = context.mean(dim=(1, 2)) + 0.1 * torch.sin(timestep / 100)
        return torch.tanh(self.conv(x) + told.reshape(-1, 1, 1, 1))


#: kinds of models: ComfyUI's name and settings
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "EPS": ("EPS", {}),
    "V": ("V_PREDICTION", {}),
    "V, zero terminal SNR": ("V_PREDICTION", {"zsnr": True}),
    "EDM": ("EDM", {"sigma_data": 0.5, "sigma_max": 80.0}),
    "V on EDM": ("V_PREDICTION_EDM", {}),
    "flow": ("FLOW", {"shift": 3.0}),
    "Flux": ("FLUX", {}),
}
LATENT = (2, 4, 8, 8)


def start() -> torch.Tensor:
    """The noise of all runs."""
    return torch.randn(LATENT, generator=torch.Generator().manual_seed(5), dtype=torch.float32)


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, over the largest number."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max())


def conditions() -> tuple[Any, Any]:
    """Positive and negative CONDITIONING."""
    generator = torch.Generator().manual_seed(6)
    return tuple([[torch.randn(1, 3, 5, generator=generator, dtype=torch.float32), {}]] for _ in range(2))  # type: ignore[return-value]


def sampled(host: Any, model: Any, sampler: Any, sigmas: torch.Tensor, **how: Any) -> torch.Tensor:
    """The whole way of SamplerCustom."""
    noise = start().to(sigmas.dtype)
    given = {"latent_image": torch.zeros_like(noise), "seed": SEED, "disable_pbar": True, **how}
    result: torch.Tensor = host.sample.sample_custom(
        model, noise, given.pop("cfg", CFG), sampler, sigmas.clone(), *conditions(), **given
    )
    return result


def chosen(name: str, **how: Any) -> Any:
    """What our node for any sampler returns."""
    return comfyui.NODE_CLASS_MAPPINGS["KSchedSampler"]().execute(sampler=name, **how)[0]


def measure_samplers(host: Any, schedule: str, dtype: torch.dtype) -> dict[str, dict[str, float | str]]:
    """Our nodes against ComfyUI's own samplers, with its noise, for all models.

    In float32 both sides round, at every operation; float64 tells whether that is all that differs.
    """
    found: dict[str, dict[str, float | str]] = {}
    for kind, (base, settings) in MODELS.items():
        model = host.model(base, dtype, **settings)
        part = model.get_model_object("model_sampling")
        sigmas = host.samplers.calculate_sigmas(part, schedule, STEPS).to(dtype)
        for name in host.samplers.KSampler.SAMPLERS:
            if name.endswith("_gpu") or name.startswith("ksched"):
                continue
            theirs, ours = host.samplers.sampler_object(name), chosen(name, noise="comfyui", dialect="comfyui")
            torch.set_default_dtype(dtype)  # ComfyUI makes some of its coefficients in it
            try:
                both = [sampled(host, model, sampler, sigmas) for sampler in (ours, theirs)]
                found.setdefault(name, {})[kind] = apart(*both)
            except Exception as error:
                found.setdefault(name, {})[kind] = f"{type(error).__name__}: {error}"
            finally:
                torch.set_default_dtype(torch.float32)
    return found


def measure_levels(host: Any) -> dict[str, dict[str, float]]:
    """Our noise levels against ComfyUI's, relative to each level, for all its schedules."""
    found: dict[str, dict[str, float]] = {}
    for kind, (base, settings) in MODELS.items():
        part = host.model(base, **settings).get_model_object("model_sampling")
        for name in host.samplers.SCHEDULER_HANDLERS:
            if name.startswith("ksched"):
                continue
            worst = 0.0
            for steps in (2, 7, 20, 33):
                theirs = host.samplers.calculate_sigmas(part, name, steps)
                ours = comfyui.calculate_sigmas(part, name, steps)
                same = ours.shape == theirs.shape
                worst = max(worst, float(((ours - theirs).abs() / theirs.clamp_min(1e-9)).max()) if same else 9e9)
            found.setdefault(name, {})[kind] = worst
    return found


def measure_flipped(host: Any) -> dict[str, float]:
    """Runs from data to noise, on levels from FlipSigmas, of deterministic samplers, in float64.

    In float32 the first slope, over a sigma of 0.0001, has four digits.
    """
    found = {}
    for kind in ("EPS", "flow"):
        model = host.model(MODELS[kind][0], torch.float64, **MODELS[kind][1])
        sigmas = host.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        sigmas = sigmas.double().flip(0)[:-1]  # at pure noise of a flow model KSAMPLER divides by 0
        sigmas[0] = 1e-4
        for name in ("euler", "heun", "dpmpp_2m", "res_multistep", "ipndm"):
            how = {"latent_image": start().double(), "cfg": 1.0}
            theirs = sampled(host, model, host.samplers.sampler_object(name), sigmas, **how)
            found[f"{name}, {kind}"] = apart(sampled(host, model, chosen(name), sigmas, **how), theirs)
    return found


def measure_masks(host: Any) -> dict[str, float]:
    """Inpainting with our euler, dpmpp_2m, ddim and dpmpp_2m_cfg_pp against ComfyUI's, on an EPS and a flow model."""
    latent = torch.randn(LATENT, generator=torch.Generator().manual_seed(7))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6] = 1
    found = {}
    for kind in ("EPS", "flow"):
        model = host.model(MODELS[kind][0], **MODELS[kind][1])
        sigmas = host.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        for name in ("euler", "dpmpp_2m", "ddim", "dpmpp_2m_cfg_pp"):
            how = {"latent_image": latent, "noise_mask": mask}
            theirs = sampled(host, model, host.samplers.sampler_object(name), sigmas, **how)
            ours = sampled(host, model, chosen(name, noise="comfyui", dialect="comfyui"), sigmas, **how)
            found[f"{name}, {kind}"] = apart(ours, theirs)
            found[f"{name}, {kind}, what is kept"] = apart(ours[..., 6:], latent[..., 6:])
    return found


def measure_menus(host: Any) -> dict[str, float]:
    """Names in KSampler's menus against ComfyUI's own, through KSampler."""
    added = comfyui.register(dialect="comfyui")
    assert "ksched_euler" in added
    assert not comfyui.register()
    found = {}
    for kind in ("EPS", "flow"):
        model = host.model(MODELS[kind][0], **MODELS[kind][1])
        for name, schedule, denoise in (
            ("euler", "simple", 1.0),
            ("dpmpp_2m", "karras", 1.0),
            ("dpm_2", "normal", 1.0),
            ("uni_pc", "beta", 1.0),
            ("res_multistep", "sgm_uniform", 0.6),
            ("dpmpp_2m_cfg_pp", "exponential", 0.6),
        ):

            def run(prefix: str, of: Any = (model, name, schedule, denoise)) -> Any:
                model, name, schedule, denoise = of
                return host.sample.sample(
                    model,
                    start(),
                    STEPS,
                    CFG,
                    prefix + name,
                    prefix + schedule,
                    *conditions(),
                    torch.zeros(LATENT),
                    denoise=denoise,
                    seed=SEED,
                    disable_pbar=True,
                )

            found[f"{name}, {schedule}, denoise {denoise}, {kind}"] = apart(run("ksched_"), run(""))
    return found


def check_previews(host: Any) -> dict[str, Any]:
    """How many pictures ComfyUI shows of a run, and whether its interruption ends the run with its own exception."""
    model = host.model("EPS")
    previews = importlib.import_module("latent_preview")
    host.args.preview_method = previews.LatentPreviewMethod.Latent2RGB
    sigmas = host.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)

    def pictures(last: int) -> int:
        shown = []

        def hook(value: int, total: int, preview: Any, **more: Any) -> None:
            shown.append(preview[1].size)
            host.model_management.interrupt_current_processing(len(shown) == last)
            host.model_management.throw_exception_if_processing_interrupted()  # as its server does here

        host.utils.set_progress_bar_global_hook(hook)
        try:
            sampled(host, model, chosen("dpmpp_2m"), sigmas, callback=previews.prepare_callback(model, STEPS))
        except host.model_management.InterruptProcessingException:
            return -len(shown)
        finally:
            host.utils.set_progress_bar_global_hook(None)
        return len(shown)

    return {"pictures": pictures(0), "interrupted": pictures(3) == -3}


def output(cls: Any, **inputs: Any) -> Any:
    """What a node of either kind returns, called as ComfyUI calls it."""
    made = getattr(cls(), cls.FUNCTION)(**inputs)
    return getattr(made, "result", made)[0]


def custom_sampling(host: Any, ours: dict[str, Any], batch: int, first_seed: int, **more: Any) -> torch.Tensor:
    """SamplerCustomAdvanced with our NOISE, SAMPLER and SIGMAS: a stochastic run, on a flow model.

    ``more`` is what the LATENT has besides.
    """
    stock = importlib.import_module("comfy_extras.nodes_custom_sampler")
    model = host.model(MODELS["flow"][0], **MODELS["flow"][1])
    positive, negative = conditions()
    given = {
        "noise": output(ours["KSchedNoise"], seed=first_seed),
        "guider": output(stock.CFGGuider, model=model, positive=positive, negative=negative, cfg=CFG),
        "sampler": output(ours["KSchedSampler_dpmpp_2m_sde"], eta=0.7),
        "sigmas": output(ours["KSchedSigmas"], model=model, schedule="beta57", steps=STEPS, denoise=1.0),
        "latent_image": {"samples": torch.zeros(batch, *LATENT[1:]), **more},
    }
    result: torch.Tensor = output(stock.SamplerCustomAdvanced, **given)["samples"]
    return result


def check_packages(host: Any) -> dict[str, Any]:
    """What ComfyUI finds in what the installer writes, of either kind: how many nodes, and how far they differ.

    ``alone`` is how far an image sampled alone is from the image in its batch, ``taken out`` one with its batch index.
    """
    nodes = importlib.import_module("nodes")
    found: dict[str, Any] = {}
    pictures = []
    for title, flags in (("classes", []), ("schemas", ["--schemas"])):
        before = dict(nodes.NODE_CLASS_MAPPINGS)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "custom_nodes").mkdir()
            assert command.main(["install", folder, *flags]) == 0
            loaded = asyncio.run(nodes.load_custom_node(str(Path(folder, "custom_nodes", "ksched"))))
        assert loaded
        new = {name: cls for name, cls in nodes.NODE_CLASS_MAPPINGS.items() if name not in before}
        for name, cls in new.items():
            assert cls.INPUT_TYPES().keys() >= {"required"}
            assert name in nodes.NODE_DISPLAY_NAME_MAPPINGS
            assert cls.RETURN_TYPES[0] in ("SAMPLER", "SIGMAS", "NOISE", "FLOAT")
            del nodes.NODE_CLASS_MAPPINGS[name]
        found[title] = len(new)
        with torch.inference_mode():
            pictures += [custom_sampling(host, new, 2, SEED), custom_sampling(host, new, 1, SEED + 1)]
            pictures += [custom_sampling(host, new, 1, SEED, batch_index=[1])]
    first, alone, taken, second, *_ = pictures
    found |= {"alone": apart(alone, first[1:]), "taken out": apart(taken, first[1:])}
    return {**found, "apart": apart(second, first)}


def main(path: Path) -> dict[str, Any]:
    """Everything."""
    host: Any = Host(path)
    with torch.inference_mode():
        report = {
            "version": host.version,
            "steps": STEPS,
            "levels": measure_levels(host),
            "samplers": measure_samplers(host, "karras", torch.float64),
            "in float32": measure_samplers(host, "simple", torch.float32),
            "flipped": measure_flipped(host),
            "masks": measure_masks(host),
            "menus": measure_menus(host),
            "previews": check_previews(host),
        }
    return {**report, "nodes": check_packages(host), "ours": len(NODES)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])), indent=1))

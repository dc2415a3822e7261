"""Loading diffusers pipelines for `StableDiffusion`, and finding what they were trained on.

Pipelines are read from a folder, assembled from modules, or converted from another task.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from ksched.dialects.diffusers.networks import prediction_of
from ksched.dialects.diffusers.process import process_of
from ksched.dialects.diffusers.words import prediction_word
from ksched.integrations.diffusers.scheduler import KSchedScheduler
from ksched.names.enums import Prediction
from ksched.processes import Process
from ksched.processes.resolution_shift import mu_for_tokens
from ksched.storage.texts import parse_json

__all__ = ["Trained", "assembled", "for_text", "read_folder"]

#: diffusers' names are resolved lazily, so type checkers do not know them
_LIBRARY: Any = diffusers

_FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline")


@dataclass(frozen=True)
class Trained:
    """What a model's scheduler says about its training."""

    settings: Mapping[str, Any]
    stock: str | None

    @classmethod
    def of(cls, scheduler: Any, overrides: Mapping[str, Any]) -> Trained:
        """The facts in a scheduler's configuration, with some settings overridden."""
        if "prediction_type" in overrides:
            overrides = {**overrides, "prediction_type": prediction_word(overrides["prediction_type"])}
        config = {**scheduler.config, "_class_name": type(scheduler).__name__, **overrides}
        config["_use_default_values"] = [
            name for name in config.get("_use_default_values", ()) if name not in overrides
        ]
        # sampler and schedule are named only so that the class's own method is not needed
        ours: Any = KSchedScheduler.from_diffusers(config, sampler="euler", schedule="simple")
        settings = {name: value for name, value in ours.config.items() if name[0] != "_" and value is not None}
        if settings["invert_sigmas"]:
            raise ValueError(f"invert_sigmas must be False, as for all models of this family; leave it out. {_ELSE}")
        return cls(settings, ours.config.stock_class)

    def process(self, tokens: float) -> Process:
        """The process for an image with this many tokens, by which some flow models are shifted."""
        s, mu = self.settings, None
        if s.get("use_dynamic_shifting"):
            names = {"base_mu": "base_shift", "max_mu": "max_shift"}
            names |= {"base_tokens": "base_image_seq_len", "max_tokens": "max_image_seq_len"}
            mu = mu_for_tokens(tokens, **{ours: s[theirs] for ours, theirs in names.items() if theirs in s})
        return process_of(s, self.stock, mu)

    def is_changed_by(self, other: Trained, name: str, tokens: float) -> bool:
        """Whether a changed setting has an effect; an unchanged one is fine."""
        same = self.settings.get(name) == other.settings.get(name)
        return same or self.process(tokens) != other.process(tokens) or self.prediction != other.prediction

    @property
    def prediction(self) -> Prediction:
        """What the network predicts."""
        return prediction_of({**self.settings, "_class_name": self.stock or ""})


#: advice for a model of another family
_ELSE = (
    "With any other pipeline, use ksched as its scheduler: from ksched.integrations.diffusers import KSchedScheduler, "
    "then pipe.scheduler = KSchedScheduler.from_diffusers(pipe.scheduler, sampler=..., schedule=...)"
)

#: name of the dtype argument of ``from_pretrained``; from 0.42 on (the first release checked) the old name warns
_DTYPE = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 42) else "torch_dtype"


def read_folder(folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline in a folder, loaded only from its own files.

    Raises
    ------
    FileNotFoundError, ValueError
        If a part is missing, or cannot be read.
    """
    _check_parts(folder)
    how: dict[str, Any] = {_DTYPE: dtype, "local_files_only": True}
    weights = [file.name for file in folder.glob("*/*.safetensors")]
    if weights and all(".fp16." in name for name in weights):
        how["variant"] = "fp16"
    try:
        with torch.random.fork_rng(devices=[]):  # modules draw initial weights before theirs are loaded
            return _LIBRARY.DiffusionPipeline.from_pretrained(folder, **how)
    except Exception as error:  # there are many kinds, and few name the file
        culprit = _culprit(folder)
        if culprit.suffix == ".json":
            part = culprit.relative_to(folder)
            raise ValueError(f"{folder} cannot be read: {part} is damaged: {_first_line(error)}") from error
        raise ValueError(f"{culprit} cannot be read: {_first_line(error)}") from error


def assembled(modules: Mapping[str, Any]) -> Any:
    """The pipeline of a family, assembled from its modules."""
    needed = {"vae", "text_encoder", "tokenizer", "scheduler", "transformer" if "transformer" in modules else "unet"}
    if missing := needed - modules.keys():
        raise ValueError(f"modules must have {', '.join(sorted(needed))}; {', '.join(sorted(missing))} is missing")
    if "transformer" in modules:
        rest = dict.fromkeys(("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))
        return _LIBRARY.StableDiffusion3Pipeline(**{**rest, **modules})
    if "text_encoder_2" in modules:
        return _LIBRARY.StableDiffusionXLPipeline(**{"add_watermarker": False, **modules})
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return _LIBRARY.StableDiffusionPipeline(**{**rest, **modules})


def for_text(pipeline: Any) -> Any:
    """The text-to-image pipeline with the modules of a given one, which may be for another task."""
    if not isinstance(pipeline, _LIBRARY.DiffusionPipeline):
        raise TypeError(f"pipeline must be a diffusers pipeline; got {type(pipeline).__name__}")
    families = tuple(getattr(_LIBRARY, name) for name in _FAMILIES)
    if not isinstance(pipeline, families):
        with contextlib.suppress(ValueError):
            pipeline = _LIBRARY.AutoPipelineForText2Image.from_pipe(pipeline)
    if not isinstance(pipeline, families):
        raise ValueError(
            f"pipeline must be one of Stable Diffusion 1, 2, XL or 3; got {type(pipeline).__name__}. {_ELSE}"
        )
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    seen, latent = network.config.in_channels, pipeline.vae.config.latent_channels
    if seen != latent:
        raise ValueError(
            f"the network's input must be the {latent} channels of a latent; it has {seen}, as networks trained for "
            "inpainting do. Use another model with a mask; any of them can inpaint"
        )
    return pipeline


def _check_parts(folder: Path) -> None:
    """Raise an error unless a folder has an index and every part that the index lists."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"a model must be a diffusers folder with model_index.json; {folder} has none")
    try:
        listed = parse_json(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{index} cannot be read: {error}") from None
    made_for = str(listed.get("_class_name")) if isinstance(listed, dict) else "list"
    if not made_for.startswith("StableDiffusion"):
        raise ValueError(f"{folder} must contain Stable Diffusion 1, 2, XL or 3; it contains {made_for}. {_ELSE}")
    parts = {name for name, made in listed.items() if isinstance(made, list) and made and made[0]}
    if missing := sorted(name for name in parts if not (folder / name).is_dir()):
        raise FileNotFoundError(f"{folder} must contain the parts in model_index.json; {', '.join(missing)} is missing")


def _culprit(folder: Path) -> Path:
    """The first damaged configuration or weights file, or the folder if none is damaged."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*/*.json")):
        try:
            parse_json(file.read_bytes(), constants=True)
        except (OSError, ValueError):
            return file
    for file in sorted(folder.glob("*/*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except Exception:
            return file
    return folder


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""The page of recipes, written from their data file."""

from __future__ import annotations

import math

from catalogue import table

import ksched
from ksched.model_settings.level_lists import mu_of
from ksched.model_settings.one_model import GUIDANCE_KINDS, Recipe

__all__ = ["recipe_page"]

DIFFUSERS = "diffusers 0.42.1"

INTRO = """# Recipes: what public models are sampled with

`ksched.recipes` has the sampler, noise levels, steps and guidance of public models and their distilled variants, each
fact with its source. `build` gives the sampler that the model's reference pipeline runs, for a number of steps and a
size:

```{doctest}
>>> import ksched
>>> recipe = ksched.recipes["qwen-image"]
>>> recipe.sampler, recipe.steps, dict(recipe.guidance)
('euler', 50, {'kind': 'cfg', 'scale': 4.0})
>>> recipe.build(steps=4, width=1328, height=1328).sigmas.round(4)
array([1.    , 0.781 , 0.4755, 0.02  , 0.    ])
>>> recipe.sources["steps"]
('huggingface/diffusers 0.42.1, src/diffusers/pipelines: qwenimage/pipeline_qwenimage.py',)
```

`ksched recipes` lists them, `ksched recipes qwen-image` shows one, with what to set in diffusers, ComfyUI and A1111 for
the same levels.

The lists of distilled models ("denoising steps") are read by `few_step`, as their programs mean them:

```{doctest}
>>> ksched.few_step([1000, 750, 500, 250], shift=5).round(4)
array([1.    , 0.9375, 0.8333, 0.625 , 0.    ])
```

Wan 2.2 has two networks. `guidance.experts` asks the one whose noise levels these are, and no other:

```{doctest}
>>> import torch
>>> from ksched import guidance
>>> wan = ksched.recipes["wan2.2-t2v-a14b"]
>>> dict(wan.experts)
{'high_noise': 0.875, 'low_noise': 0.0}
>>> calls = []
>>> def network(name):
...     return lambda x, sigma: (calls.append(name), 0 * x)[1]
>>> experts = guidance.experts({sigma: network(name) for name, sigma in wan.experts.items()})
>>> found = wan.build(steps=6).sample(experts, torch.zeros(1, 4))
>>> calls
['high_noise', 'high_noise', 'low_noise', 'low_noise', 'low_noise', 'low_noise']
```

A size that a model cannot make is refused, as its pipeline refuses it, or silently cuts it down:

```{doctest}
>>> wan.resolution.words(), dict(wan.latent)["temporal"]
('multiples of 16; 4 k + 1 frames; 720 x 1280, 480 x 832, 832 x 480', 4)
>>> wan.build(frames=80)
Traceback (most recent call last):
ValueError: wan2.2-t2v-a14b: frames must be 4 k + 1; got 80. Nearest are 77 and 81
```

Where sources differ, both are kept, and the notes say so. What no source could be found for is left out."""

NO_SOURCE = [
    ["LTX-Video 0.9.6 distilled", "its 8 levels, which are in the checkpoint alone"],
    ["LTX-Video 0.9.8 dev (13B)", "a run of it: guidance by level and skipped steps, at levels in the checkpoint"],
    ["Stable Audio 3, small", "anything: its configuration is not public; medium is above"],
    ["SDXL-Lightning", "the scale of guidance that its authors write"],
    ["Chroma1-HD", "the scheduler that its own pipeline ships with; ComfyUI's mu is above"],
    ["FLUX.1 Krea [dev]", "its own scheduler; FLUX.1 [dev]'s is above"],
    ["CogVideoX 1.5", "its snr_shift_scale"],
]


SIZES = (
    "A rule is what width and height must be multiples of, and how many frames there may be; `build` holds to it. "
    "**1 : 4 x 8** is one latent for four frames and for 8 x 8 pixels. A latent of the autoencoder is given to the "
    "network as `(z - shift) * scale`, or normalised by a mean and a standard deviation for each channel."
)


def recipe_page() -> str:
    """The page: what to run, what it was checked against, and where each fact can be read."""
    parts = [INTRO, "## Models"]
    parts += [
        "**mu** is the logarithm of the shift at the size shown. **Checked against** is the pipeline, at three numbers "
        f"of steps and two sizes, with the scheduler class and the configuration it ships with ({DIFFUSERS}), to a "
        "relative 1e-6 in sigmas and timesteps; or the list or formula that its authors published. For this "
        "comparison tables of betas are formed in float64, where some classes form them in float32. Click a heading to "
        "sort."
    ]
    columns = ["model", "name", "makes", "steps", "sampler", "levels", "mu or shift", "guidance", "checked against"]
    parts += [table(columns, map(row, ksched.recipes.values()))]
    parts += ["Guidance is " + "; ".join(f"*{kind}*: {text}" for kind, text in GUIDANCE_KINDS.items()) + "."]
    noted = [[f"`{own.name}`", " ".join(own.notes)] for own in ksched.recipes.values() if own.notes]
    parts += ["## Notes", table(["name", "note"], noted)]
    sized = [
        [f"`{own.name}`", size_of(own), own.resolution.words(), latent_of(own)]
        for own in ksched.recipes.values()
        if any(own.size) or own.resolution.words() or own.latent
    ]
    parts += ["## Sizes and latents", SIZES, table(["name", "by default", "rules, other sizes", "latent"], sized)]
    parts += ["## What no source could be had for", table(["model", "what is missing"], NO_SOURCE)]
    sourced = [
        [f"`{own.name}`", fact, "; ".join(places)]
        for own in ksched.recipes.values()
        for fact, places in own.sources.items()
    ]
    parts += ["## Sources", table(["name", "fact", "source"], sourced)]
    return "\n\n".join(parts) + "\n"


def size_of(recipe: Recipe) -> str:
    """Its own size."""
    width, height, frames = recipe.size
    parts = [f"{width} x {height}"] if width else []
    return ", ".join(parts + ([f"{frames} frames"] if frames else []))


def latent_of(recipe: Recipe) -> str:
    """Its latent space in words."""
    latent = recipe.latent
    parts = [f"{latent['channels']} channels"] if "channels" in latent else []
    places = [str(latent[name]) for name in ("temporal", "spatial") if name in latent]
    parts += [f"1 : {' x '.join(places)}"] if places else []
    parts += [f"{name} {latent[name]:g}" for name in ("scale", "shift") if name in latent]
    parts += [f"normalised {latent['normalised']}"] if "normalised" in latent else []
    return ", ".join(parts)


def row(recipe: Recipe) -> list[str]:
    """A model in the table."""
    guidance = " ".join(str(recipe.guidance[key]) for key in ("scale", "kind") if key in recipe.guidance)
    return [
        recipe.title,
        f"`{recipe.name}`",
        recipe.makes,
        str(recipe.steps),
        f"`{recipe.sampler}`",
        recipe.schedule or "its own list",
        shift_of(recipe),
        guidance,
        checked(recipe),
    ]


def shift_of(recipe: Recipe) -> str:
    """Its shift, or mu at its own size and steps."""
    if recipe.mu_rule:
        mu = mu_of(recipe.mu_rule, recipe.steps, recipe.size)
        linear = recipe.config.get("time_shift_type") == "linear"
        return f"shift {mu:.3g}" if linear else f"mu {mu:.3g} (shift {math.exp(mu):.3g})"
    shift = recipe.config.get("flow_shift", recipe.config.get("shift"))
    return f"shift {shift:g}" if shift is not None and recipe.process.is_flow else ""


def checked(recipe: Recipe) -> str:
    """What its levels were compared with."""
    if recipe.pipeline is not None:
        return f"`{recipe.pipeline}`"
    return "its published list" if recipe.listed is not None else "its published formula"

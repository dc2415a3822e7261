"""Writes the page of recipes from the data file of the recipes."""

from __future__ import annotations

import math

from catalogue import table

import ksched
from ksched.model_settings.level_lists import mu_of
from ksched.model_settings.one_model import GUIDANCE_KINDS, Recipe

__all__ = ["recipe_page"]

DIFFUSERS = "diffusers 0.42.1"

INTRO = """# Recipes: how public models are sampled

Use this page to sample a public model with the settings of its authors. `ksched.recipes` has the sampler, sigmas,
number of steps and guidance of public models and their distilled variants, each fact with its source. `build` returns
the sampler that the model's reference pipeline runs, for your number of steps and size:

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

On the command line, `ksched recipes` lists them. `ksched recipes qwen-image` shows one, with the settings for
diffusers, ComfyUI and A1111 that give the same sigmas.

Distilled models often come with a list of "denoising steps". `few_step` turns such a list into sigmas, as the
programs of these models do:

```{doctest}
>>> ksched.few_step([1000, 750, 500, 250], shift=5).round(4)
array([1.    , 0.9375, 0.8333, 0.625 , 0.    ])
```

Wan 2.2 has two networks. `guidance.experts` calls only the one whose range the current sigma is in:

```{doctest}
>>> import torch
>>> from ksched import guidance
>>> wan = ksched.recipes["wan2.2-t2v-a14b"]
>>> dict(wan.experts)
{'high_noise': 0.875, 'low_noise': 0.0}
>>> calls = []
>>> def network(name):
...     return lambda x, sigma: (calls.append(name), 0 * x)[1]
>>> experts = guidance.experts(
...     {sigma: network(name) for name, sigma in wan.experts.items()})
>>> found = wan.build(steps=6).sample(experts, torch.zeros(1, 4))
>>> calls
['high_noise', 'high_noise', 'low_noise', 'low_noise', 'low_noise', 'low_noise']
```

`build` raises an error for a size that the model cannot make. The model's pipeline raises one too, or silently changes
the size:

```{doctest}
>>> wan.resolution.words(), dict(wan.latent)["temporal"]
('multiples of 16; 4 k + 1 frames; 720 x 1280, 480 x 832, 832 x 480', 4)
>>> wan.build(frames=80)
Traceback (most recent call last):
ValueError: wan2.2-t2v-a14b: frames must be 4 k + 1; got 80. Nearest are 77 and 81
```

Where sources disagree, the recipe keeps both, and the notes say so. Facts without a source are left out."""

NO_SOURCE = [
    ["LTX-Video 0.9.6 distilled", "its 8 sigmas, which are only in the checkpoint"],
    [
        "LTX-Video 0.9.8 dev (13B)",
        "its run: guidance that depends on sigma and skipped steps, at sigmas in the checkpoint",
    ],
    ["Stable Audio 3, small", "everything: its configuration is not public; medium is above"],
    ["SDXL-Lightning", "the guidance scale of its authors"],
    ["Chroma1-HD", "the scheduler of its own pipeline; ComfyUI's mu is above"],
    ["FLUX.1 Krea [dev]", "its own scheduler; FLUX.1 [dev]'s is above"],
    ["CogVideoX 1.5", "its snr_shift_scale"],
]


SIZES = (
    "The rules say what width and height must be multiples of, and how many frames are allowed; `build` enforces them. "
    "**1 : 4 x 8** means one latent per four frames and per 8 x 8 pixels. The network receives a latent of the "
    "autoencoder as `(z - shift) * scale`, or normalised by a mean and a standard deviation per channel."
)


def recipe_page() -> str:
    """The page: what to run, what it was checked against, and the source of each fact."""
    parts = [INTRO, "## Models"]
    parts += [
        "**mu** is the logarithm of the shift at the size shown. **Checked against** names the pipeline whose sigmas "
        "and timesteps the recipe matches to a relative 1e-6, at three numbers of steps and two sizes, with the "
        f"scheduler class and configuration that it ships with ({DIFFUSERS}); or else the list or formula that its "
        "authors published. For this comparison, tables of betas are computed in float64, although some classes "
        "compute them in float32. Click a heading to sort."
    ]
    columns = ["model", "name", "makes", "steps", "sampler", "sigmas", "mu or shift", "guidance", "checked against"]
    parts += [table(columns, map(row, ksched.recipes.values()))]
    parts += ["The kinds of guidance: " + "; ".join(f"*{kind}*: {text}" for kind, text in GUIDANCE_KINDS.items()) + "."]
    noted = [[f"`{own.name}`", " ".join(own.notes)] for own in ksched.recipes.values() if own.notes]
    parts += ["## Notes", table(["name", "note"], noted)]
    sized = [
        [f"`{own.name}`", size_of(own), own.resolution.words(), latent_of(own)]
        for own in ksched.recipes.values()
        if any(own.size) or own.resolution.words() or own.latent
    ]
    parts += ["## Sizes and latents", SIZES, table(["name", "default size", "rules, other sizes", "latent"], sized)]
    parts += ["## Facts without a source", table(["model", "what is missing"], NO_SOURCE)]
    sourced = [
        [f"`{own.name}`", fact, "; ".join(places)]
        for own in ksched.recipes.values()
        for fact, places in own.sources.items()
    ]
    parts += ["## Sources", table(["name", "fact", "source"], sourced)]
    return "\n\n".join(parts) + "\n"


def size_of(recipe: Recipe) -> str:
    """The default size of a recipe."""
    width, height, frames = recipe.size
    parts = [f"{width} x {height}"] if width else []
    return ", ".join(parts + ([f"{frames} frames"] if frames else []))


def latent_of(recipe: Recipe) -> str:
    """The latent space of a recipe in words."""
    latent = recipe.latent
    parts = [f"{latent['channels']} channels"] if "channels" in latent else []
    places = [str(latent[name]) for name in ("temporal", "spatial") if name in latent]
    parts += [f"1 : {' x '.join(places)}"] if places else []
    parts += [f"{name} {latent[name]:g}" for name in ("scale", "shift") if name in latent]
    parts += [f"normalised {latent['normalised']}"] if "normalised" in latent else []
    return ", ".join(parts)


def row(recipe: Recipe) -> list[str]:
    """A row of the table of models."""
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
    """The shift of a recipe, or mu at its default size and steps."""
    if recipe.mu_rule:
        mu = mu_of(recipe.mu_rule, recipe.steps, recipe.size)
        linear = recipe.config.get("time_shift_type") == "linear"
        return f"shift {mu:.3g}" if linear else f"mu {mu:.3g} (shift {math.exp(mu):.3g})"
    shift = recipe.config.get("flow_shift", recipe.config.get("shift"))
    return f"shift {shift:g}" if shift is not None and recipe.process.is_flow else ""


def checked(recipe: Recipe) -> str:
    """What the sigmas of a recipe were compared with."""
    if recipe.pipeline is not None:
        return f"`{recipe.pipeline}`"
    return "its published list" if recipe.listed is not None else "its published formula"

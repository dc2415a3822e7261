"""Images from text with diffusers' weights: ksched provides sampler and schedule, diffusers everything else.

>>> from ksched.stable_diffusion import SamplingConfig, StableDiffusion
>>> config = SamplingConfig(prompt="a red fox", sampler="euler_ancestral", schedule="karras", steps=30)

``StableDiffusion.from_folder("path/to/model").generate(config)`` then returns images.
"""

from importlib.util import find_spec

_MISSING = [name for name in ("diffusers", "transformers") if find_spec(name) is None]
if _MISSING:
    raise ImportError(f"this needs {' and '.join(_MISSING)}: pip install 'ksched[diffusers]'")

from ksched.stable_diffusion.adapter import StableDiffusion  # noqa: E402 - it imports what may be missing
from ksched.stable_diffusion.config import POPULAR, PRESETS, SamplingConfig  # noqa: E402 - as above
from ksched.stable_diffusion.files import read_config, save_png  # noqa: E402 - as above
from ksched.stable_diffusion.jobs import Cancelled, Progress  # noqa: E402 - as above

__all__ = [
    "POPULAR",
    "PRESETS",
    "Cancelled",
    "Progress",
    "SamplingConfig",
    "StableDiffusion",
    "read_config",
    "save_png",
]

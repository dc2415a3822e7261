"""`StableDiffusion`: images of a configuration, in memory or as files of a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ksched.stable_diffusion import jobs
from ksched.stable_diffusion.components import Components
from ksched.stable_diffusion.config import SamplingConfig
from ksched.stable_diffusion.files import Picture
from ksched.stable_diffusion.jobs import Cancel, Progress
from ksched.stable_diffusion.loading import read_folder
from ksched.storage.files import path_of

__all__ = ["StableDiffusion"]


class StableDiffusion(Components):
    """A model of the Stable Diffusion family: SD 1 and 2, SDXL, SD 3.

    Parameters
    ----------
    pipeline : a pipeline of diffusers with such a model, whatever it is for; or None, and its modules by name. Devices,
        dtypes, slicing, tiling and offload are set on the pipeline, which is `pipeline` here too
    modules : ``unet=`` or ``transformer=``, ``vae=``, ``text_encoder=``, ``tokenizer=``, ``scheduler=``, and what else
        the pipeline of the family takes

    Raises
    ------
    TypeError : neither a pipeline nor modules, or both
    ValueError : a model of another family, a module that is missing

    Notes
    -----
    Start noise is what diffusers draws from ``torch.Generator("cpu").manual_seed(seed)``, in float32 on every device;
    the noise of stochastic samplers is ksched's own of that seed. So an image depends on its own seed, and not on how
    many are drawn with it.
    """

    @classmethod
    def from_folder(
        cls, path: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StableDiffusion:
        """The model in a folder of diffusers; nothing is downloaded.

        Parameters
        ----------
        path : with ``model_index.json``
        device : None leaves it on the processor
        dtype : of all weights; None is float32 on the processor and float16 elsewhere

        Raises
        ------
        FileNotFoundError : no such folder, or a part of it is missing
        ValueError : a part that cannot be read, or a model of another family
        """
        on_host = device is None or torch.device(device).type == "cpu"
        folder = path_of("path", path)
        pipeline = read_folder(folder, dtype or (torch.float32 if on_host else torch.float16))
        made = cls(pipeline if device is None else pipeline.to(device))
        made.name = folder.resolve().name
        return made

    def generate(
        self,
        config: SamplingConfig,
        *,
        init_image: Picture | None = None,
        mask: Picture | None = None,
        batch_size: int = 1,
        progress: Callable[[Progress], object] | bool = False,
        preview: Callable[[Image.Image, Progress], object] | None = None,
        cancel: Cancel | None = None,
    ) -> list[Image.Image]:
        """Pictures of a configuration, which carry it (see `save_png`).

        Parameters
        ----------
        config : what to draw
        init_image : a picture or its path, to change by ``config.strength``; resized to the configuration's size if it
            has one, and else down to multiples of `multiple`
        mask : white where to change the picture, black where to keep it, every pixel as it is; grey blends
        batch_size : images to draw at once. Images are the same to rounding whatever it is, and byte for byte if it is
            1; more is faster on a GPU
        progress : called with a `Progress` at every step; True shows a bar (needs the extra ``cli``)
        preview : called at every step with a small picture of what is coming, of a pixel for each latent cell
        cancel : a function that returns True to stop, or a `threading.Event`; asked at every step

        Raises
        ------
        Cancelled : ``cancel`` said so; its ``finished`` are the pictures so far
        TypeError, ValueError : what does not fit together, before the first model call
        """
        how: dict[str, Any] = {"progress": progress, "preview": preview, "cancel": cancel, "batch_size": batch_size}
        return jobs.generate(self, config, init_image=init_image, mask=mask, **how)

    def run(
        self,
        config: SamplingConfig,
        out_dir: str | Path,
        *,
        init_image: Picture | None = None,
        mask: Picture | None = None,
        numbers: Sequence[int] | None = None,
        batch_size: int = 1,
        progress: Callable[[Progress], object] | bool = False,
        preview: Callable[[Image.Image, Progress], object] | None = None,
        cancel: Cancel | None = None,
    ) -> list[Path]:
        """Pictures of a configuration as files ``00000.png`` and on, which carry it; what is there already stays.

        Run the same again after an end of any kind, and it goes on where it was.

        Parameters
        ----------
        config : what to draw
        out_dir : a new folder, or that of the same batch, which its ``manifest.json`` tells
        numbers : images of the batch to draw, from 0; None is all. Those who share a folder take different ones
        init_image, mask, batch_size, progress, preview, cancel : as for `generate`

        Returns
        -------
        the files of these numbers

        Raises
        ------
        Cancelled : ``cancel`` said so; its ``finished`` are the files so far
        OSError : a full disk, a folder that cannot be written to; no file is half written
        TypeError, ValueError : what does not fit together, a folder of another batch, before the first model call
        """
        how: dict[str, Any] = {"progress": progress, "preview": preview, "cancel": cancel, "batch_size": batch_size}
        return jobs.run(
            self, config, path_of("out_dir", out_dir), init_image=init_image, mask=mask, numbers=numbers, **how
        )

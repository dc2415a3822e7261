"""`StableDiffusion`: generates the images of a configuration, in memory or as files in a folder."""

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
    pipeline : DiffusionPipeline or None
        A diffusers pipeline with such a model, for any task; or None, with the modules passed by name. Set devices,
        dtypes, slicing, tiling and offload on the pipeline, which is also the attribute `pipeline`.
    modules : object
        ``unet=`` or ``transformer=``, ``vae=``, ``text_encoder=``, ``tokenizer=``, ``scheduler=``, and any other module
        of the family's pipeline.

    Raises
    ------
    TypeError
        If neither a pipeline nor modules are given, or both.
    ValueError
        If the model is of another family, or a module is missing.

    Notes
    -----
    Start noise is drawn from ``torch.Generator("cpu").manual_seed(seed)`` as in diffusers, in float32 on every device.
    The noise of stochastic samplers is ksched's own, with the same seed. An image therefore depends on its own seed
    only, and not on how many are drawn together.
    """

    @classmethod
    def from_folder(
        cls, path: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StableDiffusion:
        """Load the model from a diffusers folder; nothing is downloaded.

        Parameters
        ----------
        path : str or Path
            Folder with ``model_index.json``.
        device : device, str or None
            None leaves the model on the CPU.
        dtype : dtype or None
            Dtype of all weights; None is float32 on the CPU and float16 elsewhere.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or a part of it is missing.
        ValueError
            If a part cannot be read, or the model is of another family.
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
        """Generate the images of a configuration; each image carries it (see `save_png`).

        Parameters
        ----------
        config : SamplingConfig
            What to draw.
        init_image : Image, str, Path or None
            An image or its path, to change by ``config.strength``. It is resized to the configuration's size if it has
            one, and otherwise down to multiples of `multiple`.
        mask : Image, str, Path or None
            White where to change the image, black where to keep every pixel as it is; grey blends.
        batch_size : int
            Number of images to draw at once. Images are the same to rounding for any value, and byte for byte with 1;
            larger values are faster on a GPU.
        progress : callable or bool
            Called with a `Progress` at every step; True shows a bar (needs the extra ``cli``).
        preview : callable or None
            Called at every step with a small preview image, one pixel per latent cell.
        cancel : Cancel or None
            A function that returns True to stop, or a `threading.Event`; checked at every step.

        Raises
        ------
        Cancelled
            If ``cancel`` stopped the job; its ``finished`` are the images so far.
        TypeError, ValueError
            If arguments do not fit together; raised before the first model call.
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
        """Generate images into files ``00000.png`` and so on, each with its configuration; existing files stay.

        After an interruption of any kind, run the same again to continue.

        Parameters
        ----------
        config : SamplingConfig
            What to draw.
        out_dir : str or Path
            A new folder, or the folder of the same batch, as recorded in its ``manifest.json``.
        numbers : sequence of int or None
            Numbers of the images to draw, from 0; None is all. Processes that share a folder take different ones.
        init_image, mask, batch_size, progress, preview, cancel : Image, str, Path, int, callable, bool, Cancel or None
            As for `generate`.

        Returns
        -------
        list of Path
            The files of these numbers.

        Raises
        ------
        Cancelled
            If ``cancel`` stopped the job; its ``finished`` are the files so far.
        OSError
            If the disk is full, or the folder cannot be written to; no file is left half written.
        TypeError, ValueError
            If arguments do not fit together, or the folder belongs to another batch; raised before the first model
            call.
        """
        how: dict[str, Any] = {"progress": progress, "preview": preview, "cancel": cancel, "batch_size": batch_size}
        return jobs.run(
            self, config, path_of("out_dir", out_dir), init_image=init_image, mask=mask, numbers=numbers, **how
        )

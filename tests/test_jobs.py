"""Jobs: image to image, inpainting, previews, stopping at any moment, resuming; and full disks."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from representatives import is_form, short

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image
from tiny_pipelines import PROMPT, build, toy_image, toy_mask

from ksched import SamplerType
from ksched.samplers.registry import sampler_spec
from ksched.stable_diffusion import (
    Cancelled,
    Progress,
    SamplingConfig,
    StableDiffusion,
    read_config,
    save_png,
)

# what diffusers and transformers warn of is their own affair
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning"),
]

CONFIG = SamplingConfig(PROMPT, steps=2, guidance_scale=3.0, seed=7, sampler="euler_ancestral", schedule="karras")
BATCH = replace(CONFIG, count=4)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return StableDiffusion(build("sd15").pipe)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pixels(image: Image.Image) -> Any:
    return np.array(image).astype(int)


# ----------------------------------------------------------------------------------------------------- what is drawn


def test_an_image_is_the_same_alone_and_in_a_batch(model: StableDiffusion) -> None:
    images = model.generate(BATCH)
    assert len(images) == 4
    assert images[2].tobytes() == model.generate(replace(CONFIG, seed=9))[0].tobytes()
    for one, other in zip(images, model.generate(BATCH, batch_size=3), strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1  # to rounding
    assert len({image.tobytes() for image in images}) == 4


def test_image_to_image_keeps_more_at_less_strength(model: StableDiffusion) -> None:
    config = replace(CONFIG, steps=10, sampler="euler", schedule="simple")
    start = toy_image()
    weak, strong = (model.generate(replace(config, strength=strength), init_image=start)[0] for strength in (0.1, 1.0))
    # a decoder of random weights brings nothing back, but latents that changed less decode to what is nearer
    again = model.decode(model.encode(torch.tensor(np.array(start) / 127.5 - 1).permute(2, 0, 1)[None], [_rng()]))
    kept = (255 * again[0].permute(1, 2, 0).numpy()).round()
    assert np.abs(pixels(weak) - kept).mean() < np.abs(pixels(strong) - kept).mean()


def _rng() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(7)


SAMPLERS = [name for name in SamplerType if not sampler_spec(name).adaptive]


@short(lambda sampler: is_form(sampler))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpainting_with_any_sampler(model: StableDiffusion, sampler: str) -> None:
    config = replace(CONFIG, sampler=sampler, strength=1.0)
    original, mask = toy_image(), toy_mask()
    made = model.generate(config, init_image=original, mask=mask)[0]
    keep = np.array(mask) == 0
    assert np.array_equal(pixels(made)[keep], pixels(original)[keep])
    assert (pixels(made)[~keep] != pixels(original)[~keep]).mean() > 0.5


def test_the_latents_around_the_mask_are_those_of_the_image(model: StableDiffusion) -> None:
    config = replace(CONFIG, width=32, height=32)
    init = torch.tensor(np.array(toy_image()) / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
    mask = torch.tensor(np.array(toy_mask()) / 255, dtype=torch.float32)[None, None]
    latents = model.prepare(config, init=init, mask=mask)([7])
    kept = torch.nn.functional.max_pool2d(mask, 2)[0, 0] == 0
    clean = model.encode(init, [_rng()])
    assert torch.equal(latents[..., kept], clean[..., kept])
    assert not torch.equal(latents, clean)


def test_a_soft_mask_blends(model: StableDiffusion) -> None:
    grey = Image.new("L", (32, 32), 128)
    made = model.generate(CONFIG, init_image=toy_image(), mask=grey)[0]
    full = model.generate(CONFIG, init_image=toy_image(), mask=Image.new("L", (32, 32), 255))[0]
    near, far = (np.abs(pixels(image) - pixels(toy_image())).mean() for image in (made, full))
    assert 0 < near < far


def test_sizes_of_pictures(model: StableDiffusion, tmp_path: Path) -> None:
    path = tmp_path / "start.png"
    toy_image(64).save(path)
    assert model.generate(CONFIG, init_image=path)[0].size == (64, 64)
    small = replace(CONFIG, width=32, height=24)
    made = model.generate(small, init_image=path, mask=toy_mask(64))[0]
    resized = toy_image(64).resize((32, 24), Image.Resampling.LANCZOS)
    keep = np.array(toy_mask(64).resize((32, 24), Image.Resampling.NEAREST)) == 0
    assert np.array_equal(pixels(made)[keep], pixels(resized)[keep])


# ------------------------------------------------------------------------------------------- progress, previews, cancel


def test_progress_and_previews(model: StableDiffusion) -> None:
    steps: list[Progress] = []
    seen: list[Image.Image] = []
    calls = []
    hook = model.pipeline.vae.decoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    images = model.generate(
        replace(CONFIG, steps=4, count=2), progress=steps.append, preview=lambda image, place: seen.append(image)
    )
    hook.remove()
    assert [(p.image, p.images, p.step, p.steps) for p in steps] == [(i, 2, k, 4) for i in (0, 1) for k in range(4)]
    assert {image.size for image in seen} == {(16, 16)}
    assert len(calls) == 3  # one to fit the colours, and one for each image
    quiet = model.generate(replace(CONFIG, steps=4, count=2))
    assert [image.tobytes() for image in quiet] == [image.tobytes() for image in images]


def test_a_preview_is_exact_where_the_decoder_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    model = StableDiffusion(build("sd15").pipe)
    colours = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 3.0], [-2.0, 0.0, 1.0, 0.0]]) / 1000

    def decode(latents: torch.Tensor) -> torch.Tensor:
        cells = torch.einsum("bchw,dc->bdhw", latents, colours) + 0.5
        return torch.nn.functional.interpolate(cells, scale_factor=2.0, mode="nearest")

    monkeypatch.setattr(model, "decode", decode)
    seen: list[Image.Image] = []
    [image] = model.generate(CONFIG, preview=lambda image, place: seen.append(image))
    whole = pixels(image.resize((16, 16), Image.Resampling.BOX))
    assert np.abs(pixels(seen[-1]) - whole).max() <= 1


def test_a_bar(model: StableDiffusion, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    model.generate(replace(CONFIG, count=3), progress=True)
    assert "6/6" in capsys.readouterr().err


def after(calls: int, then: Callable[[], object]) -> Callable[..., object]:
    """A callback that does something at its last call but so many."""
    left = [calls]

    def called(*_: object) -> object:
        left[0] -= 1
        return then() if left[0] < 0 else False

    return called


def test_cancel_by_a_function(model: StableDiffusion) -> None:
    with pytest.raises(Cancelled, match="cancelled; 2 finished") as caught:
        model.generate(BATCH, cancel=after(6, lambda: True))
    whole = model.generate(BATCH)
    assert [image.tobytes() for image in caught.value.finished] == [image.tobytes() for image in whole[:2]]


def test_cancel_by_an_event(model: StableDiffusion, tmp_path: Path) -> None:
    event = threading.Event()
    with pytest.raises(Cancelled) as caught:
        model.run(BATCH, tmp_path, cancel=event, progress=after(2, event.set))
    assert [path.name for path in caught.value.finished] == ["00000.png"]
    with pytest.raises(Cancelled, match="cancelled; 0 finished"):
        model.generate(BATCH, cancel=event)
    with pytest.raises(TypeError, match=r"cancel must be a function or a threading\.Event; got int"):
        model.generate(BATCH, cancel=3)  # type: ignore[arg-type]


class StopError(Exception):
    pass


def stop() -> None:
    raise StopError


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)  # what Ctrl-C does


@pytest.mark.parametrize(("then", "kind"), [(stop, StopError), (interrupt, KeyboardInterrupt)])
def test_an_end_at_any_moment_and_on_from_there(
    model: StableDiffusion, tmp_path: Path, then: Callable[[], object], kind: type[BaseException]
) -> None:
    model.run(BATCH, tmp_path / "whole")
    whole = bytes_in(tmp_path / "whole")
    part = tmp_path / "part"
    with pytest.raises(kind):
        model.run(BATCH, part, progress=after(5, then))
    before = {path.name: path.stat().st_mtime_ns for path in part.iterdir()}
    assert set(before) == {"manifest.json", "00000.png", "00001.png"}
    drawn: list[int] = []
    paths = model.run(BATCH, part, progress=lambda place: drawn.append(place.image))
    assert [path.name for path in paths] == [f"0000{i}.png" for i in range(4)]
    assert sorted(set(drawn)) == [2, 3]
    assert bytes_in(part) == whole
    assert {name: (part / name).stat().st_mtime_ns for name in before} == before
    assert model.run(BATCH, part, progress=lambda place: pytest.fail("drew again")) == paths


# ------------------------------------------------------------------------------------------------------------- batches


def test_batches_of_several_resume_to_the_byte(model: StableDiffusion, tmp_path: Path) -> None:
    config = replace(CONFIG, count=5)
    model.run(config, tmp_path / "whole", batch_size=2)
    whole = bytes_in(tmp_path / "whole")
    part = tmp_path / "part"
    model.run(config, part, batch_size=2)
    for name in ("00001.png", "00004.png"):
        (part / name).unlink()
    model.run(config, part, batch_size=2)
    assert bytes_in(part) == whole


def test_a_batch_grows_and_is_shared(model: StableDiffusion, tmp_path: Path) -> None:
    model.run(BATCH, tmp_path / "whole")
    grown = tmp_path / "grown"
    model.run(replace(BATCH, count=2), grown)
    assert [path.name for path in model.run(BATCH, grown, numbers=[3])] == ["00003.png"]
    model.run(BATCH, grown, numbers=range(1, 3))
    assert bytes_in(grown) == bytes_in(tmp_path / "whole")
    assert len(model.run(replace(BATCH, count=1), grown)) == 1
    assert bytes_in(grown) == bytes_in(tmp_path / "whole")
    with pytest.raises(ValueError, match="numbers of images must be from 0 to 3; got 4"):
        model.run(BATCH, grown, numbers=[4])
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1; got 0"):
        model.generate(BATCH, batch_size=0)


def test_a_folder_of_another_batch_is_left_alone(model: StableDiffusion, tmp_path: Path) -> None:
    model.run(CONFIG, tmp_path)
    before = bytes_in(tmp_path)
    for other, said in (
        ({"steps": 3}, "another steps;"),
        ({"seed": 8}, "another seed;"),
        ({"sampler": "heun", "schedule": "beta"}, "another sampler, another schedule;"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another batch, with {said}"):
            model.run(replace(CONFIG, **other), tmp_path)
    with pytest.raises(ValueError, match="another init_image"):
        model.run(CONFIG, tmp_path, init_image=toy_image())
    assert bytes_in(tmp_path) == before
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json must be a batch's manifest; choose another folder"):
        model.run(CONFIG, tmp_path)


def test_a_file_that_is_another_image_is_left_alone(model: StableDiffusion, tmp_path: Path) -> None:
    toy_image().save(tmp_path / "00000.png")
    before = (tmp_path / "00000.png").read_bytes()
    with pytest.raises(
        ValueError, match=r"00000\.png has the name of an image of this batch, but is not that image; move it away"
    ):
        model.run(CONFIG, tmp_path)
    assert (tmp_path / "00000.png").read_bytes() == before


# ----------------------------------------------------------------------------------------------- what a picture carries


def test_a_picture_repeats_itself_to_the_byte(model: StableDiffusion, tmp_path: Path) -> None:
    config = replace(BATCH, prompt='ein roter Füchs, "狐" 🦊', sampler_options={"eta": 0.5})
    path = model.run(config, tmp_path / "first")[2]
    carried = read_config(path)
    assert carried == replace(config, seed=9, count=1, width=32, height=32)
    again = model.generate(carried)[0]
    save_png(again, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == path.read_bytes()
    with Image.open(path) as image:
        assert read_config(image) == carried == read_config(again)


def test_pictures_that_carry_nothing(tmp_path: Path) -> None:
    toy_image().save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match=r"plain\.png must carry a ksched configuration"):
        read_config(tmp_path / "plain.png")
    with pytest.raises(FileNotFoundError, match="picture must be an existing file"):
        read_config(tmp_path / "none.png")
    buffer = io.BytesIO()
    toy_image().save(buffer, "PNG")
    (tmp_path / "half.png").write_bytes(buffer.getvalue()[:100])
    with pytest.raises(ValueError, match=r"must be a readable image; .*half\.png"):
        read_config(tmp_path / "half.png")


# ---------------------------------------------------------------------------------------------------------------- disks


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk(model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    model.run(replace(BATCH, count=2), tmp_path / "out")
    before = bytes_in(tmp_path / "out")
    model.run(BATCH, tmp_path / "out", numbers=[])  # the manifest of the larger batch
    before["manifest.json"] = (tmp_path / "out" / "manifest.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(
        OSError, match=r"cannot write .*00002\.png: No space left on device\. Finished files are intact"
    ) as caught:
        model.run(BATCH, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert bytes_in(tmp_path / "out") == before
    monkeypatch.undo()
    model.run(BATCH, tmp_path / "out")
    model.run(BATCH, tmp_path / "whole")
    assert bytes_in(tmp_path / "out") == bytes_in(tmp_path / "whole")


def test_a_disk_that_is_full_from_the_start(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*manifest\.json: No space left"):
        model.run(CONFIG, tmp_path / "out", progress=lambda place: pytest.fail("drew before it wrote"))
    assert bytes_in(tmp_path / "out") == {}


def test_a_folder_that_cannot_be_made(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=f"cannot use {out} for images: ") as caught:
            model.run(CONFIG, out, progress=lambda place: pytest.fail("drew before it wrote"))
        assert isinstance(caught.value, FileExistsError | NotADirectoryError)


def test_an_unwritable_folder(model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    if os.access(out, os.W_OK):  # the superuser may write anywhere
        opened = Path.open

        def refused(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "w" in mode and out in self.parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            return opened(self, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError, match=r"cannot write .*manifest\.json: Permission denied"):
        model.run(CONFIG, out, progress=lambda place: pytest.fail("drew before it wrote"))
    assert bytes_in(out) == {}


def test_what_a_killed_run_left_is_written_over(model: StableDiffusion, tmp_path: Path) -> None:
    model.run(CONFIG, tmp_path / "whole")
    part = tmp_path / "part"
    part.mkdir()
    (part / ".00000.png.part").write_bytes(b"half")
    model.run(CONFIG, part)
    assert bytes_in(part) == bytes_in(tmp_path / "whole")


def test_mistakes_are_found_before_anything_is_written(model: StableDiffusion, tmp_path: Path) -> None:
    for wrong in (
        replace(CONFIG, schedule="karras", schedule_options={"sigma_max": 0.001}),
        replace(CONFIG, process={"beta_schedule": "straight"}),
        replace(CONFIG, process={"rescale_betas_zero_snr": True}),
    ):
        with pytest.raises(ValueError, match=r".+"):
            model.run(wrong, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_items_have_the_seeds_that_were_given(model: StableDiffusion) -> None:
    """Seeds may come in any order; each picture depends on its own seed only."""
    config = replace(CONFIG, seed=(9, 4, 30), count=3)
    together = model.generate(config)
    for image, seed in zip(together, (9, 4, 30), strict=True):
        assert np.array_equal(pixels(image), pixels(model.generate(replace(CONFIG, seed=seed))[0]))


def test_inpainting_from_pure_noise_starts_anew(model: StableDiffusion) -> None:
    """At strength 1 with a mask over all, nothing of the original is left: any two give one picture."""
    everything = Image.new("L", (32, 32), 255)
    config = replace(CONFIG, width=32, height=32, strength=1.0)
    one, other = (
        model.generate(config, init_image=original, mask=everything)[0]
        for original in (toy_image(), Image.new("RGB", (32, 32), (200, 10, 10)))
    )
    assert np.array_equal(pixels(one), pixels(other))

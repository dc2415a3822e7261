"""``ksched generate``, ``compare`` and ``show``: the images, the files that stay, and the error messages."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines
import torch
from command import Answer, Command, command_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import ksched.cli.app  # noqa: F401 - now, since rich moves the state of `random` when it is imported
from ksched.cli import image_options
from ksched.pictures import sheet
from ksched.stable_diffusion import SamplingConfig, StableDiffusion, read_config

SMALL = ("--steps", "2", "--width", "16", "--height", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipelines.build("sd15").pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> StableDiffusion:
    with image_options.quiet():
        return StableDiffusion.from_folder(folder)


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    folder: Path,
    model: StableDiffusion,
) -> Command:
    """The command in this process and an empty folder, with a tiny model as the one that is shipped."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(image_options, "SHIPPED", folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    read = StableDiffusion.from_folder

    def cached(path: Path, **how: Any) -> StableDiffusion:
        return model if path == folder and how["dtype"] is None else read(path, **how)

    monkeypatch.setattr(StableDiffusion, "from_folder", cached)
    monkeypatch.chdir(tmp_path)

    return command_of(capsys)


def succeed(answer: Answer) -> list[str]:
    assert answer.code == 0, answer.err
    return answer.out.splitlines()


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


# ----------------------------------------------------------------------------------------------------- what is drawn


def test_a_prompt(command: Command, model: StableDiffusion) -> None:
    sampler = (
        "--sampler",
        "DPM++ 2M SDE",
        "--schedule",
        "karras",
        "-o",
        "eta=0.5",
        "-o",
        "rho=5",
        "-o",
        "sigma_min=0.1",
    )
    other = (
        "--negative",
        "snow",
        "--guidance",
        "3",
        "--guidance-rescale",
        "0.2",
        "--seed",
        "9",
        "--out",
        "new/fox.png",
    )
    code, out, err = command("generate", "a red fox", *SMALL, *sampler, *other)
    assert (code, out, err) == (0, f"{Path('new', 'fox.png')}\n", "")  # no bar, as nobody watches
    config = SamplingConfig(
        "a red fox",
        negative_prompt="snow",
        steps=2,
        guidance_scale=3,
        guidance_rescale=0.2,
        seed=9,
        width=16,
        height=16,
        sampler="dpmpp_2m_sde",
        schedule="karras",
        sampler_options={"eta": 0.5},
        schedule_options={"rho": 5.0, "sigma_min": 0.1},
    )
    assert read_config("new/fox.png") == config
    (drawn,) = model.generate(config)
    assert Image.open("new/fox.png").tobytes() == drawn.tobytes()
    assert json.loads(command("show", "new/fox.png").out) == config.to_dict()
    assert SamplingConfig.from_toml(command("show", "new/fox.png", "--toml").out) == config


def test_names_are_made_of_the_prompt(command: Command) -> None:
    assert succeed(command("generate", "A red fox, in the snow!", *SMALL)) == ["a-red-fox-in-the-snow.png"]
    assert succeed(command("generate", "", *SMALL)) == ["image.png"]
    assert succeed(command("generate", "x" * 5000, *SMALL)) == ["x" * 60 + ".png"]
    for _ in range(2):  # a folder of images is not one of configurations
        assert succeed(command("generate", "fox", *SMALL, "--out", "fox")) == ["fox"]
    shutil.rmtree("fox")
    assert sorted(contents()) == sorted(["a-red-fox-in-the-snow.png", "image.png", "x" * 60 + ".png"])


def test_labels_and_presets(command: Command) -> None:
    succeed(command("generate", "fox", *SMALL, "--label", "DPM++ 2M Karras", "--out", "a.png"))
    succeed(command("generate", "fox", "--preset", "fast", "--width", "16", "--height", "16", "--out", "b.png"))
    a, b = read_config("a.png"), read_config("b.png")
    assert (a.sampler, a.schedule, a.steps) == ("dpmpp_2m", "karras", 2)
    assert (b.sampler, b.schedule, b.steps) == ("deis", "karras", 8)


def test_a_configuration_and_what_is_changed_of_it(command: Command) -> None:
    entries = {
        "prompt": "fox",
        "steps": 3,
        "sampler": "euler_ancestral",
        "schedule": "karras",
        "width": 16,
        "height": 16,
    }
    config = SamplingConfig.from_dict({**entries, "sampler_options": {"eta": 0.5}, "schedule_options": {"rho": 5.0}})
    Path("fox.json").write_text(config.to_json())
    Path("hare.toml").write_text(config.to_toml().replace("fox", "hare"))
    assert succeed(command("generate", "fox.json")) == ["fox.png"]
    assert read_config("fox.png") == config
    assert succeed(command("generate", "hare.toml", "--steps", "1", "--seed", "3,5")) == [
        "hare-00000.png",
        "hare-00001.png",
    ]
    hares = [read_config(f"hare-0000{k}.png") for k in range(2)]
    assert [(hare.prompt, hare.steps, hare.seeds) for hare in hares] == [("hare", 1, (3,)), ("hare", 1, (5,))]
    # another sampler comes without the options of the first
    succeed(command("generate", "fox.json", "--sampler", "heun", "--out", "heun.png"))
    heun = read_config("heun.png")
    assert (heun.sampler, dict(heun.sampler_options), dict(heun.schedule_options)) == ("heun", {}, {"rho": 5.0})
    succeed(command("generate", "fox.json", "-o", "eta=1", "--label", "Euler a", "--out", "a.png"))
    assert dict(read_config("a.png").sampler_options) == {"eta": 1.0}


def test_a_folder_of_configurations(command: Command) -> None:
    Path("many").mkdir()
    for name, seed in (("b.json", 1), ("a.toml", 2)):
        config = SamplingConfig(name, steps=1, width=16, height=16, seed=seed, count=seed)
        Path("many", name).write_text(config.to_json() if name.endswith("json") else config.to_toml())
    Path("many", "notes.txt").write_text("not a configuration")
    lines = [str(Path("out", name)) for name in ("a-00000.png", "a-00001.png", "b.png")]
    assert succeed(command("generate", "many", "--out", "out")) == lines
    assert [read_config(line).prompt for line in lines] == ["a.toml", "a.toml", "b.json"]
    assert succeed(command("generate", "many", "--grid", "--out", "sheet.png")) == ["sheet.png"]
    shown = json.loads(command("show", "sheet.png").out)
    assert [entry["prompt"] for entry in shown["configs"]] == ["a.toml", "b.json"]


def test_a_picture_is_repeated_exactly(command: Command) -> None:
    succeed(
        command("generate", "fox", *SMALL, "--sampler", "euler_ancestral", "--seed", "4", "--count", "3", "--out", "d")
    )
    assert succeed(command("generate", "--from", "d/00001.png", "--out", "again.png")) == ["again.png"]
    assert Path("again.png").read_bytes() == Path("d/00001.png").read_bytes()
    succeed(command("generate", "--from", "again.png", "--steps", "1", "--out", "other.png"))
    assert read_config("other.png").steps == 1
    assert read_config("other.png").seeds == (5,)


def test_from_a_picture_and_inside_one(command: Command) -> None:
    tiny_pipelines.toy_image(32).save("photo.png")
    tiny_pipelines.toy_mask(32).save("mask.png")
    how = ("--init", "photo.png", "--mask", "mask.png", "--strength", "0.6", "--steps", "5")
    succeed(command("generate", "fox", *how, "--out", "fox.png"))
    before, after = (np.asarray(Image.open(name)) for name in ("photo.png", "fox.png"))
    kept = np.asarray(Image.open("mask.png")) == 0
    np.testing.assert_array_equal(before[kept], after[kept])
    assert (before[~kept] != after[~kept]).any()
    code, _, err = command("generate", "--from", "fox.png", "--out", "again.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "give the same --init and --mask" in err
    tiny_pipelines.toy_image(32).rotate(90).save("another.png")
    again = ("generate", "--from", "fox.png", "--out", "again.png", "--mask", "mask.png")
    code, _, err = command(*again, "--init", "another.png")
    assert code == 2
    assert "give the same --init" in err
    succeed(command(*again, "--init", "photo.png"))
    assert Path("again.png").read_bytes() == Path("fox.png").read_bytes()
    succeed(command(*again, "--init", "photo.png", "--width", "16", "--height", "16", "--force"))
    with Image.open("again.png") as smaller:
        assert smaller.size == (16, 16)


def test_another_model_is_not_taken_for_the_same(command: Command, tmp_path: Path) -> None:
    succeed(command("generate", "fox", *SMALL, "--out", "fox.png"))
    tiny_pipelines.build("sd15_v").pipe.save_pretrained(tmp_path / "v")
    code, _, err = command("generate", "--from", "fox.png", "--model", "v", "--out", "again.png")
    assert code == 2
    assert "fox.png was made by model 'tiny'; give the same --model" in err
    assert not Path("again.png").exists()


# ------------------------------------------------------------------------------------------------------ what is kept


def test_what_is_there_is_kept(command: Command) -> None:
    first = command("generate", "fox", *SMALL, "--count", "2", "--out", "fox.png")
    assert succeed(first) == ["fox-00000.png", "fox-00001.png"]
    before = {path: Path(path).stat().st_mtime_ns for path in contents()}
    code, out, err = command("generate", "fox", *SMALL, "--count", "3", "--out", "fox.png")
    assert (code, out.splitlines()) == (0, ["fox-00000.png", "fox-00001.png", "fox-00002.png"])
    assert err == "ksched: 2 of 3 exist already\n"
    assert {path: Path(path).stat().st_mtime_ns for path in before} == before


def test_another_picture_is_not_replaced(command: Command) -> None:
    Path("fox.png").write_bytes(b"a holiday")
    code, out, err = command("generate", "fox", *SMALL, "--out", "fox.png")
    message = "ksched: fox.png is another picture; give another --out, or --force to replace it\n"
    assert (code, out, err) == (2, "", message)
    assert contents() == {"fox.png": b"a holiday"}
    assert command("compare", "fox", "--out", "fox.png") == (2, "", message)
    assert command("generate", "fox", *SMALL, "--grid", "--out", "fox.png") == (2, "", message)
    succeed(command("generate", "fox", *SMALL, "--out", "fox.png", "--force"))
    fox = contents()
    assert command("generate", "hare", *SMALL, "--out", "fox.png") == (2, "", message)
    assert contents() == fox


def test_a_folder_of_one_batch(command: Command) -> None:
    assert succeed(command("generate", "fox", *SMALL, "--count", "3", "--batch", "2", "--out", "foxes")) == ["foxes"]
    before = contents()
    names = ["foxes/00000.png", "foxes/00001.png", "foxes/00002.png", "foxes/manifest.json"]
    assert [Path(name).as_posix() for name in before] == names
    assert succeed(command("generate", "fox", *SMALL, "--count", "3", "--batch", "2", "--out", "foxes")) == ["foxes"]
    for arguments, message in {
        ("hare", "--batch", "2"): "belongs to another batch, with another prompt",
        ("fox", "--batch", "1"): "was begun with batch size 2 and not 1",
        ("hare", "--batch", "2", "--force"): "never the folder of another batch",
    }.items():
        code, out, err = command("generate", *arguments, *SMALL, "--count", "3", "--out", "foxes")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert contents() == before


@pytest.mark.parametrize("out", ["foxes", "fox.png"])
def test_ctrl_c_keeps_what_is_finished(command: Command, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    arguments = ("generate", "fox", *SMALL, "--count", "3", "--out", out)
    draw = StableDiffusion.decode
    calls = 0

    def interrupted(self: StableDiffusion, latents: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        return draw(self, latents)

    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion, "decode", interrupted)
        code, _, err = command(*arguments)
    assert code == 130
    assert err == "\nksched: interrupted; finished images remain, and the same command resumes\n"
    assert len([name for name in contents() if name.endswith(".png")]) == 2
    succeed(command(*arguments))
    resumed = {Path(name).name: content for name, content in contents().items()}
    succeed(command(*arguments[:-1], f"whole/{out}"))
    assert resumed == {p.name: p.read_bytes() for p in Path("whole").rglob("*") if p.is_file()}


def test_a_full_disk(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, out, err = command("generate", "fox", *SMALL, "--out", "fox.png")
    assert (code, out, contents()) == (1, "", {})
    assert err.startswith("ksched: cannot write fox.png: No space left on device")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("compare", "fox"), ("generate", "fox", "--grid", "--out", "compare.png")])
def test_a_full_disk_is_seen_before_a_sheet_is_drawn(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr(StableDiffusion, "prepare", None)  # nothing is drawn
    code, out, err = command(*arguments, "--width", "16", "--height", "16")
    assert (code, out, err) == (1, "", "ksched: cannot write compare.png: No space left on device\n")
    assert contents() == {}


def test_an_equal_picture_of_another_process_is_taken(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(command("generate", "fox", *SMALL, "--out", "theirs.png"))
    theirs = Path("theirs.png").read_bytes()
    draw = StableDiffusion.decode

    def meanwhile(self: StableDiffusion, latents: torch.Tensor) -> torch.Tensor:
        Path("fox.png").write_bytes(theirs)
        return draw(self, latents)

    monkeypatch.setattr(StableDiffusion, "decode", meanwhile)
    assert succeed(command("generate", "fox", *SMALL, "--out", "fox.png")) == ["fox.png"]
    Path("fox.png").unlink()
    code, _, err = command("generate", "hare", *SMALL, "--out", "fox.png")
    assert (code, err) == (2, f"ksched: cannot write fox.png: {os.strerror(errno.EEXIST)}\n")
    assert contents() == {"theirs.png": theirs, "fox.png": theirs}


def test_what_a_picture_depends_on_may_make_no_sense(command: Command) -> None:
    succeed(command("generate", "fox", *SMALL, "--out", "fox.png"))
    for origin in ("[" * 50_000, "[1]", "3", '{"model": ["x"]}'):
        with Image.open("fox.png") as picture:
            notes = PngInfo()
            notes.add_text("ksched", picture.info["ksched"])
            notes.add_text("ksched_origin", origin)
            picture.save("odd.png", pnginfo=notes)
        code, _, err = command("generate", "--from", "odd.png", "--out", "again.png")
        assert code == (2 if origin[0] == "{" else 0), err
        Path("again.png").unlink(missing_ok=True)


@pytest.mark.parametrize("file", ["scheduler/scheduler_config.json", "text_encoder/config.json"])
def test_row_51_a_damaged_configuration_of_a_part(command: Command, tmp_path: Path, file: str) -> None:
    tiny_pipelines.build("sd15").pipe.save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / file).write_text('{"a":' * 50_000)
    code, out, err = command("generate", "fox", *SMALL, "--model", "damaged")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"damaged cannot be read: {Path(file)}" in err


def test_memory_that_a_processor_does_not_have(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with monkeypatch.context() as patch:
        patch.setattr("os.sysconf", lambda _: 100, raising=False)
        patch.setattr(StableDiffusion, "prepare", None)  # nothing is drawn
        code, out, err = command("generate", "fox", *SMALL)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "1 image of 16 x 16 at once need more than" in err
    monkeypatch.setattr(StableDiffusion, "decode", allocate)
    code, out, err = command("generate", "fox", *SMALL)
    assert (code, out) == (1, "")
    assert err.startswith("ksched: out of memory; use a smaller --batch")


def test_an_unwritable_folder(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as one who may write everywhere
    monkeypatch.setattr(StableDiffusion, "prepare", None)  # nothing is drawn
    code, out, err = command("generate", "fox", *SMALL, "--out", "new/fox.png")
    assert (code, out, err) == (2, "", "ksched: cannot write new: Permission denied\n")


# ------------------------------------------------------------------------------------------------------------- sheets


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the last sheet was made of."""
    found: dict[str, Any] = {}
    plain = sheet.sheet

    def watched(cells: Any, **words: Any) -> Image.Image:
        found.update(words, cells=cells)
        return plain(cells, **words)

    monkeypatch.setattr(sheet, "sheet", watched)
    return found


def test_a_sheet_of_seeds(command: Command, model: StableDiffusion, seen: dict[str, Any]) -> None:
    arguments = ("generate", "fox", *SMALL, "--count", "5", "--seed", "7", "--grid", "--out", "foxes.png")
    assert succeed(command(*arguments)) == ["foxes.png"]
    assert seen["captions"] == [["seed 7", "seed 8", "seed 9"], ["seed 10", "seed 11"]]
    config = SamplingConfig("fox", steps=2, width=16, height=16, seed=7, count=5)
    drawn = [image.tobytes() for row in seen["cells"] for image in row]
    assert drawn == [image.tobytes() for image in model.generate(config)]
    assert seen["title"] == "“fox”"
    assert "euler, simple, 2 steps, guidance 7.5, model tiny, 16 x 16" in seen["note"]


def test_compare_draws_every_pair_with_every_number_of_steps(
    command: Command, model: StableDiffusion, seen: dict[str, Any]
) -> None:
    names = ("--samplers", "euler,Heun,euler_ancestral", "--schedules", "karras,beta", "--steps", "1,3")
    size = ("--width", "16", "--height", "16", "--seed", "5", "--guidance", "2", "-o", "rho=5", "-o", "eta=0.5")
    arguments = ("compare", "fox", *names, *size, "--out", "new/grid.png")
    code, out, err = command(*arguments)
    assert (code, out, err) == (0, f"{Path('new', 'grid.png')}\n", "")
    pairs = [(name, rule) for name in ("euler", "heun", "euler_ancestral") for rule in ("karras", "beta")]
    assert seen["rows"] == [f"{name}\n{rule}" for name, rule in pairs]
    assert seen["columns"] == ["1 step", "3 steps"]
    assert seen["captions"][0] == ["1 call", "3 calls"]
    assert seen["captions"][2] == ["1 call", "5 calls"]
    for (name, rule), row in zip(pairs, seen["cells"], strict=True):
        for steps, drawn in zip((1, 3), row, strict=True):
            config = SamplingConfig(
                "fox",
                steps=steps,
                seed=5,
                guidance_scale=2,
                width=16,
                height=16,
                sampler=name,
                schedule=rule,
                sampler_options={"eta": 0.5} if name == "euler_ancestral" else {},
                schedule_options={"rho": 5.0} if rule == "karras" else {},
            )
            assert drawn.tobytes() == model.generate(config)[0].tobytes()
    shown = json.loads(command("show", "new/grid.png").out)
    assert [len(row) for row in shown["configs"]] == [2] * 6
    before = contents()
    assert command(*arguments) == (0, out, "ksched: the sheet exists already\n")
    assert contents() == before
    code, _, err = command("generate", "--from", "new/grid.png")
    assert (code, err) == (2, "ksched: new/grid.png is a sheet of several images; ksched show prints what made them\n")


def test_a_sheet_has_every_picture_in_its_place() -> None:
    colours = [["#ff0000", "#00ff00"], ["#0000ff"]]
    cells = [[Image.new("RGB", (32, 32), colour) for colour in row] for row in colours]
    page = sheet.sheet(
        cells, rows=["one\ntwo", "three"], columns=["a", "b"], captions=[["x", "y"], ["z"]], title="T", note="n"
    )
    places = {}
    pixels = np.asarray(page)
    for colour in (value for row in colours for value in row):
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        down, across = np.nonzero((pixels == wanted).all(-1))
        assert len(down) == 128 * 128  # enlarged by 4, and covered by nothing
        places[colour] = (down.min(), across.min())
    red, green, blue = (places[colour] for row in colours for colour in row)
    assert red[0] == green[0] < blue[0]
    assert red[1] == blue[1] < green[1]
    assert pixels[: red[0] - 2].min() < 100  # there are words above and on the left
    assert pixels[:, : red[1] - 2].min() < 100
    large = sheet.sheet([[Image.new("RGB", (1024, 512), "#ff0000")]])
    assert large.size[0] < 400
    for wrong in ({"rows": ["a"]}, {"columns": ["a"]}, {"captions": [["x"]]}):
        with pytest.raises(ValueError, match="one for each"):
            sheet.sheet(cells, **wrong)
    with pytest.raises(ValueError, match="at least one picture"):
        sheet.sheet([])


def test_a_bar_where_somebody_watches(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    answer = command("generate", "fox", *SMALL, "--out", "fox.png")
    assert succeed(answer) == ["fox.png"]
    assert "2/2" in answer.err
    answer = command("compare", "fox", "--samplers", "euler", "--steps", "1,2", "--width", "16", "--height", "16")
    assert succeed(answer) == ["compare.png"]
    assert "4/4" in answer.err


# ----------------------------------------------------------------------------------------------------------- mistakes

MISTAKES = {
    "generate": "say what to draw",
    "generate fox --from fox.png": "say what to draw",
    "generate fox --sampler eulr": "unknown sampler 'eulr'; did you mean euler",
    "generate fox --schedule karas": "unknown noise schedule 'karas'; did you mean karras",
    "generate fox --label Karras": "Karras",
    "generate fox --label Euler --sampler heun": "label sets sampler and schedule; leave out sampler",
    "generate fox --preset quick": "preset must be one of fast, balanced, high_quality; got 'quick'",
    "generate fox --steps 0": "--steps must be a whole number of at least 1; got 0",
    "generate fox --steps many": "--steps must be a whole number of at least 1; got 'many'",
    "generate fox --guidance -1": "--guidance must be a finite number of at least 0; got '-1'",
    "generate fox --width 20": "width must be a multiple of 8; got 20. Use 16 or 24",
    "generate fox --count 0": "--count must be a whole number of at least 1; got 0",
    "generate fox --seed 1,2 --count 3": "got 2 seeds for 3 images",
    "generate fox --seed one": "--seed must be whole numbers separated by commas; got 'one'",
    "generate fox --seed -1": "seed must be at least 0",
    "generate fox --strength 0": "--strength must be a finite number above 0; got '0'",
    "generate fox -o eta=1": "sampler euler with schedule simple has no option 'eta'",
    "generate fox -o eta": "--option must be name=value",
    "generate fox --mask mask.png": "mask needs --init, since it says where to change it",
    "generate fox --init none.png": "--init must be an existing file; there is none at none.png",
    "generate --from none.png": "picture must be an existing file; there is none at none.png",
    "generate --from plain.png": "plain.png must carry a ksched configuration",
    "generate none.json": "cannot read none.json: No such file",
    "generate broken.json": "broken.json: the configuration must be JSON; line 1",
    "generate old.json": "old.json: the field 'scheduler' is no longer used",
    "generate odd.toml": "odd.toml: unknown field 'step'; did you mean 'steps'",
    "generate ./empty": "empty has no configurations",
    "generate twice": "twice has a .json and a .toml file of the same name",
    "generate bad": "worse.json: steps must be at least 1 and at most 1000, the number that",
    "generate bad --out one.png": "steps must be",
    "generate fox --out fox.jpg": "images are written as .png",
    "generate fox --grid --out folder": "--grid writes one .png file",
    "generate fox --grid --count 5000": "a sheet holds at most 1024 images; got 5000",
    "generate fox --batch 0": "--batch",
    "generate fox --threads 0": "--threads",
    "generate fox --device gpu": "--device must be a device such as cpu, cuda or cuda:1; got 'gpu'",
    "generate fox --device=": "--device must be a device such as cpu",
    "generate deep.json": "deep.json: the configuration must be JSON; it is nested more than 64 deep",
    "generate deep.toml": "deep.toml: the configuration must be TOML; it is nested more than 64 deep",
    "generate long.toml": "long.toml: the configuration must be TOML; a name has more than 256 parts",
    "generate bytes.toml": "bytes.toml: it must be text in UTF-8; byte 0 is not",
    "generate twofold.json": "twofold.json: the configuration must be JSON; the name 'prompt' appears twice",
    "generate huge.json": "huge.json: the configuration must be JSON; a whole number has more than 308 digits",
    "generate --from deep.png": "deep.png carries cannot be used: the configuration must be JSON",
    "show deep.png": "the configuration that deep.png carries cannot be used",
    "show sheet.png": "sheet.png stores a description that cannot be read: it is nested more than 64 deep",
    "generate --from sheet.png": "sheet.png stores a description that cannot be read",
    "generate fox --out deep.png": "deep.png is another picture",
    "generate fox --model deep": "model_index.json cannot be read: it is nested more than 64 deep",
    "generate fox --device cuda": "--device cuda: torch finds no GPU here",
    "generate fox --dtype float8": "--dtype",
    "generate fox --model none": "none has none",
    "generate a red fox": "got 'red' 'fox' as well: put a text of several words into quotes",
    "generate fox --out plain.png/fox.png": "cannot write plain.png",
    "compare": "say what to draw",
    "compare fox --samplers euler,,heun": "--samplers must be names separated by commas",
    "compare fox --samplers euler,hein": "unknown sampler 'hein'; did you mean heun",
    "compare fox --schedules karas": "unknown noise schedule 'karas'",
    "compare fox --steps 4,x": "--steps must be whole numbers separated by commas; got 'x'",
    "compare fox --steps 4,0": "steps must be at least 1",
    "compare fox -o eta=1": "has no option 'eta'",
    "generate fox --guidance 1000": "--guidance must be at least 0 and at most 100; got 1000",
    "generate fox --guidance nan": "--guidance must be a finite number of at least 0; got 'nan'",
    "generate fox --rhoo 5": "generate has no option --rhoo; did you mean --rho?",
    "generate fox --eta 1": "sampler euler with schedule simple has no option 'eta'",
    "generate fox --noise pnik": "pyramid, violet, white; got 'pnik'; did you mean 'pink'?",
    "generate fox --noise pink:exponent=2": "noise pink has no options; those that have are colored, offset, pyramid",
    "generate fox --noise pyramid:strnght=3": "levels; got 'strnght'; did you mean 'strength'?",
    "generate fox --noise pyramid:strength=nan": "noise pyramid: strength must be a number, true or false; got 'nan'",
    "generate fox --noise colored": "noise colored needs an exponent, as in colored:exponent=0.5",
    "generate fox --noise colored:exponent=9": "exponent must be at least -8 and at most 8; got 9",
    "generate fox --device meta": "--device must be a device that torch finds here, such as cpu; got 'meta'",
    "show plain.png --toml --json": "give one of --toml and --json",
    "compare fox --out grid": "--out must be a file that ends in .png; got grid",
    "compare bad": "steps must be",
    "show none.png": "picture must be an existing file; there is none at none.png",
    "show plain.png": "plain.png must carry a ksched configuration",
    "show broken.json": "picture must be a readable image",
    "show": "PICTURE",
}


def damage() -> None:
    """Files whose text is there to do harm."""
    Path("deep.json").write_text("[" * 50_000)
    Path("deep.toml").write_text("prompt = " + "[" * 50_000)
    Path("long.toml").write_text("a." * 25_000 + "a = 1")
    Path("bytes.toml").write_bytes(b"\xff\xfe")
    Path("twofold.json").write_text('{"prompt": "fox", "prompt": "hare"}')
    Path("huge.json").write_text('{"prompt": "fox", "steps": ' + "9" * 5000 + "}")
    Path("deep").mkdir()
    Path("deep", "model_index.json").write_text('{"a":' * 50_000)
    for name, key in (("deep.png", "ksched"), ("sheet.png", "ksched_sheet")):
        notes = PngInfo()
        notes.add_text(key, "[" * 50_000)
        Image.new("RGB", (8, 8)).save(name, pnginfo=notes)


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items())
def test_a_mistake_is_one_line_and_code_2(command: Command, arguments: str, message: str) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    Path("broken.json").write_text('{"prompt": ')
    Path("old.json").write_text('{"prompt": "fox", "scheduler": "dpmpp_2m_karras"}')
    Path("odd.toml").write_text('prompt = "fox"\nstep = 3\n')
    for name in ("empty", "twice", "bad"):
        Path(name).mkdir()
    for name in ("twice/fox.json", "bad/good.json"):
        Path(name).write_text('{"prompt": "fox"}')
    Path("twice/fox.toml").write_text('prompt = "fox"')
    Path("bad/worse.json").write_text('{"prompt": "fox", "steps": 1001}')
    damage()
    before = contents()
    code, out, err = command(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("ksched: ")
    assert message.lower() in err.lower()
    assert err.count("\n") == 1
    assert contents() == before


@pytest.mark.parametrize("threads", ["100000000", "1025", "0", "-1", "1e3", "9" * 400])
@pytest.mark.parametrize("command_line", ["generate fox", "compare fox"])
def test_row_52_threads_that_no_machine_has_are_refused(command: Command, command_line: str, threads: str) -> None:
    before = torch.get_num_threads()
    code, out, err = command(*command_line.split(), f"--threads={threads}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--threads" in err
    assert torch.get_num_threads() == before


def test_processes_share_folders_only(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = command("generate", "fox", "--count", "3", "--out", "fox.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "several processes draw one batch into one folder" in err


def test_a_damaged_model(command: Command, tmp_path: Path) -> None:
    tiny_pipelines.build("sd15").pipe.save_pretrained(tmp_path / "damaged")
    (weights,) = (tmp_path / "damaged" / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    code, out, err = command("generate", "fox", *SMALL, "--model", "damaged")
    assert (code, out) == (2, "")
    assert f"{Path('damaged', 'unet', weights.name)} cannot be read" in err
    assert err.count("\n") == 1


def test_a_failure_is_code_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion, "decode", lambda self, latents: torch.full((1, 3, 16, 16), torch.nan))
        code, out, err = command("generate", "fox", *SMALL)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "returned nan or infinity" in err

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion, "decode", too_large)
        code, out, err = command("generate", "fox", *SMALL)
        assert (code, out) == (1, "")
        assert err.startswith("ksched: out of memory; use a smaller --batch")
    monkeypatch.setattr(image_options, "SHIPPED", Path("nowhere"))
    code, out, err = command("generate", "fox", *SMALL)
    assert (code, out) == (1, "")
    assert err == "ksched: the model that comes with ksched is not installed; use --model with the folder of another\n"
    assert contents() == {}


@pytest.mark.parametrize("name", ["generate", "compare"])
def test_without_the_extra(command: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in [module for module in sys.modules if module.startswith("ksched.stable_diffusion")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, err = command(name, "fox")
    assert (code, out) == (1, "")
    assert err == "ksched: this needs diffusers and transformers: pip install 'ksched[diffusers]'\n"


# -------------------------------------------------------------------------------------- row 39: levels of one's own


def test_row_39_levels_of_ones_own(command: Command) -> None:
    small = ("--width", "16", "--height", "16", "--out")
    succeed(command("generate", "fox", "--sigmas", "14,5,1,0", "--sampler", "heun", *small, "own.png"))
    config = read_config(Path("own.png"))
    assert config.sigmas == (14.0, 5.0, 1.0, 0.0)
    assert (config.steps, config.schedule) == (3, "simple")
    succeed(command("generate", "--from", "own.png", "--out", "again.png"))
    assert read_config(Path("again.png")) == config
    assert np.array_equal(np.asarray(Image.open("own.png")), np.asarray(Image.open("again.png")))
    succeed(command("generate", "--from", "own.png", "--schedule", "karras", "--out", "other.png"))
    other = read_config(Path("other.png"))
    assert (other.sigmas, other.schedule, other.steps) == (None, "karras", 3)
    succeed(command("generate", "--from", "other.png", "--sigmas", "3,1,0", "--out", "third.png"))
    assert read_config(Path("third.png")).sigmas == (3.0, 1.0, 0.0)
    assert "sigmas" not in other.to_dict()


def test_row_35_calls_of_images(command: Command) -> None:
    succeed(command("generate", "fox", "--sampler", "heun", "--calls", "6", *SMALL[2:], "--out", "calls.png"))
    assert read_config(Path("calls.png")).steps == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sigmas 1,2,0", "sigmas must be strictly decreasing"),
        ("--sigmas a,b", "--sigmas must be numbers separated by commas"),
        ("--sigmas 2,1,0 --schedule karras", "sigmas are run as they are; leave out schedule karras"),
        ("--sigmas 2,1,0 --steps 5", "steps must be left out if sigmas are given, which make 2 steps; got 5"),
        ("--sigmas 2,1,0 --sampler auto", "sampler auto has its own sigmas; leave out sigmas"),
        ("--sigmas 2,1,0 --calls 5", "--calls sets the number of steps; leave out --calls or --sigmas"),
        ("--steps 5 --calls 5", "--calls sets the number of steps; leave out --calls or --steps"),
        ("--steps 1001", "at most 1000, the number of timesteps that models are trained with; got 1001"),
        ("--sampler karras --schedule euler", "'karras' is a noise schedule; swap the two"),
        ("--sampler DPM++_2M_Karras", "parse_label"),
    ],
)
def test_row_39_what_is_refused(command: Command, arguments: str, message: str) -> None:
    code, out, err = command("generate", "fox", *arguments.split())
    assert (code, out) == (2, "")
    assert message in err


# ------------------------------------------------------------------------------------------- noise by name, and JSON


def test_noise_by_name_is_that_of_the_start_and_of_the_steps(command: Command, model: StableDiffusion) -> None:
    def drawn(sampler: str, noise: str | None) -> bytes:
        config = SamplingConfig("fox", steps=2, width=16, height=16, sampler=sampler, seed=3, noise=noise)
        assert SamplingConfig.from_toml(config.to_toml()) == config == SamplingConfig.from_json(config.to_json())
        return model.generate(config)[0].tobytes()

    for sampler in ("euler", "euler_ancestral"):
        white, pink = drawn(sampler, None), drawn(sampler, "pink")
        assert drawn(sampler, "white") == drawn(sampler, "colored:exponent=0") == white
        assert drawn(sampler, "colored:exponent=1") == pink
        assert len({white, pink, drawn(sampler, "pyramid"), drawn(sampler, "pyramid:strength=0.9,levels=1")}) == 4
        brownian = drawn(sampler, "brownian")  # of the steps alone, and euler has none
        assert (brownian == white) == (sampler == "euler")
    how = ("--sampler", "euler_ancestral", "--seed", "3", *SMALL)
    succeed(command("generate", "fox", *how, "--noise", "Pink", "--out", "pink.png"))
    assert Image.open("pink.png").tobytes() == drawn("euler_ancestral", "pink")
    assert read_config("pink.png").noise == "pink"
    succeed(command("generate", "--from", "pink.png", "--out", "again.png"))
    assert Path("again.png").read_bytes() == Path("pink.png").read_bytes()
    assert "noise" not in SamplingConfig("fox", noise="white").to_dict()


def test_noise_of_an_item_is_its_own_in_any_batch(model: StableDiffusion) -> None:
    config = SamplingConfig("fox", steps=1, width=16, height=16, seed=[5, 9], noise="pyramid:unit_variance=false")
    latents = model.prepare(config)
    together, alone = latents([5, 9]), latents([9])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4)
    assert not torch.allclose(together[:1], alone)


def test_files_as_json(command: Command) -> None:
    made = command("generate", "fox", *SMALL, "--count", "2", "--out", "fox.png", "--json")
    assert (made.code, made.err) == (0, "")
    assert json.loads(made.out) == {"files": ["fox-00000.png", "fox-00001.png"]}
    again = command("generate", "fox", *SMALL, "--count", "2", "--out", "fox.png", "--json")
    assert (again.out, again.err) == (made.out, "ksched: 2 of 2 exist already\n")
    assert json.loads(command("generate", "fox", *SMALL, "--out", "many", "--json").out) == {"files": ["many"]}
    how = ("--samplers", "auto,euler", "--schedules", "karras,beta", "--steps", "4", *SMALL[2:], "--json")
    assert json.loads(command("compare", "fox", *how).out) == {"files": ["compare.png"]}
    rows = json.loads(command("show", "compare.png", "--json").out)["configs"]
    assert [(row[0]["sampler"], row[0]["schedule"]) for row in rows] == [
        ("auto", "simple"),
        ("euler", "karras"),
        ("euler", "beta"),
    ]
    assert json.loads(command("show", "fox-00000.png", "--json").out)["prompt"] == "fox"


def test_ctrl_c_still_prints_the_finished_files_as_json(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, calls = StableDiffusion.decode, list[None]()

    def interrupted(self: StableDiffusion, latents: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(self, latents)

    monkeypatch.setattr(StableDiffusion, "decode", interrupted)
    code, out, err = command("generate", "fox", *SMALL, "--count", "3", "--out", "fox.png", "--json")
    assert code == 130
    assert json.loads(out) == {"files": ["fox-00000.png"]}
    assert "the same command resumes" in err

"""Configurations from a command line: from a prompt, files or a picture, with the changes that its options ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksched.cli.common import read_options, read_plan, read_text
from ksched.cli.sheets import sheet_of
from ksched.names.enums import NoiseSchedule
from ksched.options import Option
from ksched.samplers.registry import sampler_spec
from ksched.schedules import schedule_options

if TYPE_CHECKING:
    from ksched.stable_diffusion import SamplingConfig


__all__ = [
    "Wanted",
    "given_of",
    "is_folder",
    "of_plan",
    "parts_of",
    "seeds_of",
    "split_options",
    "wanted_of",
    "whole_number",
]


@dataclass(frozen=True)
class Wanted:
    """A configuration and its name."""

    name: str
    config: SamplingConfig


def wanted_of(
    what: str | None,
    again: Path | None,
    changes: Mapping[str, Any],
    option: Sequence[str] | None,
    calls: int | None = None,
) -> list[Wanted]:
    """Return the configurations of a prompt, a file, a folder or a picture, with the changes applied."""
    wanted = _wanted(what, again, changes, option)
    return wanted if calls is None else [Wanted(one.name, _of_calls(one.config, calls)) for one in wanted]


def _of_calls(config: SamplingConfig, calls: int) -> SamplingConfig:
    """Return a configuration with as many steps as fit into a number of model calls; no model is needed for this."""
    from ksched.sampler import build_sampler

    own = sampler_spec(config.sampler).levels is not None
    schedule = {} if own else {"schedule": config.schedule, **config.schedule_options}
    built = build_sampler(config.sampler, calls=calls, **schedule, **config.sampler_options)
    return replace(config, steps=built.steps, sigmas=None)


def _wanted(
    what: str | None, again: Path | None, changes: Mapping[str, Any], option: Sequence[str] | None
) -> list[Wanted]:
    from ksched.stable_diffusion import SamplingConfig, read_config

    if (what is None) == (again is None):
        raise ValueError("say what to draw: a prompt, a configuration, a folder of them, or --from a picture")
    if again is not None:
        if sheet_of(again) is not None:
            raise ValueError(f"{again} is a sheet of several images; ksched show prints what made them")
        return [Wanted(again.stem, _changed(read_config(again).to_dict(), changes, option))]
    assert what is not None
    path = Path(what)
    if is_folder(what):
        files = _configurations(path)
        if not files:
            raise ValueError(f"{path} has no configurations (files that end in .json or .toml)")
        if len({file.stem for file in files}) < len(files):
            raise ValueError(
                f"{path} has a .json and a .toml file of the same name, so their images would overwrite each other"
            )
        return [Wanted(file.stem, _changed(_read(file), changes, option)) for file in files]
    if path.suffix.lower() in (".json", ".toml"):
        return [Wanted(path.stem, _changed(_read(path), changes, option))]
    name = re.sub(r"[^\w]+", "-", what.lower()).strip("-")[:60] or "image"
    return [Wanted(name, _with_options(SamplingConfig.from_dict({"prompt": what, **changes}).to_dict(), option))]


def is_folder(what: str | None) -> bool:
    """Whether a text names a folder of configurations; a prompt can happen to be the name of some other folder."""
    try:
        there = bool(what) and Path(what or "").is_dir()
    except (OSError, ValueError):  # the prompt is too long for a file name, or has a null character
        return False
    return there and ("/" in str(what) or bool(_configurations(Path(what or ""))))


def _configurations(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.suffix.lower() in (".json", ".toml"))
    return sorted(file for file in files if file.name != "manifest.json")  # the manifest of a folder of images


def _read(file: Path) -> dict[str, Any]:
    """Read the fields of a configuration from a file, with defaults."""
    from ksched.stable_diffusion import SamplingConfig

    try:
        made = (SamplingConfig.from_toml if file.suffix.lower() == ".toml" else SamplingConfig.from_json)(
            read_text(file)
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None
    return made.to_dict()


def _changed(entries: dict[str, Any], changes: Mapping[str, Any], option: Sequence[str] | None) -> SamplingConfig:
    """Apply changes to a configuration; a new sampler or schedule drops the options of the old one."""
    from ksched.stable_diffusion import PRESETS, SamplingConfig

    names = {name for name in changes if name not in ("label", "preset")}
    names |= {"sampler", "schedule"} if "label" in changes else set()
    names |= set(PRESETS.get(changes.get("preset", ""), ()))
    read = SamplingConfig.from_dict({"prompt": "", **changes}).to_dict()
    new = entries | {name: read[name] for name in names}
    if "count" not in changes and "seed" in changes and not isinstance(read["seed"], int):
        new["count"] = None
    for name in ("sampler", "schedule"):
        if new[name] != entries[name]:
            new[f"{name}_options"] = {}
    if "sigmas" in changes:  # they replace the schedule of the original configuration
        new |= {"schedule": read["schedule"], "schedule_options": {}, "steps": read["steps"]}
    elif {"schedule", "steps", "label", "preset"} & names:
        new["sigmas"] = None
    return _with_options(new, option)


def _with_options(entries: dict[str, Any], option: Sequence[str] | None) -> SamplingConfig:
    from ksched.stable_diffusion import SamplingConfig

    config = SamplingConfig.from_dict(entries)
    for name, values in split_options([config.sampler], [config.schedule], option).items():
        entries = {**entries, name: {**entries[name], **values}}
    return SamplingConfig.from_dict(entries)


def split_options(
    samplers: Sequence[str], schedules: Sequence[str], option: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Parse ``name=value`` texts into sampler options and schedule options; a name that both have is the sampler's."""
    own = {name: known for sampler in samplers for name, known in sampler_spec(sampler).options.items()}
    theirs = {key: known for name in schedules for key, known in schedule_options(name).items()}
    theirs |= {name: Option(name, float, None) for name in ("sigma_min", "sigma_max")}
    owner = f"sampler {' or '.join(samplers)} with schedule {' or '.join(schedules)}"
    values = read_options(option, owner, {**theirs, **own})
    return {
        "sampler_options": {name: value for name, value in values.items() if name in own},
        "schedule_options": {name: value for name, value in values.items() if name not in own},
    }


def given_of(**values: Any) -> dict[str, Any]:
    """Return the options that were given; the others keep the defaults of the configuration."""
    return {name: value for name, value in values.items() if value is not None}


def of_plan(file: Path, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Read a plan from a file and return the settings that it replaces."""
    plan = read_plan(file)
    if taken := {"sampler", "schedule", "label", "preset"} & beside.keys():
        raise ValueError(f"--plan is sampler and schedule in one; leave out --plan or --{min(taken)}")
    if beside.get("steps", plan.steps) not in (plan.steps, plan.nfe):
        raise ValueError(f"the plan has {plan.steps} steps; got --steps {beside['steps']}")
    return {"sampler": plan.to_json(), "schedule": NoiseSchedule.default().value, "steps": plan.steps}


def seeds_of(text: str | None) -> int | list[int] | None:
    """Parse one seed, or one seed for each image."""
    if text is None:
        return None
    seeds = [whole_number("--seed", part) for part in text.split(",")]
    return seeds[0] if len(seeds) == 1 else seeds


def parts_of(flag: str, text: str) -> list[str]:
    """Split names that are separated by commas and drop repetitions."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"{flag} must be names separated by commas; got {text!r}")
    return list(dict.fromkeys(parts))


def whole_number(flag: str, text: str) -> int:
    """Parse one whole number of a list."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{flag} must be whole numbers separated by commas; got {text!r}") from None

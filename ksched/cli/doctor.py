"""``ksched doctor``: what is installed, what is missing and how to get it, and whether a run gives its known result."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from ksched import __version__
from ksched.cli.common import AsJSON
from ksched.cli.image_options import SHIPPED
from ksched.cli.printing import print_json
from ksched.cli.self_check import Check, self_check

__all__ = ["check_installation"]

_NEEDED = ("numpy", "scipy", "torch")
_PACKAGES = (
    *_NEEDED,
    "diffusers",
    "transformers",
    "matplotlib",
    "rich",
    "tqdm",
    "typer",
    "hypothesis",
    "triton",
    "jax",
)
_EXTRAS = {
    "cli": "this command",
    "plot": "ksched plot and demo, ksched.pictures",
    "diffusers": "ksched generate and compare, the drop-ins for diffusers",
    "testing": "ksched.testing",
}


def check_installation(as_json: AsJSON = False) -> None:
    """Check this installation: versions, extras, devices, and a short run compared with its recorded result.

    For every missing package, the command that installs it is shown. The exit code is 1 if the self-check fails, and 0
    otherwise.

    Examples
    --------
    ksched doctor
    ksched doctor --json > installation.json
    """
    versions = {name: _version(name) for name in _PACKAGES}
    extras = {name: _missing(name, versions) for name in _EXTRAS}
    torch, problem = _torch()
    devices = _devices(torch)
    checks = list(self_check([device["name"] for device in devices] if torch is not None else ()))
    passed = all(check.passed for check in checks)
    if as_json:
        print_json(
            {
                "ksched": __version__,
                "path": str(Path(__file__).parents[1]),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "packages": versions,
                "torch_problem": problem or None,
                "extras": {
                    name: {"installed": not missing, "missing": missing, "install": _command(name)}
                    for name, missing in extras.items()
                },
                "devices": devices,
                "model": (SHIPPED / "model_index.json").is_file(),
                "self_check": {"passed": passed, "checks": [check.facts() for check in checks]},
            }
        )
    else:
        print("\n".join(_page(versions, extras, devices, checks, problem)))
    if not passed:
        raise typer.Exit(1)


def _page(
    versions: dict[str, str | None],
    extras: dict[str, list[str]],
    devices: Sequence[dict[str, Any]],
    checks: Sequence[Check],
    problem: str,
) -> list[str]:
    """Format the whole report as text, narrow enough for any terminal."""
    lines = [
        f"ksched {__version__}",
        f"  python     {platform.python_version()}",
        f"  platform   {platform.platform()}",
    ]
    lines += [f"  installed  {Path(__file__).parents[1]}", "", "Packages"]
    for name, version in versions.items():
        lines.append(f"  {name:<13} {version or 'not installed'}")
        if version is None and name in _NEEDED:
            lines.append(f"    get it: pip install {name}")
    lines += [f"  torch cannot be imported: {problem}"] * bool(problem)
    lines += ["", "Extras"]
    for name, missing in extras.items():
        lines.append(f"  {name:<13} {'installed' if not missing else 'missing: ' + ', '.join(missing)}")
        if missing:
            lines += [f"    for {_EXTRAS[name]}", f"    get it: {_command(name)}"]
    lines += ["", "Devices", *(f"  {device['name']:<13} {device['about']}" for device in devices), "", "Self-check"]
    for check in checks:
        lines.append(f"  {'ok  ' if check.passed else 'FAIL'} {check.what} on {check.where}")
        if check.problem:
            lines.append(f"       {check.problem}")
        elif check.tolerance:
            lines.append(f"       off by {check.error:.1e}, at most {check.tolerance:.0e}")
    if all(check.passed for check in checks):
        return [*lines, "", "ksched gives the recorded results here."]
    return [
        *lines,
        "",
        "ksched does not give the recorded results here. Reinstall numpy, scipy and torch",
        "in a fresh environment. If that does not help, report the output of",
        "'ksched doctor --json'.",
    ]


def _version(name: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "installed, unknown version" if _is_there(name) else None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # None in sys.modules
        return False


def _missing(extra: str, versions: dict[str, str | None]) -> list[str]:
    """List the packages of an extra that are missing or too old."""
    try:
        wanted = metadata.requires("ksched") or []
    except metadata.PackageNotFoundError:
        wanted = []
    missing = []
    for line in wanted:
        found = re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?.*;.*extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if found is None or found[3] != extra or found[1] == "ksched":
            continue
        version = versions.get(found[1]) or _version(found[1])
        if version is None or not _is_there(found[1]):
            missing.append(found[1])
        elif found[2] and _numbers(version) < _numbers(found[2]):
            missing.append(f"{found[1]} {found[2]} or newer (here {version})")
    return missing


def _numbers(version: str) -> list[int]:
    """Return the numbers of a version for comparison; a version without numbers counts as newer than any other."""
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]] or [sys.maxsize]


def _command(extra: str) -> str:
    return f'pip install "ksched[{extra}]"'


def _torch() -> tuple[Any, str]:
    """Import torch; if that fails, return None and the reason."""
    try:
        import torch
    except ModuleNotFoundError as error:
        return None, "" if error.name == "torch" else " ".join(str(error).split())
    except Exception as error:  # a damaged installation
        return None, " ".join(f"{type(error).__name__}: {error}".split())
    return torch, ""


def _devices(torch: Any) -> list[dict[str, Any]]:
    """List the devices: the CPU, and those that torch finds."""
    cores = os.cpu_count() or 1
    if torch is None:
        return [{"name": "cpu", "about": f"{cores} cores, NumPy only"}]
    found = [{"name": "cpu", "about": f"{cores} cores, {torch.get_num_threads()} torch threads"}]
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(k)
            found.append({"name": f"cuda:{k}", "about": f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "about": "Apple GPU"})
    return found

"""The cost of importing the library: no torch for schedules, no optional package at all."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

OPTIONAL = (
    "matplotlib",
    "typer",
    "rich",
    "tqdm",
    "diffusers",
    "transformers",
    "hypothesis",
    "pytest",
    "sklearn",
    "PIL",
)


def imported_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_schedules_do_not_import_torch() -> None:
    modules = imported_after(
        "import ksched\n"
        "for name in ksched.NoiseSchedule:\n"
        "    for process in (None, ksched.EDM(), ksched.VE(), ksched.Flow(3.0), ksched.VP.cosine()):\n"
        "        ksched.calculate_sigmas(name, 10, process)\n"
        "ksched.SamplerType.parse('Euler a'); ksched.parse_label('Heun Karras')\n"
        "ksched.VP().timestep(1.0)"
    )
    assert not modules & {"torch", *OPTIONAL}


#: what must bring in nothing optional, one after the other in one process, as importing torch takes so long
STAGES = {
    "torch": "import torch",
    "a run": "import ksched.analysis, ksched.exact\n"
    "ksched.build_sampler('euler').sample(lambda x, s: x, torch.ones(1, 2))",
    "what is known of diffusers": "import ksched.dialects.diffusers.classes, ksched.dialects.diffusers.iterations",
    "the nodes of ComfyUI": "import ksched.integrations.comfyui",
}
#: modules that are missing, what is imported then, and what the error says
MISSING = [
    (["diffusers"], "ksched.integrations.diffusers", "this needs diffusers: pip install 'ksched[diffusers]'"),
    (
        ["diffusers", "transformers"],
        "ksched.stable_diffusion",
        "this needs diffusers and transformers: pip install 'ksched[diffusers]'",
    ),
    (["hypothesis"], "ksched.testing", 'which is not installed: pip install "ksched[testing]"'),
]


def test_nothing_optional_is_imported_and_what_is_missing_is_named() -> None:
    script = f"""
import importlib, json, sys
brought, errors, before = {{}}, [], set(sys.modules)
for what, code in {STAGES!r}.items():
    exec(code, globals())
    brought[what] = [name.partition(".")[0] for name in set(sys.modules) - before]
    before = set(sys.modules)
for missing, module, _ in {MISSING!r}:
    sys.modules.update(dict.fromkeys(missing))
    try:
        importlib.import_module(module)
    except ImportError as error:
        errors.append(str(error))
print(json.dumps([brought, errors]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    brought, errors = json.loads(done.stdout)
    for what in list(STAGES)[1:]:  # torch itself looks for some
        assert not {*brought[what]} & {*OPTIONAL, "comfy", "comfy_api"}, what
    for (_, module, words), error in zip(MISSING, errors, strict=True):
        assert words in error, module


def test_everything_public_is_there() -> None:
    import ksched

    for name in ksched.__all__:
        assert getattr(ksched, name) is not None
    assert set(ksched.__all__) <= set(dir(ksched))
    with pytest.raises(AttributeError):
        _ = ksched.scheduler

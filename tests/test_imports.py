"""What importing the library costs: no torch for schedules, no optional package at all."""

from __future__ import annotations

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


def test_a_run_imports_nothing_optional() -> None:
    modules = imported_after(
        "import ksched, torch\n"
        "import ksched.analysis, ksched.exact\n"
        "ksched.build_sampler('euler').sample(lambda x, s: x, torch.ones(1, 2))"
    )
    assert not modules & set(OPTIONAL) - imported_after("import torch")  # torch itself looks for some


def test_everything_public_is_there() -> None:
    import ksched

    for name in ksched.__all__:
        assert getattr(ksched, name) is not None
    assert set(ksched.__all__) <= set(dir(ksched))
    with pytest.raises(AttributeError):
        _ = ksched.scheduler


def test_what_is_known_of_diffusers_needs_no_diffusers() -> None:
    modules = imported_after("import ksched.dialects.diffusers.classes, ksched.dialects.diffusers.iterations")
    assert not modules & {"diffusers", "transformers"}


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "try: import ksched.integrations.diffusers\n"
        "except ImportError as error: print(str(error).replace(' ', '_'))"
    )
    assert "this_needs_diffusers:_pip_install_'ksched[diffusers]'" in imported_after(code)


def test_the_extra_of_the_adapter_is_named() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = sys.modules['transformers'] = None\n"
        "try: import ksched.stable_diffusion\n"
        "except ImportError as error: print(str(error).replace(' ', '_'))"
    )
    assert "this_needs_diffusers_and_transformers:_pip_install_'ksched[diffusers]'" in imported_after(code)

"""Every developer command: ``python -m nox -s NAME``, with arguments after ``--``; ``python -m nox --list`` lists them.

``pyproject.toml`` has the supported versions; ``.ci/constraints.txt`` pins the versions that these sessions install.
"""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # with pip: uv may resolve torch to another build
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types", "docs"]

CONSTRAINTS = Path(".ci/constraints.txt")
PINS = ("-c", str(CONSTRAINTS))
OLDEST = {"numpy": "1.26.0", "scipy": "1.11.1", "torch": "2.4.0"}  # scipy 1.11.0 was withdrawn

#: tests that run without torch
NO_TENSORS = (
    "without_torch",
    "dpm_solver",
    "explain",
    "files",
    "marginals",
    "mutations",
    "names",
    "reductions",
    "schedules",
)


#: packages that build and check ksched's own
PACKAGING = ("build", "hatchling", "twine")

#: what `smoke` installs with the wheel: only numpy and scipy, torch as well, or an extra
SMOKES = ("no torch", "torch", "cli", "plot", "diffusers", "testing", "all")

#: schemas built into check-jsonschema, and the files to check with them
SCHEMAS = {
    "vendor.citation-file-format": [Path("CITATION.cff")],
    "vendor.github-workflows": sorted(Path(".github", "workflows").glob("*.yml")),
}


def build_package(session: nox.Session, folder: Path) -> None:
    """Build the sdist, and the wheel from the sdist, and check both as a package index would."""
    for old in folder.glob("ksched-*"):
        old.unlink()
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(folder), silent=True)
    session.run("twine", "check", "--strict", *map(str, folder.glob("ksched-*")))


def run_pytest(session: nox.Session, *args: str) -> None:
    """Run pytest with one single-threaded worker per core; the argument ``-n 0`` turns workers off."""
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *args, env={"OMP_NUM_THREADS": "1"})


@nox.session
def demo(session: nox.Session) -> None:
    """Draw the demo's pictures, by default into ``demo/``."""
    session.install(".[cli,diffusers,plot]", *PINS)
    session.run("python", "-m", "ksched", "demo", *(session.posargs or ["--out", "demo"]))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the short test suite against the installed package; arguments go to pytest."""
    session.install(".[diffusers,test]", *PINS)
    run_pytest(session, *session.posargs)


@nox.session
def exhaustive(session: nox.Session) -> None:
    """Run all tests, with the full products of samplers, options, processes and schedules; arguments go to pytest."""
    session.install(".[diffusers,test]", *PINS)
    run_pytest(session, "-m", "exhaustive or not exhaustive", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run a thousand random cases of each fuzzer, with the seed KSCHED_FUZZ_SEED. Arguments go to pytest."""
    session.install(".[diffusers,test]", *PINS)
    run_pytest(session, "-m", "exhaustive", *sorted(map(str, Path("tests").glob("fuzz_*.py"))), *session.posargs)


@nox.session
def jax(session: nox.Session) -> None:
    """Run plans under JAX; arguments go to pytest."""
    session.install(".[test]", "jax", *PINS)
    session.run("pytest", "-n", "0", "tests/test_arrays.py", "tests/test_arrays_jax.py", *session.posargs)


@nox.session
def no_torch(session: nox.Session) -> None:
    """Run the tests that work without torch, with only numpy and scipy; arguments go to pytest."""
    session.install("numpy", "scipy", "pytest", "hypothesis", *PINS)
    session.install("--no-deps", ".")
    session.run("pytest", *(f"tests/test_{name}.py" for name in NO_TENSORS), *session.posargs)


def has_chromium() -> bool:
    """Whether PATH has a browser for the explorer's tests."""
    return any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")))


@nox.session
def explorer(session: nox.Session) -> None:
    """Test the explorer's page in the system's Chromium; arguments go to pytest."""
    if not has_chromium() and shutil.which("apt-get") and os.geteuid() == 0:
        session.run("apt-get", "update", "--quiet", external=True)
        session.run("apt-get", "install", "--yes", "--quiet", "chromium", external=True)
    if not has_chromium():
        session.error(
            "these tests need Chromium or Chrome on PATH; install it, for example with apt-get install chromium"
        )
    session.install(".[test]", "playwright", *PINS)
    session.run("pytest", "-n", "0", "tests/test_explorer.py", "tests/test_explorer_browser.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format and lint, the package that a release would upload, and the release's metadata files."""
    session.install("ruff", "check-jsonschema", *PACKAGING, *PINS)
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    build_package(session, Path(session.create_tmp()))
    for schema, files in SCHEMAS.items():
        session.run("check-jsonschema", "--builtin-schema", schema, *map(str, files))


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist, and the wheel from the sdist, into ``dist/``."""
    session.install(*PACKAGING, *PINS)
    build_package(session, Path("dist"))


@nox.session(requires=["package"], reuse_venv=False)
@nox.parametrize("extra", SMOKES)
def smoke(session: nox.Session, extra: str) -> None:
    """Install the wheel in new environments and test it: without torch, with torch, and with each extra."""
    (wheel,) = Path("dist").resolve().glob("*.whl")
    pins = ("-c", str(CONSTRAINTS.resolve()))
    script = Path("tests", "smoke.py").resolve()
    if extra == "no torch":
        session.install("numpy", "scipy", *pins)
        session.install("--no-deps", str(wheel))
    else:
        session.install(str(wheel) if extra == "torch" else f"{wheel}[{extra}]", *pins)
    session.chdir(session.create_tmp())  # so that `import ksched` finds the wheel and not the clone
    session.run("python", str(script), extra)


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy over everything, pyright over the package."""
    session.install(".[test,docs]", "mypy", "nox", "pyright[nodejs]", "scipy-stubs", *PINS)
    session.run("mypy")
    session.run("pyright", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})  # do not ask for a newer version


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation and run its examples; any warning is an error."""
    session.install(".[docs,test]", *PINS)  # examples draw pictures and check schedules
    for builder, how in (("html", ["-E", "-j", "auto"]), ("doctest", [])):  # the second build reads no page again
        args = ("-W", "--keep-going", "-n", *how, "-d", "docs/_build/doctrees", "docs", f"docs/_build/{builder}")
        session.run("sphinx-build", "-b", builder, *args)


@nox.session
def recipes(session: nox.Session) -> None:
    """Run the documentation's recipes against the packages that they are for.

    ``-- --torchvision`` adds the ones that need torchvision, which must match the installed torch.
    """
    session.install(".[docs,test]", "einops", "pot", "sbi", "torchdiffeq", "tqdm", *PINS)
    session.install("--no-deps", "torchcfm", "flow_matching", "azula")  # their dependencies train models
    if "--torchvision" in session.posargs:
        session.install("deepinv", "nvidia-physicsnemo", *PINS)
    out = "docs/_build/recipes"
    session.run("sphinx-build", "-b", "doctest", "-W", "--keep-going", "-n", "-E", "docs", out, "docs/recipes.md")


@nox.session
def bench(session: nox.Session) -> None:
    """Run one benchmark with its arguments, ``-- NAME ARGUMENTS``, or all of them; the docs show their results."""
    session.install(".[all]", "scikit-learn", "torchsde", "transformers", *PINS)
    session.install("--no-deps", "k-diffusion", *PINS)  # its dependencies train models; only its sampling.py is loaded
    scripts = sorted(path.stem for path in Path("benchmarks").glob("[!_]*.py"))
    names = session.posargs[:1] or [name for name in scripts if not name.startswith("fit_")]  # fit_* write package data
    for name in names:
        session.run("python", f"benchmarks/{name}.py", *session.posargs[1:])


@nox.session(python="3.11")
def minimums(session: nox.Session) -> None:
    """Run the tests on the oldest numpy and scipy; ``-- --torch`` adds the oldest torch (gigabytes of wheels)."""
    posargs = [arg for arg in session.posargs if arg != "--torch"]
    oldest = {name: version for name, version in OLDEST.items() if name != "torch" or "--torch" in session.posargs}
    pins = [line for line in CONSTRAINTS.read_text().splitlines() if line.partition("==")[0] not in oldest]
    pins += [f"{name}=={version}" for name, version in oldest.items()]
    constraints = Path(session.create_tmp(), "constraints.txt")
    constraints.write_text("\n".join(pins) + "\n")
    session.install(".[test]", "-c", str(constraints))
    run_pytest(session, *posargs)

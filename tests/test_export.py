"""Exported plans give the same numbers as the run in Python, wherever the compiler is installed."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Answer, Command, command_of

import ksched
from ksched import Plan, arrays, build_sampler
from ksched.export import Format, export

COUNT = 5
START = np.array([14.0, -3.0, 0.5, 7.0, -20.0])

#: several stages, several steps, noises before and between calls, held and cut off ones, and the unconditional twin
PLANS: dict[str, dict[str, Any]] = {
    "heun": {},
    "uni_pc": {},
    "dpmpp_3m_sde": {},
    "heun with churn": {"s_churn": 10.0},
    "seeds_2": {},
    "lcm": {"noise_clip_std": 0.4},
    "euler_cfg_pp": {},
}

C = """
#include <stdio.h>
#include <stdlib.h>
#include "plan.h"

static void denoise(
    KSCHED_REAL *denoised, KSCHED_REAL *uncond, const KSCHED_REAL *x, size_t n, double s, void *context)
{
    (void)context;
    for (size_t i = 0; i < n; i++) denoised[i] = x[i] / (1 + s * s) + 0.1;
    for (size_t i = 0; uncond && i < n; i++) uncond[i] = x[i] / (2 + s * s);
}

static void noise(KSCHED_REAL *out, size_t n, double from, double to, void *context) {
    int drawn = ++*(int *)context;
    for (size_t i = 0; i < n; i++) out[i] = sin(drawn + 2.5 * i + from - to);
}

int main(void) {
    const double start[] = {START};
    size_t n = sizeof start / sizeof *start;
    KSCHED_REAL *buffers = malloc(KSCHED_BUFFERS * n * sizeof *buffers);
    int drawn = 0;
    for (size_t i = 0; i < n; i++) buffers[i] = start[i];
    KSCHED_REAL *result = ksched_run(buffers, n, denoise, noise, &drawn);
    for (size_t i = 0; i < n; i++) printf("%.17g\\n", (double)result[i]);
    free(buffers);
    return 0;
}
"""
RUST = """
mod plan;

fn main() {
    let mut drawn = 0.0;
    let result = plan::run(
        &[START],
        |x, sigma, denoised, uncond| {
            for i in 0..x.len() {
                denoised[i] = x[i] / (1.0 + sigma * sigma) + 0.1;
                uncond[i] = x[i] / (2.0 + sigma * sigma);
            }
        },
        |out, from, to| {
            drawn += 1.0;
            for (i, value) in out.iter_mut().enumerate() {
                *value = f64::sin(drawn + 2.5 * i as f64 + from - to);
            }
        },
    );
    for value in result {
        println!("{:e}", value);
    }
}
"""
JS = """
import { run, both } from "./plan.mjs";

let drawn = 0;
async function denoise(x, sigma) {
  const denoised = x.map((value) => value / (1 + sigma * sigma) + 0.1);
  return both ? [denoised, x.map((value) => value / (2 + sigma * sigma))] : denoised;
}
function noise(from, to) {
  drawn += 1;
  return start.map((_, i) => Math.sin(drawn + 2.5 * i + from - to));
}
const start = CONTAINER[START]CLOSE;
const result = await run(start, denoise, noise);
console.log(Array.from(result).join("\\n"));
"""
WRITTEN_START = ", ".join(map(str, START))


def plan_named(name: str) -> Plan:
    return build_sampler(name.partition(" ")[0], "karras", 6, **PLANS[name]).plan


def expected(plan: Plan) -> Any:
    drawn = 0

    def noise(sigma_from: float, sigma_to: float) -> Any:
        nonlocal drawn
        limit = plan.draws[drawn].limit
        drawn += 1
        return np.clip(np.sin(drawn + 2.5 * np.arange(COUNT) + sigma_from - sigma_to), -limit, limit)

    def denoise(x: Any, sigma: float) -> Any:
        return x / (1 + sigma**2) + 0.1, x / (2 + sigma**2)

    open_ended = dataclasses.replace(plan, draws=tuple(draw._replace(limit=math.inf) for draw in plan.draws))
    result = arrays.run(open_ended, denoise, START, noise)
    assert drawn == len(plan.draws)
    return result


def numbers(*command: str | Path) -> Any:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.array([float(line) for line in done.stdout.split()])


def run_c(plan: Plan, folder: Path, real: str = "double") -> Any:
    (folder / "plan.h").write_text(export(plan, "c"))
    (folder / "main.c").write_text(C.replace("START", WRITTEN_START))
    strict = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsanitize=undefined")
    numbers("cc", *strict, f"-DKSCHED_REAL={real}", folder / "main.c", "-o", folder / "main", "-lm")
    return numbers(folder / "main")


def run_rust(plan: Plan, folder: Path) -> Any:
    (folder / "plan.rs").write_text(export(plan, "rust"))
    (folder / "main.rs").write_text(RUST.replace("START", WRITTEN_START))
    numbers("rustc", "-D", "warnings", folder / "main.rs", "-o", folder / "main")
    return numbers(folder / "main")


def run_js(plan: Plan, folder: Path, container: str = "Float64Array.of(") -> Any:
    (folder / "plan.mjs").write_text(export(plan, "js"))
    start = f"{container}{WRITTEN_START}{')' if container.endswith('(') else ']'}"
    (folder / "main.mjs").write_text(JS.replace("CONTAINER[START]CLOSE", start))
    return numbers("node", folder / "main.mjs")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return command_of(capsys)


def succeed(answer: Answer) -> str:
    assert answer.code == 0, answer.err
    return answer.out


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}")


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_c, id="c", marks=needs("cc")),
        pytest.param(run_rust, id="rust", marks=needs("rustc")),
        pytest.param(run_js, id="js", marks=needs("node")),
    ],
)
def test_what_is_exported_runs_the_plan(run: Callable[[Plan, Path], Any], name: str, tmp_path: Path) -> None:
    plan = plan_named(name)
    result = run(plan, tmp_path)
    assert result.shape == (COUNT,)
    assert np.abs(result - expected(plan)).max() < 1e-12 * 20


@needs("cc")
def test_c_with_states_in_float(tmp_path: Path) -> None:
    plan = plan_named("dpmpp_3m_sde")
    assert np.abs(run_c(plan, tmp_path, "float") - expected(plan)).max() < 1e-5


@needs("node")
@pytest.mark.parametrize("container", ["[", "Float32Array.of("])
def test_javascript_with_other_arrays(container: str, tmp_path: Path) -> None:
    plan = plan_named("seeds_2")
    assert np.abs(run_js(plan, tmp_path, container) - expected(plan)).max() < 1e-5


def test_json_comes_back_and_other_formats_are_refused() -> None:
    plan = plan_named("heun")
    assert Plan.from_json(export(plan, Format.JSON)) == plan
    with pytest.raises(ValueError, match="format must be one of 'json', 'c', 'rust', 'js'; got 'go'"):
        export(plan, "go")


def test_a_title_stays_in_its_comment() -> None:
    text = export(plan_named("heun"), "c", "one */ int x;\ntwo")
    assert text.startswith("/* one * / int x; two\n")


def test_nothing_is_left_to_fill_in() -> None:
    for name, format in [(name, format) for name in PLANS for format in ("c", "rust", "js")]:
        assert "@" not in export(plan_named(name), format)


def test_the_command_writes_what_the_function_does(command: Command, tmp_path: Path) -> None:
    sampler = build_sampler("euler", "karras", 20)
    title = f"{sampler!r}, written by ksched {ksched.__version__}."
    for format in Format:
        text = succeed(command("plan", "euler", "karras", "-n", "20", "--format", format))
        assert text == export(sampler.plan, format, title)
        file = tmp_path / f"plan.{format}"
        assert succeed(command("plan", "euler", "karras", "-n", "20", "--format", format, "--output", str(file)))
        assert file.read_text() == text
    assert succeed(command("plan", "euler", "karras", "-n", "20", "--json")) == export(sampler.plan, "json")
    code, out, err = command("plan", "euler", "karras", "--output", str(file))
    assert (code, out) == (2, "")
    assert err == f"ksched: --output must be a new file; {file} exists: give another name, or --force to replace it\n"
    succeed(command("plan", "euler", "karras", "--output", str(file), "--force"))
    assert file.read_text() == succeed(command("plan", "euler", "--schedule", "karras"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("karras", "--schedule", "simple"), "--schedule must be given once; got 'karras' and --schedule simple"),
        (("--json", "--format", "c"), "give either --json or --format c"),
        (("--format", "go"), "--format"),
    ],
)
def test_two_instructions_of_which_one_could_be_followed(
    command: Command, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = command("plan", "euler", *arguments)
    assert (code, out) == (2, "")
    assert words in err

"""The command's help and usage errors: examples that run, pages that fit, options as flags, one clear sentence."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Answer, Command, command_of
from representatives import each

import ksched
from ksched import cli
from ksched.cli.app import make_command
from ksched.cli.help import option_names
from ksched.model_settings.library import recipes
from ksched.samplers.registry import samplers
from ksched.samplers.spec import FAMILIES
from ksched.schedules import SCHEDULES, schedule_options

PAGE = Path(__file__).parents[1] / "docs" / "generate.md"
COMMANDS = list(make_command().commands)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process: ``command("sigmas", "karras")``."""
    return command_of(capsys)


def succeed(answer: Answer) -> str:
    assert (answer.code, answer.err) == (0, "")
    return answer.out


# ------------------------------------------------------------------------------------------------------------ the help


def examples() -> list[str]:
    """Every command line of the help and of the page."""
    app = make_command()
    shown = [*app.examples, *(line for name in COMMANDS for line in app.commands[name].examples)]
    return shown + [line.strip() for line in re.findall(r"^    ((?:ksched|torchrun) .+)$", PAGE.read_text(), re.M)]


def test_every_command_has_examples_and_stands_on_the_page() -> None:
    app, page = make_command(), PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert any(line.startswith(f"ksched {name}") for line in app.commands[name].examples)
        assert f"| [`{name}`](#" in page
    assert len(examples()) > 50


@each("line", examples())
def test_every_example_can_be_read(line: str) -> None:
    words = shlex.split(line.partition(" #")[0].partition(" > ")[0])
    words = words[words.index("ksched") + 1 :]
    if words and words[0] in COMMANDS and "--help" not in words:
        context = make_command().commands[words[0]].make_context(words[0], words[1:])
        known = set(option_names())
        assert all(text.partition("=")[0] in known for text in context.params.get("option") or ())
    else:
        assert not words or words[0] in ("--install-completion", *COMMANDS)


@each("width", [40, 60, 100])
def test_help_pages_fit_the_screen(command: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in [None, *COMMANDS]:
        page = succeed(command(*([] if name is None else [name]), "--help"))
        assert "\x1b" not in page
        body = re.sub(r"Examples:\n(?:  .+\n)+", "", page)
        assert max(map(len, body.splitlines())) <= width, name
        assert "Examples:" in page
        assert page == succeed(command(*([] if name is None else [name]), "-h"))
        for word in ("INTEGER", "<int>", "<str>", "FLOAT", "[OPTIONS] COMMAND [ARGS]", "Show this message"):
            assert word not in page


def test_help_names_every_option_with_its_default(command: Command) -> None:
    page = succeed(command("plan", "--help"))
    for words in ("-n, --steps N", "[default: 20]", "SAMPLER", "--process NAME", "trig-flow", "[default: ksched]"):
        assert words in page


# --------------------------------------------------------------------------------------------------- options as flags


def test_options_of_samplers_and_schedules_are_flags(command: Command) -> None:
    names = {name for spec in samplers() for name in spec.options}
    assert set(option_names()) >= names | {name for rule in SCHEDULES for name in schedule_options(rule)}
    made = ksched.build_sampler("dpmpp_2m_sde", "karras", 6, eta=0.5, rho=5, s_noise=0.9)
    text = succeed(
        command(*["plan", "dpmpp_2m_sde", "karras", "6", "--eta", "0.5", "--rho=5", "--s-noise", "0.9", "--json"])
    )
    assert ksched.Plan.from_json(text) == made.plan
    assert text == succeed(
        command(*["plan", "--rho", "5", "--eta", "0.5", "dpmpp_2m_sde", "--s_noise=0.9", "karras", "-n6", "--json"])
    )
    flag, option = (command("sigmas", "karras", "9", *how) for how in (("--rho", "5"), ("-o", "rho=5")))
    assert succeed(flag) == succeed(option)


def test_a_flag_of_the_command_is_its_own(command: Command) -> None:
    """``--process`` takes the next word whatever it looks like, and ``--`` ends the flags."""
    assert "got '--rho'" in command("sigmas", "karras", "--process", "--rho", "5").err
    assert "unknown noise schedule '--rho'" in command("sigmas", "--", "--rho").err


# ------------------------------------------------------------------------------------------------------------ mistakes

MISTAKES = {
    "lst": "there is no command 'lst'; did you mean 'list'? 'ksched --help' lists all",
    "zzzzz": "there is no command 'zzzzz'; 'ksched --help' lists all",
    "--frobnicate": "ksched has no option --frobnicate; 'ksched --help' lists all",
    "list --famly euler": "list has no option --famly; did you mean --family? 'ksched list --help' lists all",
    "list euler karras": "list takes [NAME]; got 'karras' as well: see 'ksched list --help'",
    "list --json=yes": "--json takes no value",
    "list --family eulr": "adaptive, other; got 'eulr'; did you mean 'euler'?",
    "list --schedules --family euler": "--family selects samplers; leave out --family or --schedules",
    "sigmas": "sigmas needs SCHEDULE (Noise schedule; see 'ksched list'); none was given, for",
    "sigmas karras ten": "STEPS must be a whole number of at least 1; got 'ten'",
    "sigmas karras 1e400": "STEPS must be a whole number of at least 1; got '1e400'",
    "sigmas karras -5": "sigmas has no option -5; 'ksched sigmas --help' lists all",
    "sigmas karras 3 --steps 4": "--steps must be given once; got '3' and --steps 4, which mean the same",
    "sigmas karras --steps": "--steps needs a value, as in --steps N; none was given",
    "sigmas karras --steps=": "--steps must be a whole number of at least 1; got ''",
    "sigmas karras --steps 9999999": "--steps must be at most 1000000, so that its tables fit into memory; got 9999999",
    "sigmas karras --rho": "--rho needs a value, as in --rho VALUE; none was given",
    "sigmas karras --rhoo 5": "sigmas has no option --rhoo; did you mean --rho? 'ksched sigmas --help' lists all",
    "sigmas karras --rho nan": "schedule karras: rho must be at least 0.01 and at most 1000; got nan",
    "sigmas karras --solver-type heun": "schedule karras has no option 'solver_type'; it has rho",
    "sigmas karras --rho 5 -o rho=6": "--option rho is given twice",
    "sigmas karras --sigma-min nan": "--sigma-min must be a finite number above 0; got 'nan'",
    "sigmas karras --sigma-max 1e400": "--sigma-max must be a finite number above 0; got '1e400'",
    "sigmas simple --process flow --shift inf": "--shift must be a finite number above 0; got 'inf'",
    "sigmas simple --process folw": "flow-ve, trig-flow; got 'folw'; did you mean 'flow' or 'flow-ve'?",
    "plan euler karras --schedule beta": "--schedule must be given once; got 'karras' and --schedule beta",
    "plan euler --format cobol": "--format must be a format: json, c, rust, js; got 'cobol'",
    "plan euler --output .": "--output must be a new file; . exists: give another name, or --force to replace it",
    "plot karras --out mine.png": "--out must be a new file; mine.png exists: give another name, or --force",
    "doctor now": "doctor takes no argument; got 'now' as well: see 'ksched doctor --help'",
    "tune": "tune needs --data (A few hundred samples or latents",
    "show": "show needs PICTURE (A .png that ksched wrote); none was given, for example: ksched show seven.png",
}
#: words of typer, click and pydantic
THEIRS = re.compile(r"No such|Missing|Invalid|unexpected|valid integer|pydantic|Traceback|requires an argument|Usage:")


@each("line", MISTAKES)
def test_a_mistake_is_one_sentence_in_our_words(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.png").write_bytes(b"mine")
    code, out, err = command(*line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert MISTAKES[line] in err
    assert not THEIRS.search(err)
    assert Path("mine.png").read_bytes() == b"mine"
    assert len([*Path().iterdir()]) == 1


def test_a_long_or_strange_value_does_not_flood_the_screen(command: Command) -> None:
    for word in ("9" * 6000, "x" * 6000, "\x1b[31m" * 100):
        code, _, err = command("sigmas", "karras", "--steps", word)
        assert (code, err.count("\n"), "\x1b" in err) == (2, 1, False)
        assert len(err) < 250


def test_ctrl_c_is_130_and_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ksched.cli.sigmas.calculate_sigmas", interrupted)
    assert command("sigmas", "karras") == (130, "", "ksched: interrupted\n")


# --------------------------------------------------------------------------------------------------- what is printed


def test_completion_knows_every_kind_of_name(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_KSCHED_COMPLETE", "complete_bash")
    for words, names in {
        "ksched do": ["doctor"],
        "ksched plan euler kar": ["karras"],
        "ksched sigmas karras --process vp-": ["vp-linear", "vp-cosine"],
        "ksched plan euler --dialect co": ["comfyui"],
        "ksched plan euler --format r": ["rust"],
        "ksched list --family exp": [name for name in FAMILIES if name.startswith("exp")],
        "ksched recipes flux": [name for name in recipes if name.startswith("flux")],
        "ksched generate fox --noise py": ["pyramid"],
        "ksched generate fox --dtype b": ["bfloat16"],
        "ksched compare fox --samplers euler,dpmpp_3": ["euler,dpmpp_3m_sde", "euler,dpmpp_3m"],
        "ksched plan euler -o s_ch": ["s_churn="],
    }.items():
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert command().out.split() == names, words


@each("line", ["list", "list --family euler", "list karras", "recipes", "recipes sdxl", "sigmas karras", "plan euler"])
def test_json_is_all_that_is_printed(command: Command, line: str) -> None:
    assert json.loads(succeed(command(*line.split(), "--json")))


@each("width", [40, 52, 60, 100])
def test_lists_keep_names_whole_and_group_samplers(
    command: Command, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = succeed(command("list"))
    assert max(map(len, page.splitlines())) <= max(width, len("'ksched list NAME' shows everything about one."))
    first = [line.split()[0] for line in page.splitlines() if line.strip()]
    assert {*(spec.name for spec in samplers()), *SCHEDULES} <= set(first)
    headings = [line for line in page.splitlines() if line in FAMILIES.values()]
    assert headings == [FAMILIES[family] for family in FAMILIES if any(spec.family == family for spec in samplers())]
    models = {line.split()[0] for line in succeed(command("recipes")).splitlines()}
    assert set(recipes) <= models


def test_a_family_alone(command: Command) -> None:
    for name in ("cfg_pp", "CFG++"):
        facts = json.loads(succeed(command("list", "--family", name, "--json")))
        assert facts.keys() == {"samplers"}
        assert {entry["family"] for entry in facts["samplers"]} == {"cfg_pp"}
    assert command("list", "euler", "--family", "cfg_pp").code == 2


@each("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_can_be_printed(monkeypatch: pytest.MonkeyPatch, encoding: str, tmp_path: Path) -> None:
    written = io.BytesIO()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    odd = "plan-\u03c3-\udcff.json"  # a name with a letter and with a byte that is no text
    with pytest.raises(SystemExit) as end:
        cli.main(["plan", "euler", "karras", "2", "--output", odd, "--force"])
    sys.stdout.flush()
    assert end.value.code == 0
    sigma = b"\xcf\x83" if encoding == "utf-8" else b"\\u03c3"
    assert written.getvalue() == b"plan-" + sigma + b"-\xff.json\n"

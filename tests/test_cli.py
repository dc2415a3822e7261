"""The command line: its output, JSON that round-trips bit for bit, and its error messages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import matplotlib.image
import numpy as np
import pytest
from cases import NAMES, process_for
from command import Answer, Command, command_of
from representatives import each, in_turn, is_kind, short
from rich.console import Console

import ksched
import ksched.cli.app  # now, since rich moves the state of `random` when it is imported
from ksched import cli, pictures
from ksched.cli import list_names
from ksched.cli.app import make_app
from ksched.plan.plan import Plan
from ksched.samplers.registry import samplers
from ksched.schedules import DIALECTS, SCHEDULES, schedule_options

PROCESSES: dict[str, ksched.Process] = {
    "vp": ksched.VP(),
    "vp-linear": ksched.VP.linear(),
    "vp-cosine": ksched.VP.cosine(),
    "edm": ksched.EDM(),
    "angle-v": ksched.AngleV(),
    "ve": ksched.VE(),
    "cascade": ksched.Cascade(),
    "flow": ksched.Flow(),
    "flow-ve": ksched.FlowVE(),
    "trig-flow": ksched.TrigFlow(),
}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process: ``command("sigmas", "karras")``."""

    return command_of(capsys)


def shell(*arguments: str, code: str = "from ksched.cli import main; main()") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def succeed(answer: Answer) -> str:
    assert answer.code == 0, answer.err
    return answer.out


@short(lambda schedule, process: process == "vp" or schedule == "simple")
@pytest.mark.parametrize("process", cli.ProcessName)
@pytest.mark.parametrize("schedule", ksched.NoiseSchedule)
def test_sigmas_come_back_bit_for_bit(command: Command, schedule: ksched.NoiseSchedule, process: str) -> None:
    facts = json.loads(succeed(command("sigmas", schedule, "--steps", "7", "--process", process, "--json")))
    expected = ksched.calculate_sigmas(schedule, 7, PROCESSES[process])
    assert facts["sigmas"] == expected.tolist()
    assert facts["timesteps"] == [PROCESSES[process].timestep(sigma) for sigma in expected[:-1].tolist()]
    assert [float(lam) for lam in facts["half_log_snr"]] == [PROCESSES[process].level(s).lam for s in expected.tolist()]


def test_every_process_of_the_command_is_checked() -> None:
    assert list(PROCESSES) == list(cli.ProcessName)


def test_sigmas_take_ranges_and_options(command: Command) -> None:
    out = succeed(
        command("sigmas", "karras", "-n", "5", "--sigma-min", "0.1", "--sigma-max", "10", "-o", "rho=5", "--json")
    )
    assert json.loads(out)["sigmas"] == ksched.calculate_karras_sigmas(5, 0.1, 10, rho=5).tolist()


def test_sigmas_take_a_shift_and_zero_terminal_snr(command: Command) -> None:
    shifted = json.loads(succeed(command("sigmas", "simple", "--process", "flow", "--shift", "3", "--json")))
    assert shifted["sigmas"] == ksched.calculate_sigmas("simple", 20, ksched.Flow(3)).tolist()
    cascade = json.loads(succeed(command("sigmas", "simple", "--process", "cascade", "--shift", "1", "--json")))
    assert cascade["sigmas"] == ksched.calculate_sigmas("simple", 20, ksched.Cascade(1)).tolist()
    rescaled = json.loads(succeed(command("sigmas", "simple", "--zero-terminal-snr", "--json")))
    assert rescaled["sigmas"] == ksched.calculate_sigmas("simple", 20, ksched.VP(zero_terminal_snr=True)).tolist()


@short(lambda dialect: dialect in (ksched.Dialect.COMFYUI, ksched.Dialect.DIFFUSERS, ksched.Dialect.SD_CPP))
@pytest.mark.parametrize("dialect", ksched.Dialect)
@each("schedule", DIALECTS[ksched.Dialect.COMFYUI])
def test_sigmas_speak_dialects(command: Command, schedule: ksched.NoiseSchedule, dialect: ksched.Dialect) -> None:
    facts = json.loads(succeed(command("sigmas", schedule, "-n", "12", "--dialect", dialect, "--json")))
    assert facts["dialect"] == dialect
    assert facts["sigmas"] == ksched.calculate_sigmas(schedule, 12, dialect=dialect).tolist()


def test_sigmas_print_a_row_per_level(command: Command) -> None:
    header, *rows = succeed(command("sigmas", "karras", "--steps", "20")).splitlines()
    assert header.split() == ["step", "sigma", "timestep", "half", "log-SNR"]
    printed = [float(row.split()[1]) for row in rows]
    np.testing.assert_allclose(printed, ksched.calculate_sigmas("karras", 20), rtol=1e-9)
    assert rows[-1].split() == ["20", "0", "-", "inf"]


@short(lambda sampler, dialect: is_kind(sampler) and dialect == in_turn(NAMES.index(sampler), ksched.Dialect))
@pytest.mark.parametrize("dialect", ksched.Dialect)
@pytest.mark.parametrize("sampler", [spec.name for spec in samplers() if not spec.adaptive])
def test_plan_comes_back_bit_for_bit(command: Command, sampler: str, dialect: ksched.Dialect) -> None:
    process = process_for(sampler)
    flow = ["--process", "flow"] if process.is_flow else []
    how = ["--schedule", "karras", "--steps", "4", "--json", "--dialect", dialect, *flow]
    text = succeed(command("plan", sampler, *how))
    assert Plan.from_json(text) == ksched.build_sampler(sampler, "karras", 4, dialect=dialect, process=process).plan


@pytest.mark.parametrize("sampler", [spec.name for spec in samplers() if spec.adaptive])
def test_an_adaptive_sampler_has_no_plan_and_says_so(command: Command, sampler: str) -> None:
    code, out, err = command("plan", sampler)
    assert (code, out) == (2, "")
    assert err.startswith("ksched: this sampler is adaptive: it chooses its steps from the model")
    assert err.count("\n") == 1


def test_plan_prints_the_plan_and_one_line_of_facts(command: Command) -> None:
    out = succeed(command("plan", "dpmpp_2m", "--sigmas", "14.6,5,1.5,0.4,0"))
    plan = ksched.build_sampler("dpmpp_2m", sigmas=[14.6, 5, 1.5, 0.4, 0]).plan
    facts = "# 4 model calls, 0 noises, 3 terms in the widest row, 4 live registers"
    assert out == f"{plan}\n{facts}\n"


def test_plan_reads_options_by_their_type(command: Command) -> None:
    text = succeed(command("plan", "uni_pc", "-o", "order=2", "-o", "variant=bh2", "-o", "corrector=false", "--json"))
    assert Plan.from_json(text) == ksched.build_sampler("uni_pc", order=2, variant="bh2", corrector=False).plan
    text = succeed(command("plan", "DPM++ 2M SDE", "--schedule", "karras", "-o", "eta=0.5", "-o", "rho=5", "--json"))
    assert Plan.from_json(text) == ksched.build_sampler("dpmpp_2m_sde", "karras", eta=0.5, rho=5).plan


def test_plan_of_a_registered_sampler(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(run: Any, grid: Any, x: Any, *, strength: float = 1.0) -> Any:
        """Mine, [bold]so to say[/bold]."""
        for s, _ in grid.steps():
            x = strength * run.denoise(x, s)
        return x

    monkeypatch.setattr("ksched.samplers.registry._REGISTRY", {spec.name: spec for spec in samplers()})
    ksched.register_sampler("mine", mine, order=1)
    assert "+2.000000 D0" in succeed(command("plan", "mine", "--steps", "1", "-o", "strength=2"))
    listed = succeed(command("list"))
    assert "mine" in listed
    page = succeed(command("list", "mine"))
    assert "strength=1.0: any number" in page
    assert "Mine, [bold]so to say[/bold]." in page
    assert "source       none given" in page


def test_list_names_everything(command: Command) -> None:
    words = succeed(command("list")).split()
    assert {spec.name for spec in samplers()} <= set(words)
    assert set(SCHEDULES) <= set(words)


@pytest.mark.parametrize("width", [80, 240])
def test_samplers_are_a_line_each(command: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from rich.console import Console

    monkeypatch.setattr("ksched.cli.list_names.screen", lambda: Console(markup=False, highlight=False, width=width))
    lines = succeed(command("list", "--samplers")).splitlines()
    assert max(map(len, lines)) <= width
    rows = {line.split()[0]: line for line in lines if line.strip()}
    for spec in samplers():
        cells = rows[spec.name].split()
        assert cells[1:3] == ["-" if n is None else str(n) for n in (spec.order, spec.weak_order)]
        assert cells[3] == (str(spec.calls) if isinstance(spec.calls, int) else "varies")
        assert ("uncond" in cells, "adaptive" in cells) == (spec.uncond, spec.adaptive)
        assert (spec.summary.replace("`", "") in rows[spec.name]) == (width > 80)


PAGES = [*(spec.name for spec in samplers()), *SCHEDULES]


@pytest.mark.parametrize("part", range(4))
def test_list_one(command: Command, part: int) -> None:
    for name in PAGES[part::4]:
        check_page(command, name)


def check_page(command: Command, name: str) -> None:
    page = succeed(command("list", name))
    assert max(map(len, page.splitlines())) <= 100
    words = " ".join(page.split())
    for spec in samplers():
        if spec.name == name:
            assert page.startswith(f"sampler {name}\n")
            assert spec.summary.replace("`", "") in words
            assert all(f"{option.name}=" in page for option in spec.options.values())
    if name in list(SCHEDULES):
        assert f"schedule {name}\n" in page
        assert SCHEDULES[ksched.NoiseSchedule(name)].formula in words


def test_list_one_in_json(command: Command) -> None:
    assert not set(SCHEDULES) & {spec.name for spec in samplers()}
    for name in PAGES[::8]:
        facts = json.loads(succeed(command("list", name, "--json")))
        assert [entry["name"] for entries in facts.values() for entry in entries] == [name]


def test_list_one_in_any_spelling(command: Command) -> None:
    page = succeed(command("list", "DPM fast"))
    assert page.startswith("sampler dpm_fast\n")
    assert '    comfyui     as_ve=True, levels="range", end="sigma_min"\n' in page
    assert '        ("sigma_min" reproduces another program; not covered by the proofs)\n' in page
    assert "    k_diffusion sample_dpm_fast\n" in page
    assert succeed(command("list", "get_sigmas_karras")).startswith("schedule karras\n")
    assert succeed(command("list", "ddim", "--schedules")).startswith("schedule ddim_uniform\n")
    assert succeed(command("list", "ddim")).startswith("sampler ddim\n")


def test_list_in_json(command: Command) -> None:
    facts = json.loads(succeed(command("list", "--json")))
    assert [entry["name"] for entry in facts["schedules"]] == list(SCHEDULES)
    for entry, spec in zip(facts["samplers"], samplers(), strict=True):
        assert (entry["name"], entry["order"], entry["draws"]) == (spec.name, spec.order, spec.draws)
        assert entry["calls"] == (spec.calls if isinstance(spec.calls, int) else None)
        assert (entry["uncond"], entry["adaptive"]) == (spec.uncond, spec.adaptive)
        assert [tuple(o["quirks"]) for o in entry["options"]] == [o.quirks for o in spec.options.values()]
        assert {o["name"]: o["default"] for o in entry["options"]} == {
            o.name: o.default if o.default != float("inf") else "inf" for o in spec.options.values()
        }
    karras = facts["schedules"][list(SCHEDULES).index(ksched.NoiseSchedule.KARRAS)]
    assert [o["name"] for o in karras["options"]] == list(schedule_options(ksched.NoiseSchedule.KARRAS))


def test_list_halves(command: Command) -> None:
    assert json.loads(succeed(command("list", "--samplers", "--json"))).keys() == {"samplers"}
    assert json.loads(succeed(command("list", "--schedules", "--json"))).keys() == {"schedules"}
    assert "euler" not in succeed(command("list", "--schedules"))


MISTAKES = {
    "plan eulr": "unknown sampler 'eulr'; did you mean euler",
    "plan euler --dialect comfy": "sdnext; got 'comfy'; did you mean 'comfyui'?",
    "list eulr": "unknown sampler 'eulr'; did you mean euler",
    "list karas": "unknown noise schedule 'karas'; did you mean karras?",
    "list zzzzzz": "no sampler or schedule is named 'zzzzzz'; 'ksched list' shows every name",
    "list karras --samplers": "no sampler or schedule is named 'karras'",
    "demo --sampler eulr": "unknown sampler 'eulr'; did you mean euler",
    "demo --schedule karas": "unknown noise schedule 'karas'; did you mean karras",
    "demo --steps 0": "--steps must be a whole number of at least 1; got 0",
    "sigmas karas": "unknown noise schedule 'karas'; did you mean karras",
    "sigmas karras --steps 0": "--steps must be a whole number of at least 1; got 0",
    "sigmas karras --steps 2.5": "--steps must be a whole number of at least 1; got '2.5'",
    "sigmas karras --sigma-min 3 --sigma-max 1": "sigma_min must be > 0 and < sigma_max",
    "sigmas simple --sigma-max 99": "in the training range",
    "sigmas karras --process sd": "--process",
    "sigmas karras --shift 3": "--shift belongs to --process flow or cascade; got vp",
    "sigmas karras --dialect comfy": "--dialect must be a dialect: ksched, comfyui",
    "sigmas vp --process flow --dialect comfyui": "starts at sigma 152.167, but the largest sigma of",
    "plot vp --process flow --dialect comfyui": "starts at sigma 152.167, but the largest sigma of",
    "plot": "SCHEDULE",
    "plot karras karas": "unknown noise schedule 'karas'; did you mean karras",
    "plot karras --steps 0": "--steps must be a whole number of at least 1; got 0",
    "plot karras beta --option rh=5": "schedule karras or beta has no option 'rh'; did you mean 'rho'?",
    "plot karras --dialect forge": "sdnext; got 'forge'",
    "plot karras --out curves.gift": "svgz, tif, tiff, webp, avif; got 'curves.gift'",
    "sigmas karras --process edm --zero-terminal-snr": "--zero-terminal-snr belongs to the vp processes; got edm",
    "sigmas karras --option rh=5": "schedule karras has no option 'rh'; did you mean 'rho'?",
    "sigmas karras --option rho": "--option must be name=value",
    "sigmas karras -o rho=5 -o rho=6": "--option rho is given twice",
    "sigmas karras --frobnicate": "--frobnicate",
    "sigmas": "SCHEDULE",
    "plan ddim --option eta=much": "eta must be a number; got 'much'",
    "plan uni_pc --option corrector=maybe": "corrector must be True or False; got 'maybe'",
    "plan uni_pc --option variant=bh3": "variant must be one of 'bh1', 'bh2'; got 'bh3'",
    "plan euler --sigmas 1,2": "sigmas must be strictly decreasing",
    "plan euler --sigmas 2;1": "--sigmas must be numbers separated by commas",
    "plan euler --sigmas 2,1 --sigma-max 3": "has no option 'sigma_max'",
    "frobnicate": "frobnicate",
    "sigmas karras --steps 1000000000": "--steps",
    "plan euler --steps 1000000000": "--steps",
    "plot karras --steps 1000000000": "--steps",
    "demo --steps 1000000000": "--steps",
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items())
def test_a_mistake_is_one_line_and_code_2(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("ksched: ")
    assert message.lower() in err.lower()
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def paths_of_commands() -> list[list[str]]:
    """A command line with an empty text for every path that a command takes."""
    found = []
    for info in make_app().registered_commands:
        assert info.callback is not None
        for hint in get_type_hints(info.callback, include_extras=True).values():
            kind, *about = get_args(hint) or (hint,)
            if Path in (kind, *get_args(kind)):
                flag = [about[0].default] if isinstance(about[0].default, str) else []
                found.append([str(info.name), *flag, ""])
    return found


@pytest.mark.parametrize("arguments", paths_of_commands(), ids=" ".join)
def test_row_53_an_empty_path_is_not_the_current_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "must not be empty; write . for the current folder" in err
    assert not any(tmp_path.iterdir())


def test_every_path_is_looked_at() -> None:
    flags = {" ".join(arguments).strip() for arguments in paths_of_commands()}
    assert {"generate --out", "generate --plan", "generate --from", "compare --out", "show", "plot --out"} <= flags
    assert {"demo --out", "tune --out", "tune --data", "tune --labels", "generate --model", "generate --init"} <= flags


def test_an_output_folder_that_is_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, out, err = command("demo", "--out", str(tmp_path / "file"))
    assert (code, out) == (2, "")
    assert err == f"ksched: cannot write {tmp_path / 'file'}: {os.strerror(17)}\n"
    assert (tmp_path / "file").read_text() == "mine"


def test_plot_writes_a_picture_that_says_what_it_is(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("karras", "beta", "--steps", "9", "--process", "flow", "--shift", "3", "--dialect", "a1111")
    assert succeed(command("plot", *arguments, "-o", "rho=5")) == "karras-beta-9-steps-flow-shift-3-a1111-rho-5.png\n"
    assert succeed(command("plot", *list(SCHEDULES)[:6], "-n", "1")) == "6-schedules-1-step-vp.png\n"
    assert succeed(command("plot", "karras", "--out", "new/curves.svg")) == f"{Path('new', 'curves.svg')}\n"
    assert (tmp_path / "new" / "curves.svg").read_bytes().startswith(b"<?xml")
    assert len(list(tmp_path.rglob("*"))) == 4  # nothing half-written is left
    pixels = matplotlib.image.imread(tmp_path / "6-schedules-1-step-vp.png")
    assert min(pixels.shape[:2]) > 300


def test_plot_onto_a_folder(command: Command, tmp_path: Path) -> None:
    code, out, err = command("plot", "karras", "--out", str(tmp_path))
    assert (code, out) == (2, "")
    assert err == f"ksched: cannot write {tmp_path}: {os.strerror(21)}\n"


def test_version(command: Command) -> None:
    assert succeed(command("--version")) == f"ksched {ksched.__version__}\n"


def test_help_lists_the_commands(command: Command) -> None:
    out = succeed(command("--help"))
    assert all(name in out for name in ("demo", "list", "sigmas", "plot", "plan"))


def test_module_and_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ksched", "sigmas", "karras", "--steps", "3"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.skipif(os.name == "nt", reason="closes a pipe as POSIX shells do")
def test_a_reader_that_stops_early_hears_no_complaint() -> None:
    command = [sys.executable, "-m", "ksched", "sigmas", "karras", "--steps", "10000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_for_the_command(module: str) -> None:
    done = shell("list", code=f"import sys; sys.modules[{module!r}] = None; from ksched.cli import main; main()")
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", 'ksched: the command needs typer and rich: pip install "ksched[cli]"\n')


def test_lists_and_sigmas_need_neither_torch_nor_matplotlib() -> None:
    code = """
import sys
sys.modules["torch"] = sys.modules["matplotlib"] = None
from ksched.cli import main
for arguments in (["list"], ["sigmas", "karras"]):
    try:
        main(arguments)
    except SystemExit as error:
        assert error.code == 0, arguments
"""
    done = shell(code=code)
    assert done.returncode == 0, done.stderr


def test_demo_without_the_extra_for_pictures(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "ksched.pictures.plots", raising=False)
    monkeypatch.delattr(pictures, "plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = command("demo", "--out", str(tmp_path / "demo"))
    assert (code, out, err) == (1, "", 'ksched: pictures need matplotlib: pip install "ksched[plot]"\n')
    assert not (tmp_path / "demo").exists()


@pytest.mark.exhaustive  # the README's command runs it too
def test_demo_prints_a_table_and_where_the_pictures_are(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ksched.cli import demo as command_of_demo
    from ksched.cli import demo_of_words
    from ksched.pictures import demo, plots

    short = demo.run
    asked: list[Any] = []
    (tmp_path / "model_index.json").touch()
    monkeypatch.setattr(command_of_demo, "SHIPPED", tmp_path)
    monkeypatch.setattr(command_of_demo, "find_spec", lambda name: name)

    def from_text(*args: Any, **how: Any) -> tuple[Path, ...]:
        how.pop("progress")("drawing", 0.5)  # which shows nothing where nobody watches
        asked.append((args, how))
        return (Path("prompts.png"),)

    monkeypatch.setattr(demo_of_words, "from_text", from_text)
    # test_demo.py looks at the pictures themselves
    monkeypatch.setattr(plots, "save", lambda figures: tuple(path for path in figures if path.touch() is None))
    few = [ksched.NoiseSchedule.KARRAS, ksched.NoiseSchedule.SIMPLE, ksched.NoiseSchedule.BETA]
    monkeypatch.setattr(demo, "SCHEDULES", {name: SCHEDULES[name] for name in few})
    monkeypatch.setattr(demo, "run", lambda *args, **how: short(*args, **how, calls=(3,), maps=(4,), images=2))
    code, out, err = command("demo", "--steps", "4", "--out", str(tmp_path / "new" / "demo"))
    assert code == 0
    assert "100%" not in err  # nobody watches
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    out, _, more = out.partition("\n\nTry next:\n")
    assert [line[:9] for line in more.splitlines()[::2]] == ["  ksched "] * 3
    assert max(len(line) for line in out.splitlines()[:-4]) <= 80
    assert out.splitlines()[0].startswith("Error at 4 model calls (NFE), in % of the digits' spread")
    measured = [spec for spec in samplers() if spec.name in rows]
    assert {spec.name for spec in demo.measured(ksched.VP())} == {spec.name for spec in measured}
    for spec in measured:
        noise, *cells, where = rows[spec.name]
        assert noise == ("no" if spec.draws == 0 else "yes")
        assert len(cells) == 2
        assert float(cells[1].rstrip("*")) <= float(cells[0])
        assert where in list(SCHEDULES)
    assert rows["auto"][0] == "no"
    assert rows["auto"][1] == rows["auto"][2].rstrip("*")
    assert sum(rows[name][2].endswith("*") for name in ("auto", *(s.name for s in measured))) >= 2
    assert asked == [((tmp_path, "dpmpp_2m", "karras", 4), {"seed": 0, "out": tmp_path / "new" / "demo"})]
    assert out.splitlines()[-5] == "prompts.png"
    pictures = [Path(line) for line in out.splitlines()[-4:]]
    assert [path.name for path in pictures] == ["digits.png", "schedules.png", "errors.png", "error_curves.png"]
    assert all(path.is_file() and path.parent == tmp_path / "new" / "demo" for path in pictures)


# ------------------------------------------------------------------------------------------- row 39: the command itself


def test_row_39_alone_it_prints_the_help_and_no_error(command: Command) -> None:
    code, out, err = command()
    assert (code, err) == (0, "")
    assert "Usage: ksched" in out
    assert "generate" in out


def test_row_39_shells_complete_names(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--install-completion" in succeed(command("--help"))
    for words, names in (
        ("ksched plan dpmpp_3", ["dpmpp_3m_sde", "dpmpp_3m"]),
        ("ksched sigmas kar", ["karras"]),
        ("ksched list be", ["beta", "beta57"]),
        ("ksched generate fox --sampler heu", ["heun", "heunpp2"]),
        ("ksched generate fox --schedule bet", ["beta", "beta57"]),
        ("ksched demo --schedule simp", ["simple"]),
    ):
        monkeypatch.setenv("_KSCHED_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert command().out.split() == names


@pytest.mark.parametrize("width", [60, 70, 80, 119, 120])
def test_row_39_lists_do_not_cut_names(command: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(
        list_names, "screen", lambda: Console(file=sys.stdout, markup=False, highlight=False, width=width)
    )
    out = succeed(command("list"))
    assert max(map(len, out.splitlines())) <= width
    words = set(re.findall(r"\w+", out))
    assert {*ksched.SamplerType, *ksched.NoiseSchedule} <= words
    assert "\N{HORIZONTAL ELLIPSIS}" not in out


def test_row_35_calls(command: Command) -> None:
    assert "# 7 model calls" in succeed(command("plan", "heun", "--calls", "8"))
    for arguments, message in (
        (("plan", "rk4", "--calls", "3", "--steps", "2"), "give either steps or calls"),
        (("plan", "heun", "--calls", "3", "--sigmas", "2,1,0"), "leave out calls"),
        (("plan", "dpm_adaptive", "--calls", "3"), "its error estimate decides"),
        (("plan", "heun", "--calls", "10000000"), "100000"),
    ):
        code, _, err = command(*arguments)
        assert code == 2
        assert message in err


def test_row_35_calls_are_bounded() -> None:
    with pytest.raises(ValueError, match="calls must be at most 100000; got 10000000"):
        ksched.build_sampler("heun", calls=10**7)

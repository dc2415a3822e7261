"""Names of other programs: every row gives levels, a sampler or a reason, and unknown names get a suggestion."""

from __future__ import annotations

import re
from itertools import product
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from representatives import each

import ksched
from ksched import Dialect, NoiseSchedule, SamplerType
from ksched.dialects.peer import Peer, SamplerPeer
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.dialects.peers import find_peer, find_sampler, peer_sigmas
from ksched.samplers.registry import dialect_options, sampler_spec, samplers
from ksched.schedules import SCHEDULES, schedule_options

HAVE = [peer for peer in PEERS if peer.schedule is not None]
LACK = [peer for peer in PEERS if peer.schedule is None]
SAMPLERS_HERE = [peer for peer in SAMPLER_PEERS if peer.sampler is not None]
NO_SAMPLERS = [peer for peer in SAMPLER_PEERS if peer.sampler is None]
COMFYUI_HANDLERS = (
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
)
A1111_LABELS = (
    "Automatic",
    "Uniform",
    "Karras",
    "Exponential",
    "Polyexponential",
    "SGM Uniform",
    "KL Optimal",
    "Align Your Steps",
    "Simple",
    "Normal",
    "DDIM",
    "Beta",
)


def title(peer: Peer | SamplerPeer) -> str:
    return f"{peer.program}-{peer.name}"


PROGRAMS = [program for program in Dialect if program is not Dialect.KSCHED]
#: names that mean another sampler in one program than everywhere else
OTHERWISE = {(Dialect.SDNEXT, name) for name in ("DPM++ SDE", "DPM++ 3M", "DPM++ 3M SDE")}


@pytest.mark.parametrize("process", [ksched.VP(), ksched.Flow(3.0)], ids=["vp", "flow"])
@each("program", PROGRAMS)
def test_every_row_gives_what_it_says(program: Dialect, process: ksched.Process) -> None:
    for peer, steps in product((peer for peer in HAVE if peer.program is program), (1, 2, 10, 33)):
        assert peer.schedule is not None
        sigmas = peer_sigmas(peer.program, peer.name, steps, process)
        expected = ksched.calculate_sigmas(peer.schedule, steps, process, dialect=peer.dialect, **peer.options)
        # one formula, called anew: numpy 1.26 rounds exp and log by how an array lies in memory
        np.testing.assert_allclose(sigmas, expected, rtol=1e-15, err_msg=title(peer))
        assert np.isfinite(sigmas).all(), title(peer)
        assert (np.diff(sigmas) <= 0).all(), title(peer)
        written = eval(f"ksched.{peer.call}", {"ksched": ksched, "steps": steps, "process": process})
        np.testing.assert_allclose(written, expected, rtol=1e-15, err_msg=title(peer))


@each("peer", LACK)
def test_a_name_without_a_schedule_says_why(peer: Peer) -> None:
    assert (peer.call, dict(peer.options)) == ("", {})
    with pytest.raises(
        ValueError, match=re.escape(f"ksched has no schedule for {peer.program}'s {peer.name!r}: {peer.note}")
    ):
        peer_sigmas(peer.program, peer.name, 10)
    for name in re.findall(r"`([a-z_.]+)`", peer.note):  # what it sends the reader to is there
        assert name in SCHEDULES or callable(attrgetter(name)(ksched))


def test_the_table_is_whole() -> None:
    assert len({(peer.program, peer.name) for peer in PEERS}) == len(PEERS)
    assert all(find_peer(peer.program, peer.name) is peer for peer in PEERS)  # in any spelling, no name hides another
    assert {peer.program for peer in PEERS} == set(Dialect) - {Dialect.KSCHED}
    names = {program: [peer.name for peer in PEERS if peer.program is program] for program in Dialect}
    assert set(COMFYUI_HANDLERS) < set(names[Dialect.COMFYUI])
    assert set(A1111_LABELS) < set(names[Dialect.A1111])
    for peer in HAVE:
        assert peer.schedule is not None
        assert set(peer.options) <= set(schedule_options(peer.schedule))


def test_comfyui_handlers_are_our_names() -> None:
    assert all(find_peer("comfyui", name).schedule is NoiseSchedule(name) for name in COMFYUI_HANDLERS)


def test_spelling_does_not_matter() -> None:
    assert find_peer("A1111", "sgm_uniform") is find_peer(Dialect.A1111, "SGM Uniform")
    assert find_peer("ComfyUI", "karras scheduler").name == "KarrasScheduler"
    assert find_peer("a1111", "AYS 32").name == "Align Your Steps 32"


def test_options_go_before_the_table() -> None:
    sdxl = peer_sigmas("a1111", "Align Your Steps 11", 11, model="sdxl")
    assert sdxl[0] == pytest.approx(14.615, rel=1e-3)
    assert not np.allclose(sdxl, peer_sigmas("a1111", "Align Your Steps 11", 11))
    np.testing.assert_array_equal(
        peer_sigmas("k_diffusion", "get_sigmas_karras", 5, sigma_min=0.1, sigma_max=10, rho=5),
        ksched.calculate_karras_sigmas(5, 0.1, 10, rho=5),
    )


def test_what_descendants_do_otherwise() -> None:
    """Their formulas, written out: A1111 and Forge take beta quantiles in sigma, reForge in the table, rounded."""
    from scipy.stats import beta

    table = ksched.VP().sigmas
    low, high, share = table[0], table[-1], beta.ppf(1 - np.linspace(0, 1, 12), 0.6, 0.6)
    np.testing.assert_allclose(peer_sigmas("a1111", "Beta", 12)[:-1], low + share * (high - low), rtol=1e-9)
    places = np.rint(beta.ppf(1 - np.linspace(0, 1, 12, endpoint=False), 0.6, 0.6) * 999).astype(int)
    np.testing.assert_allclose(peer_sigmas("a1111", "Beta (reForge)", 12)[:-1], table[places], rtol=1e-12)
    turbo = np.rint(np.arange(1, 13)[::-1] * 1000 / 12 - 1).astype(int)
    np.testing.assert_allclose(peer_sigmas("a1111", "Turbo", 12)[:-1], table[turbo], rtol=1e-12)
    angles = np.linspace(np.arctan(high), np.arctan(low), 13)
    np.testing.assert_allclose(peer_sigmas("a1111", "KL Optimal", 12), np.tan(angles), rtol=1e-9)


@pytest.mark.parametrize(
    ("program", "name", "message"),
    [
        ("comfyui", "karas", "comfyui has no schedule 'karas'; did you mean 'karras'"),
        ("diffusers", "use_karras", "did you mean 'use_karras_sigmas'"),
        ("a1111", "Align Steps", "did you mean 'Align Your Steps'"),
        ("k_diffusion", "zzz", "k_diffusion has no schedule 'zzz'; known: get_sigmas_karras, get_sigmas_exponential"),
        ("ksched", "karras", "only names of other programs are looked up here; use calculate_sigmas"),
        ("comfy", "karras", "unknown dialect 'comfy'; did you mean comfyui"),
    ],
)
def test_a_miss_lists_near_names(program: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        peer_sigmas(program, name, 10)


def test_a_name_is_a_string() -> None:
    with pytest.raises(TypeError, match="must be a string; got 3"):
        find_peer("comfyui", 3)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ samplers


@pytest.mark.parametrize("process", [ksched.VP(), ksched.Flow(3.0)], ids=["vp", "flow"])
@each("program", PROGRAMS)
def test_every_row_builds_the_sampler_it_says(program: Dialect, process: ksched.Process) -> None:
    names: dict[str, Any] = {"build_sampler": ksched.build_sampler, "process": process}
    names |= {"schedule": "karras", "steps": 7}
    for peer in (peer for peer in SAMPLERS_HERE if peer.program is program):
        assert peer.sampler is not None
        built = eval(peer.call, names)
        ours = dialect_options(sampler_spec(peer.sampler), peer.dialect)
        how = {"process": process, "dialect": peer.dialect, **peer.options}
        assert built == ksched.build_sampler(peer.sampler, "karras", 7, **how), title(peer)
        assert dict(built.options) == {**ours, **peer.options}, title(peer)
        assert dict(peer.options).items().isdisjoint(ours.items()), title(peer)


@each("peer", NO_SAMPLERS)
def test_a_name_without_a_sampler_says_why(peer: SamplerPeer) -> None:
    assert (peer.call, dict(peer.options)) == ("", {})
    assert peer.note


@each("program", PROGRAMS)
def test_the_table_of_samplers_and_parse_agree(program: Dialect) -> None:
    for peer in (peer for peer in SAMPLER_PEERS if peer.program is program):
        assert find_sampler(peer.program, peer.name) is peer  # in any spelling, no name hides another
        assert find_sampler(peer.program, peer.name.upper().replace("_", " ")) is peer
        try:
            parsed = SamplerType.parse(peer.name)
        except ValueError:
            continue
        assert (parsed is peer.sampler) is ((program, peer.name) not in OTHERWISE), title(peer)


@each("program", PROGRAMS)
def test_what_a_note_sends_the_reader_to_is_there(program: Dialect) -> None:
    for peer in (peer for peer in SAMPLER_PEERS if peer.program is program):
        for name in re.findall(r"`([A-Za-z_.]+)`", peer.note):
            known = name in list(SamplerType) or name in ("drop_penultimate",)
            assert known or callable(attrgetter(name)(ksched)), (title(peer), name)
        for call in re.findall(r"`([A-Z]\w+\([^`]*\))`", peer.note):
            assert isinstance(eval(f"ksched.{call}", {"ksched": ksched, "shift": 3.0}), ksched.Process), title(peer)


def test_the_table_of_samplers_is_whole() -> None:
    assert len({(peer.program, peer.name) for peer in SAMPLER_PEERS}) == len(SAMPLER_PEERS)
    assert {peer.program for peer in SAMPLER_PEERS} == set(Dialect) - {Dialect.KSCHED}
    # what only some library of integrators calls by these names is no name of a program here
    ours_alone = set(SamplerType) - {peer.sampler for peer in SAMPLERS_HERE}
    ours_alone -= {SamplerType.EXP_AB, SamplerType.EXP_PC}  # nobody's names: methods of books that no program has whole
    ours_alone -= {SamplerType.AF3}  # of programs for proteins
    ours_alone -= {name for name in ours_alone if sampler_spec(name).flow_only}  # of programs that have no samplers
    assert {sampler_spec(name).family for name in ours_alone} <= {
        "runge_kutta",
        "exponential_single_step",
        "linear_multistep",
    }
    # all that registrations say of other programs is in the table, and names that say no more than ours are read
    said = [(spec.name, peer) for spec in samplers() for peer in spec.peers]
    assert [(peer.sampler, peer.name) for peer in SAMPLERS_HERE] == [
        (name, peer.name) for program in PROGRAMS for name, peer in said if peer.program is program
    ]
    for name, peer in said:
        if peer.read:
            assert SamplerType.parse(peer.name) is SamplerType(name), peer


def test_every_scheduler_class_of_diffusers_has_a_row() -> None:
    schedulers = pytest.importorskip("diffusers.schedulers")
    classes = {name for name in dir(schedulers) if name.endswith("Scheduler")}
    rows = {peer.name for peer in SAMPLER_PEERS if peer.program is Dialect.DIFFUSERS}
    assert classes <= rows


@pytest.mark.parametrize(
    ("program", "name", "message"),
    [
        ("comfyui", "eulr", "comfyui has no sampler 'eulr'; did you mean 'euler'"),
        ("diffusers", "UniPCMultistep", "did you mean 'UniPCMultistepScheduler'"),
        ("a1111", "DPM 2M", "did you mean 'DPM2"),
        ("k_diffusion", "zzz", "k_diffusion has no sampler 'zzz'; known: sample_euler, sample_euler_ancestral"),
        ("ksched", "euler", "only names of other programs are looked up here; use build_sampler"),
        ("comfy", "euler", "unknown dialect 'comfy'; did you mean comfyui"),
    ],
)
def test_a_missed_sampler_lists_near_names(program: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        find_sampler(program, name)


def test_a_name_of_a_sampler_is_a_string() -> None:
    with pytest.raises(TypeError, match="the name of a sampler of comfyui must be a string; got 3"):
        find_sampler("comfyui", 3)  # type: ignore[arg-type]

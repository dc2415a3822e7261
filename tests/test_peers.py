"""Names of other programs: every row gives levels or a reason, and a miss says what is near."""

from __future__ import annotations

import re
from operator import attrgetter

import numpy as np
import pytest

import ksched
import ksched.grid
from ksched import Dialect, NoiseSchedule
from ksched.peers import PEERS, Peer, find_peer, peer_sigmas
from ksched.schedules import SCHEDULES, schedule_options

HAVE = [peer for peer in PEERS if peer.schedule is not None]
LACK = [peer for peer in PEERS if peer.schedule is None]
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


def title(peer: Peer) -> str:
    return f"{peer.program}-{peer.name}"


@pytest.mark.parametrize("steps", [1, 2, 10, 33])
@pytest.mark.parametrize("process", [ksched.VP(), ksched.Flow(3.0)], ids=["vp", "flow"])
@pytest.mark.parametrize("peer", HAVE, ids=title)
def test_every_row_gives_what_it_says(peer: Peer, process: ksched.Process, steps: int) -> None:
    assert peer.schedule is not None
    sigmas = peer_sigmas(peer.program, peer.name, steps, process)
    expected = ksched.calculate_sigmas(peer.schedule, steps, process, dialect=peer.dialect, **peer.options)
    np.testing.assert_array_equal(sigmas, expected)
    assert np.isfinite(sigmas).all()
    assert (np.diff(sigmas) <= 0).all()
    assert (peer.call, eval(f"ksched.{peer.call}").tolist()) == (peer.call, expected.tolist())


@pytest.mark.parametrize("peer", LACK, ids=title)
def test_a_name_without_a_schedule_says_why(peer: Peer) -> None:
    assert (peer.call, dict(peer.options)) == ("", {})
    with pytest.raises(ValueError, match=re.escape(f"{peer.program}'s {peer.name!r} is no schedule here: {peer.note}")):
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
        ("ksched", "karras", "these are the names of other programs: take calculate_sigmas"),
        ("comfy", "karras", "unknown dialect 'comfy'; did you mean comfyui"),
    ],
)
def test_a_miss_lists_near_names(program: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        peer_sigmas(program, name, 10)


def test_a_name_is_a_string() -> None:
    with pytest.raises(TypeError, match="named by a string; got 3"):
        find_peer("comfyui", 3)  # type: ignore[arg-type]

"""Noise is a function of item seed and position: the same for any batch, dtype and order."""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
import struct
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from representatives import is_form, short
from torch.utils._python_dispatch import TorchDispatchMode

import ksched
from ksched import Run, build_sampler
from ksched.exact.mixture import Gaussian
from ksched.kernels import normal_table, on_device, philox
from ksched.noise import brownian, seeded, sources
from ksched.noise.brownian import BrownianNoise
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import CallableNoise, brownian_sampler, item_seeds, seeded_source
from ksched.plan.rows import Draw
from ksched.samplers.registry import samplers
from ksched.types import Array

DRAW = Draw(3.0, 1.5)
LIKE = torch.empty(3, 4, 8, 8)
CPU = torch.device("cpu")
VP, FLOW = ksched.VP(), ksched.Flow(3.0)

# By the rules' names, what must never change: first numbers of noises, and the hash of all their bytes.
GOLDEN = {
    "ksched noise 3": [
        ((0,), Draw(14.6, 5.0), (1, 4, 8, 8), [0.2700635, 0.7238599, -0.0171648, 0.5375322], "74827b49007efeac"),
        ((1, 2, 3), Draw(3.0, 1.5), (3, 4, 64, 64), [-1.013344, 0.2239866, 1.3867433], "d29843c4e5412e7d"),
        ((-1, 2**128 - 2, 2**70), Draw(math.inf, math.inf, 2, 1), (3, 5, 7), [-0.2912406], "62183d4abae9e821"),
        ((10**30,), Draw(0.0, 1.0, 0, 3), (1, 16, 70, 70), [2.6787479, 0.2057335], "d967165aa9299153"),
    ],
    "ksched brownian 3": [
        ((7,), Draw(math.inf, 14.6), (1, 4, 8, 8), [0.6402266, 0.6732317, 0.7888723, 0.2179565], "b7638cbb67446516"),
        ((7,), Draw(14.6, 5.0), (1, 4, 8, 8), [-0.1393813, 0.42987, -2.2688448, 0.14849], "e99cc459e1e43059"),
        ((1, 2, 3), Draw(5.0, 1.5), (3, 4, 64, 64), [0.0070819, -0.735947, 0.7155221], "b62c962b3ea34f11"),
        ((1, -2), Draw(1.5, 0.1, 2, 1), (2, 5, 7), [0.3259836, -0.7210191], "a86f5becbb70a418"),
        ((3,), Draw(1.5, 4.0, 1), (1, 16, 70, 70), [-0.7953096, 0.7454565], "30e6c786d5d1af77"),
    ],
}
SOURCES: dict[str, Callable[..., Any]] = {"seeded": SeededNoise, "brownian": lambda seeds: BrownianNoise(seeds, VP)}
both_kinds = pytest.mark.parametrize("kind", SOURCES)


def digest(values: torch.Tensor | npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


# --- The rule ---


@both_kinds
def test_golden_bytes(kind: str) -> None:
    """If this fails, pictures change: a new rule needs a new name."""
    for seeds, draw, shape, numbers, bytes_ in GOLDEN[sources.SCHEMES[kind]]:
        noise = SOURCES[kind](seeds)(draw, torch.empty(shape))
        assert noise.ravel()[: len(numbers)].tolist() == pytest.approx(numbers, abs=1e-7)
        assert digest(noise) == bytes_


def test_golden_tables() -> None:
    assert digest(normal_table._quantiles()) == "3f977bc91c08a512"
    assert digest(normal_table.table()) == "3b67522846ff9fb2"


def philox_block(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """One block of Philox4x64-10 as published, in Python's whole numbers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(q >> 64) ^ c[1] ^ k[0], q % 2**64, (p >> 64) ^ c[3] ^ k[1], p % 2**64]
        k = [(k[0] + 0x9E3779B97F4A7C15) % 2**64, (k[1] + 0xBB67AE8584CAA73B) % 2**64]
    return c


KNOWN_ANSWERS = [  # Random123, tests/kat_vectors, philox4x64 10: counter, key, block
    (
        [0] * 4,
        [0] * 2,
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        [2**64 - 1] * 4,
        [2**64 - 1] * 2,
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_ANSWERS)
def test_known_answers_of_random123(counter: list[int], key: list[int], block: list[int]) -> None:
    """The algorithm above, and numpy's generator, whose first block belongs to the next counter."""
    assert philox_block(counter, key) == block
    number = (sum(word << 64 * i for i, word in enumerate(counter)) - 1) % 2**256
    before = np.array([number >> 64 * i & 2**64 - 1 for i in range(4)], np.uint64)
    bits = np.random.Philox(counter=before, key=np.array(key, np.uint64))
    assert bits.random_raw(4).tolist() == block


@pytest.mark.parametrize("key", [(0, 0), (2**64 - 1, 2**64 - 1), (2**63 + 7, 2**40 - 1), (3, 2**63)], ids=str)
def test_words_are_those_of_the_published_algorithm(key: tuple[int, int]) -> None:
    expected = list(itertools.chain(*(philox_block([i, 0, 0, 0], key) for i in range(1, 301))))
    assert philox.words(key, 0, 1200).tolist() == expected
    assert philox.words(key, 0, 7).tolist() == expected[:7]
    assert philox.words(key, 201, 50).tolist() == expected[804:854], "any part of a stream can be had alone"
    for count in (1200, 7):
        words = on_device.words_on(CPU, [(0, 0), key], count)
        assert words.shape == (2, count)
        assert words[1].numpy().view(np.uint64).tolist() == expected[:count]
    lanes = on_device.lanes(words).numpy()
    assert lanes.tolist() == words.numpy().view(np.uint16).ravel().tolist()
    assert philox.words(key, 2**64 - 2, 8).tolist() == [
        *philox_block([2**64 - 1, 0, 0, 0], key),
        *philox_block([0, 1, 0, 0], key),
    ]


def table_from_scratch() -> npt.NDArray[np.float32]:
    """The rows that a lane looks up: a lattice of the quantiles."""
    quantiles = normal_table._quantiles()
    rows = [[(2 * r + 1) * g % 131072 // 2 for g in (1, 13723, 35237, 36737)] for r in range(65536)]
    table: npt.NDArray[np.float32] = quantiles[np.array(rows)]
    return table


def rows_from_scratch(key: bytes, first: int, blocks: int) -> npt.NDArray[np.float32]:
    """The numbers that some blocks of a stream look up."""
    words = (philox_block([first + i, 0, 0, 0], struct.unpack("<QQ", key)) for i in range(1, blocks + 1))
    return normal_table.table()[[word >> 16 * i & 0xFFFF for word in itertools.chain(*words) for i in range(4)]].ravel()


def test_the_rule_from_scratch() -> None:
    """Hash, words, lanes, table and sums, one number at a time; a whole chunk, and one of four times three blocks."""
    assert (normal_table.table() == table_from_scratch()).all()
    draw, seed = Draw(14.6, 5.0, 3, 1), 2**100 + 5
    salt = seed.to_bytes(16, "little")
    position = struct.pack("<ddqq", 14.6, 5.0, 3, 1)
    key = hashlib.blake2b(position, digest_size=16, key=b"ksched noise 3", salt=salt).digest()
    expected = []
    for first, blocks in ((0, 1024), (1024, 12)):
        numbers, quarter = rows_from_scratch(key, first, blocks), 16 * blocks
        for sign, swapped in itertools.product((1, -1), (False, True)):
            for i in range(quarter):
                a, b, c, d = numbers[i::quarter]
                one, other = (b + d, a - c) if swapped else (a + c, b - d)
                expected.append(float(one + other if sign > 0 else one - other))
    noise = SeededNoise((seed,))(draw, torch.empty(1, 65536 + 600))
    assert noise.tolist() == [expected[: 65536 + 600]]


def test_the_path_from_scratch() -> None:
    """The sum over the nodes of an interval, rounded to float32 after each operation."""
    seed, a, b = 11, -172, 70
    total = None
    for node, coefficient in brownian._increment(a, b)[0]:
        position = struct.pack("<qq?q", 2, 1, False, node)
        salt = seed.to_bytes(16, "little")
        key = hashlib.blake2b(position, digest_size=16, key=b"ksched brownian 3", salt=salt).digest()
        part = rows_from_scratch(key, 0, 3) * np.float32(2 * coefficient)
        total = part if total is None else total + part
    assert total is not None
    draw = Draw(sigma_of(a * CELL), sigma_of(b * CELL), 2, 1)
    noise = BrownianNoise((seed,), VP)(draw, torch.empty(1, 180))
    assert noise[0].tolist() == total[:180].tolist()


@both_kinds
def test_whole_chunks_do_not_depend_on_what_follows(kind: str) -> None:
    chunk = normal_table.CHUNK
    longest = SOURCES[kind]((5,))(DRAW, torch.empty(1, 3 * chunk + 50))[0]
    for size in (chunk, chunk + 1, 2 * chunk - 300, 2 * chunk, 3 * chunk):
        noise = SOURCES[kind]((5,))(DRAW, torch.empty(1, size))[0]
        same = size if kind == "brownian" else size // chunk * chunk  # a path mixes nothing
        assert torch.equal(noise[:same], longest[:same])
        assert not (noise[same:] == longest[same:size]).any()
    assert len(longest.unique()) > 0.9 * len(longest), "no part of it is repeated"


@pytest.mark.parametrize("count", [1, 256, 1000, 65536, 65537, 150000])
def test_an_item_part_by_part(count: int) -> None:
    """Whole chunks or beginnings of them, in any order."""
    source = SeededNoise((5, 2**90))
    whole = source(DRAW, torch.empty(2, count)).numpy()
    for stream, expected in zip(source.streams(DRAW, count), whole, strict=True):
        for first in reversed(range(0, count, normal_table.CHUNK)):
            left = min(normal_table.CHUNK, count - first)
            for size in {1, left // 2, left} - {0}:
                part = np.full(size, np.nan, np.float32)
                stream(first, part)
                assert part.tobytes() == expected[first : first + size].tobytes()


def test_every_part_of_the_key_matters_and_nothing_else() -> None:
    base = SeededNoise((1, 2, 3))(DRAW, LIKE)
    for other in (Draw(3.0, 1.5000001), Draw(3.0000001, 1.5), Draw(3.0, 1.5, 1), Draw(3.0, 1.5, 0, 1)):
        assert not torch.equal(base, SeededNoise((1, 2, 3))(other, LIKE))
    assert torch.equal(base, SeededNoise((1, 2, 3))(DRAW, LIKE))
    assert torch.equal(base.flip(0), SeededNoise((3, 2, 1))(DRAW, LIKE))
    assert torch.equal(base[1:2], SeededNoise((2,))(DRAW, LIKE[:1]))
    assert not torch.equal(base[:1], SeededNoise((1 + 2**64,))(DRAW, LIKE[:1])), "seeds are not cut to 64 bits"
    assert torch.isfinite(SeededNoise((-1,))(DRAW, LIKE[:1])).all()


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": torch.empty_like,
    "channels last": lambda x: torch.empty_like(x, memory_format=torch.channels_last),
    "transposed": lambda x: torch.empty_like(x.permute(3, 1, 2, 0).contiguous()).permute(3, 1, 2, 0),
    "part of another": lambda x: torch.empty(2 * len(x), *x.shape[1:], dtype=x.dtype)[::2],
    "every second column": lambda x: torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)[..., ::2],
}


@both_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_all_layouts_and_dtypes_see_the_same_noise(kind: str, dtype: torch.dtype) -> None:
    """With ``out`` or without; items of one chunk, and of more, which end within a row."""
    for shape in ((2, 3, 5, 7), (2, 3, 150, 160), (2, 2, 270, 280)):
        base = SOURCES[kind]((1, 2))(DRAW, torch.empty(shape))
        assert base.is_contiguous()
        for make in LAYOUTS.values():
            like = make(base.to(dtype))
            assert torch.equal(SOURCES[kind]((1, 2))(DRAW, like), base.to(dtype))
            out = make(base.to(dtype)).fill_(torch.nan)
            before = out.stride(), out.data_ptr()
            assert SOURCES[kind]((1, 2))(DRAW, like, out=out) is out
            assert (out.stride(), out.data_ptr()) == before
            assert torch.equal(out, base.to(dtype))
    big = torch.full((4, 3, 5), 9.0)
    SOURCES[kind]((1, 2))(DRAW, torch.empty(2, 3, 5), out=big[::2])
    assert (big[1::2] == 9).all(), "nothing else is written to"


@both_kinds
def test_out_must_be_like_the_state(kind: str) -> None:
    source, like = SOURCES[kind]((1, 2)), torch.empty(2, 3)
    for out in (torch.empty(2, 4), torch.empty(2, 3).double(), torch.empty(2, 3, device="meta")):
        with pytest.raises(ValueError, match=r"out must have the state's shape, dtype and device, \(2, 3\)"):
            source(DRAW, like, out=out)
    with pytest.raises(ValueError, match="one seed per item; got 2 seeds for a batch of 3"):
        source(DRAW, torch.empty(3, 3))


def test_own_noise_ignores_out() -> None:
    mine, out = torch.ones(2, 3), torch.zeros(2, 3)
    assert CallableNoise(lambda s, t: mine)(DRAW, out, out=out) is mine
    assert (out == 0).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "float64", "bfloat16"])
def test_little_memory_beside_the_result(layout: str) -> None:
    like = torch.empty(1, 16, 512, 256, dtype=getattr(torch, layout, torch.float32))
    out = LAYOUTS[layout](like) if layout in LAYOUTS else torch.empty_like(like)
    source = SeededNoise((1,))
    source(DRAW, like, out=out)
    tracemalloc.start()
    source(DRAW, like, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < peak < 0.05 * 4 * like.numel(), "5 % of the float32 numbers"


@both_kinds
def test_threads_do_not_disturb_each_other(kind: str) -> None:
    draws = [Draw(s, t) for s, t in pairwise(np.geomspace(20, 0.1, 65).tolist())]
    like = torch.empty(2, 3, 40, 40)
    source = SOURCES[kind]((1, 2))
    serial = [SOURCES[kind]((1, 2))(draw, like) for draw in draws]
    start = threading.Barrier(len(draws))

    def one(draw: Draw) -> torch.Tensor:
        start.wait()
        for _ in range(5):
            noise: torch.Tensor = source(draw, like)
        return noise

    with ThreadPoolExecutor(len(draws)) as pool:
        for noise, expected in zip(pool.map(one, draws), serial, strict=True):
            assert torch.equal(noise, expected)


# --- On a device, for which the CPU stands in ---


def not_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (seeded, brownian):
        monkeypatch.setattr(module, "is_host", lambda x: False)


class Discipline(TorchDispatchMode):
    """Refuses float64 tensors, what reads a tensor back or copies one, and what may contract a product with a sum."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.partition(".")[0]
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item"), f"{name} reads back"
        assert name not in ("lift_fresh", "scalar_tensor"), f"{name} begins on the host"
        assert name not in ("addcmul", "addcdiv", "lerp"), f"{name} may be contracted"
        assert "alpha" not in (kwargs or {}), f"{name} may be contracted"
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            assert not (isinstance(value, torch.Tensor) and value.dtype == torch.float64), f"{name} made float64"
        return result


@both_kinds
@pytest.mark.parametrize("shape", [(3, 1), (1, 5, 7), (3, 4, 32, 32), (2, 3, 150, 160), (2, 65536), (0, 4)], ids=str)
def test_a_device_has_the_bytes_of_the_host(kind: str, shape: tuple[int, ...], monkeypatch: Any) -> None:
    """In sequence too, where what was kept of the last interval is used."""
    seeds, like = tuple(range(-1, shape[0] - 1)), torch.empty(shape)
    draws = [Draw(20.0, 3.0), Draw(3.0, 1.5), Draw(1.5, 1.4), Draw(1.4, 2.0, 1), Draw(0.03, 0.0, 1)]
    host = [SOURCES[kind](seeds)(draw, like) for draw in draws]
    not_on_the_host(monkeypatch)
    source = SOURCES[kind](seeds)
    for draw, expected in zip(draws, host, strict=True):
        assert torch.equal(source(draw, like), expected)
    half = torch.empty_like(like, dtype=torch.bfloat16)
    assert torch.equal(source(draws[0], half, out=half), host[0].bfloat16())


@both_kinds
def test_a_device_is_not_waited_for(kind: str, monkeypatch: Any) -> None:
    not_on_the_host(monkeypatch)
    source, out = SOURCES[kind]((1, 2, 3)), torch.empty_like(LIKE)
    source(DRAW, LIKE)  # which brings the table
    with Discipline():
        for draw in (Draw(20.0, 3.0), Draw(3.0, 0.5)):
            source(draw, LIKE, out=out)
            source(draw, LIKE.half())


def test_the_table_cannot_come_while_a_graph_is_captured(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="draw once before you capture"):
        on_device.table_on.__wrapped__(torch.device("cuda"))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 128), (300,), (513,)])
def test_many_short_items_are_those_of_each_alone(shape: tuple[int, ...]) -> None:
    """Short items of a large batch are made together, with the same bytes as each item made alone."""
    seeds = (*range(-3, 97), 2**64 + 3)
    draw, like = Draw(3.0, 1.0, 1, 2), torch.empty(len(seeds), *shape)
    together = SeededNoise(seeds)(draw, like)
    for i, seed in enumerate(seeds):
        assert torch.equal(together[i : i + 1], SeededNoise((seed,))(draw, like[:1]))
    for other in (like.double(), like.bfloat16(), like.mT.contiguous().mT if like.ndim > 2 else like[:, ::1]):
        assert torch.equal(SeededNoise(seeds)(draw, other), together.to(other.dtype))


@both_kinds
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_has_the_bytes_of_the_host(kind: str) -> None:
    """Without a wait, in a captured graph too."""
    draws, device = [Draw(20.0, 3.0), Draw(3.0, 1.5), Draw(1.5, 0.1)], torch.device("cuda")
    expected = [SOURCES[kind]((1, 2, 3))(draw, LIKE) for draw in draws]
    like, source = LIKE.to(device), SOURCES[kind]((1, 2, 3))
    SOURCES[kind]((1, 2, 3))(DRAW, like)  # which brings the table
    torch.cuda.set_sync_debug_mode("error")
    try:
        noises = [source(draw, like) for draw in draws]
        out, graph = torch.empty_like(like), torch.cuda.CUDAGraph()
        fresh = SOURCES[kind]((1, 2, 3))
        with torch.cuda.graph(graph):
            fresh(draws[1], like, out=out)
        graph.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for noise, host in zip(noises, expected, strict=True):
        assert torch.equal(noise.cpu(), host)
    assert torch.equal(out.cpu(), expected[1])


# --- The law ---


def test_the_law_is_what_it_is_said_to_be() -> None:
    """From a column of the table alone: a number is the sum of four of its entries."""
    table = np.sort(normal_table.table()[:, 2]).astype(np.float64)
    for column in normal_table.table().T:
        assert (np.sort(column) == table).all()
    assert table.shape == (65536,)
    assert (table == -table[::-1]).all()
    assert (np.diff(table) > 0).all()
    second, fourth, sixth = (float(np.mean(table**power)) for power in (2, 4, 6))
    variance = 4 * second
    k4, k6 = 4 * (fourth - 3 * second**2), 4 * (sixth - 15 * fourth * second + 30 * second**3)  # cumulants add up
    assert abs(variance - 1) < 6e-10
    assert k4 == pytest.approx(-2.56e-5, abs=1e-7), "kurtosis - 3"
    assert k6 + 15 * k4 * variance + 15 * variance**3 - 15 == pytest.approx(-6.87e-4, abs=1e-6)
    assert 4 * table[-1] == pytest.approx(8.802, abs=1e-3)
    t = np.linspace(1e-3, 14, 2000)  # beyond, neither characteristic function is above 1e-15
    gap = np.array([np.cos(table * frequency).mean() ** 4 for frequency in t]) - np.exp(-(t**2) / 2)
    assert np.abs(gap).max() == pytest.approx(5.8e-7, rel=0.01)
    at = np.linspace(0, 6, 301)
    error = (np.sin(at[:, None] * t) / t * gap).sum(1) * (t[1] - t[0]) / math.pi  # of the distribution function
    assert np.abs(error).max() == pytest.approx(1.41e-7, rel=0.01)


def test_the_quantiles_are_the_same_on_every_machine() -> None:
    """No number is near the middle between two of float32, so that last digits of log and sqrt do not matter."""
    half = [NormalDist().inv_cdf(0.5 + (i + 0.5) / 65536) for i in range(32767)]
    outermost = math.sqrt(32768 - sum(map(Fraction, (value * value for value in half))))
    values = np.array([*half, outermost]) / 2
    near = values.astype(np.float32)
    assert (near == normal_table._quantiles()[32768:]).all()
    for other in (np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(9))):
        apart = np.abs(values - (near.astype(np.float64) + other.astype(np.float64)) / 2) / values
        assert apart.min() > 1e-12
        assert apart[-1] > 8e-9, "a difference of large numbers, so good to 1e-11 only"


PAIRS = list(itertools.combinations(range(4), 2))


def test_the_joint_law_of_a_row() -> None:
    """Moments before and after mixing four rows. Odd moments are 0, since the table has each row's negative."""
    table = 2 * normal_table.table().astype(np.float64)
    assert (table == -table[::-1]).all()
    second = table.T @ table / len(table)
    assert np.abs(second - np.eye(4)).max() == pytest.approx(1.455e-4, rel=0.01)
    cumulants = {}
    for power in itertools.product(range(4), repeat=4):
        if sum(power) == 4:
            i, j, k, m = (column for column, times in enumerate(power) for _ in range(times))
            pairs = second[i, j] * second[k, m] + second[i, k] * second[j, m] + second[i, m] * second[j, k]
            cumulants[power] = np.prod(table ** np.array(power), axis=1).mean() - pairs
    assert max(map(abs, cumulants.values())) == pytest.approx(2.955e-3, rel=0.01)
    # A sum of four numbers of half the size has a quarter of the cumulant.
    squares = [cumulants[tuple(2 * (k in pair) for k in range(4))] / 4 + 2 * second[pair] ** 2 for pair in PAIRS]
    assert np.abs(squares).max() / 2 == pytest.approx(5.15e-5, rel=0.01)


@short(lambda i, j: (i, j) in (PAIRS[0], PAIRS[-1]))
@pytest.mark.parametrize(("i", "j"), PAIRS)
def test_the_joint_distribution_of_two_numbers(i: int, j: int) -> None:
    """Of shares of the normal law before four rows are mixed, and of numbers afterwards."""
    ranks = np.argsort(np.argsort(normal_table.table(), axis=0), axis=0)[:, [i, j]]
    counts = np.bincount(ranks[:, 0] // 256 * 256 + ranks[:, 1] // 256, minlength=65536).reshape(256, 256)
    shares = counts.cumsum(0).cumsum(1) / 65536
    uniform = np.arange(1, 257) / 256
    assert np.abs(shares - np.outer(uniform, uniform)).max() < 8.1e-5
    # By inversion of the characteristic function of both: its midpoint rule, whose terms at t and -t are combined.
    step = 0.2
    t = step * (np.arange(65) + 0.5)
    one, other = (np.outer(t, normal_table.table()[:, k].astype(np.float64)) for k in (i, j))
    cosines, sines = (f(one) @ f(other).T / 65536 for f in (np.cos, np.sin))
    normal = np.exp(-(t[:, None] ** 2 + t**2) / 2)
    same, opposite = ((cosines - sign * sines) ** 4 - normal for sign in (1, -1))
    at = np.outer(np.linspace(-5, 5, 101), t)
    even, odd = (same - opposite) / np.outer(t, t), (same + opposite) / np.outer(t, t)
    error = np.cos(at) @ even @ np.cos(at).T - np.sin(at) @ odd @ np.sin(at).T
    assert 1e-6 < np.abs(error).max() * step**2 / (2 * math.pi**2) < 1.25e-5


def test_numbers_are_independent_normals() -> None:
    """Moments, distribution and correlations of a million numbers, within 5 standard errors."""
    noise = SeededNoise(tuple(range(64)))(DRAW, torch.empty(64, 4, 64, 64)).double().numpy().reshape(64, -1)
    size = noise.size
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((noise**power).mean() - moment) < 5 * (spread / size) ** 0.5
    from scipy.stats import kstest  # takes a second to import

    assert kstest(noise.ravel(), "norm").statistic < 1.95 / size**0.5, "at the level of 0.1 %"
    across = np.corrcoef(noise) - np.eye(64)
    assert np.abs(across).max() < 5 / noise.shape[1] ** 0.5
    for values in (noise, noise**2 - 1, np.abs(noise) ** 3 * np.sign(noise)):
        spread = values.var()
        for apart in (*range(1, 9), 15, 16, 17, 63, 64, 65, 256, 1024, 4096, 8192, 12288):
            mean = (values[:, apart:] * values[:, :-apart]).mean()
            assert abs(mean) < 5 * spread / (size - 64 * apart) ** 0.5, f"numbers {apart} apart"
        rows = values.reshape(64, 4, -1).transpose(1, 0, 2).reshape(4, -1)  # the four sums of the same a, b, c, d
        assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 5 / rows.shape[1] ** 0.5
        rows = values.reshape(-1, 4).T  # the four numbers of a row
        assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 5 / rows.shape[1] ** 0.5
    assert (noise[:, 1:] != noise[:, :-1]).all(), "no equal neighbours"


def test_draws_are_independent() -> None:
    draws = [*(Draw(s, s / 2, v, n) for s in (8.0, 4.0, math.inf) for v in range(4) for n in range(4))]
    noises = np.stack([SeededNoise((5,))(draw, torch.empty(1, 16384))[0].double().numpy() for draw in draws])
    assert np.abs(np.corrcoef(noises) - np.eye(len(draws))).max() < 5 / 128
    assert np.abs(np.corrcoef(noises**2) - np.eye(len(draws))).max() < 5 / 128


# --- Seeds ---


def test_item_seeds() -> None:
    assert item_seeds(5, 3) == (5, 6, 7)
    assert item_seeds([9, 9, 1], 3) == (9, 9, 1)
    assert item_seeds(np.int64(5), 1) == (5,)
    assert item_seeds(np.array([5, 6]), 2) == (5, 6)


# --- Brownian paths ---

CELL = 1 / brownian._CELLS


def sigma_of(lam: float, process: ksched.Process = VP) -> float:
    return process.sigma_limit if lam == -math.inf else process.level_at(lam).label


def path_noises(
    *draws: Draw, seeds: tuple[int, ...] = (7,), process: ksched.Process = VP, size: int = 4096
) -> list[Array]:
    """Noises of a fresh source, float64, flattened."""
    source = BrownianNoise(seeds, process)
    return [source(draw, torch.empty(len(seeds), size)).double().numpy().ravel() for draw in draws]


def v_share(a: float, b: float, c: float) -> float:
    """Share of [a, b] in [a, c], in the clock exp(2 lam)."""
    return math.expm1(2 * (b - a)) / math.expm1(2 * (c - a)) if a > -math.inf else math.exp(2 * (b - c))


def test_covariances_of_a_path_are_exactly_those_of_brownian_motion() -> None:
    """In the coefficients, so without chance: shared time over the root of both durations, 0 for disjoint intervals."""
    rng = np.random.default_rng(0)
    low, wide, cells = brownian._LOWEST, brownian._WIDE, brownian._CELLS
    ends = np.concatenate(
        [rng.integers(low, 8 * cells, 30), rng.integers(0, 2 * cells, 20), [low, wide, 0, cells, 1, 2]]
    )
    pairs = [tuple(sorted(pair)) for pair in rng.choice(ends, (150, 2)).tolist() if pair[0] != pair[1]]
    forms = [dict(brownian._increment(a, b)[0]) for a, b in pairs]
    nodes = {node: i for i, node in enumerate(dict.fromkeys(node for form in forms for node in form))}
    matrix = np.zeros((len(forms), len(nodes)))
    for row, form in zip(matrix, forms, strict=True):
        row[[nodes[node] for node in form]] = list(form.values())
    a, b = np.array(pairs, dtype=float).T * CELL
    clock = np.exp(2 * np.stack([a, b]))
    clock[np.stack([a, b]) == low * CELL] = 0
    shared = np.minimum(clock[1][:, None], clock[1]) - np.maximum(clock[0][:, None], clock[0])
    durations = clock[1] - clock[0]
    expected = np.maximum(shared, 0) / np.sqrt(durations[:, None] * durations)
    np.testing.assert_allclose(matrix @ matrix.T, expected, atol=1e-12)


@pytest.mark.parametrize("process", [VP, FLOW], ids=["VP", "Flow"])
@pytest.mark.parametrize(
    "lams",
    [
        (-math.inf, -6.0, 0.5),
        (-5.0, -3.5, 2.0),
        (0.0, 1.0, 2.0),
        (0.25, 0.25 + CELL, 3.5),
        (1.5, 1.5 + 1 / 4, 1.75 + CELL),
    ],
    ids=str,
)
def test_a_noise_is_the_combination_of_its_parts(lams: tuple[float, float, float], process: ksched.Process) -> None:
    """Exactly where ends lie on cells, but for the rounding of sums of 20 float32 numbers below 8."""
    a, b, c = (sigma_of(lam, process) for lam in lams)
    whole, first, second = path_noises(Draw(a, c), Draw(a, b), Draw(b, c), process=process)
    share = v_share(*lams)
    np.testing.assert_allclose(whole, math.sqrt(share) * first + math.sqrt(1 - share) * second, rtol=0, atol=2e-6)


def test_between_cells_the_combination_is_near() -> None:
    """An end moves by half a cell at most, and a weight by no more than that over the interval's length."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        a = float(rng.uniform(-3, 3))
        b, c = a + float(rng.uniform(0.1, 1)), a + float(rng.uniform(1.1, 2))
        whole, first, second = path_noises(*(Draw(sigma_of(s), sigma_of(t)) for s, t in ((a, c), (a, b), (b, c))))
        share = v_share(a, b, c)
        gap = whole - math.sqrt(share) * first - math.sqrt(1 - share) * second
        assert gap.std() < CELL / min(b - a, c - b)


@pytest.mark.parametrize("steps", [3, 20, 300])
def test_noises_of_a_run_are_independent_normals(steps: int) -> None:
    """Mean, variance, kurtosis, and correlations between noises, items and neighbours, within 5 standard errors."""
    grid = build_sampler("euler_ancestral", "karras", steps).sigmas.tolist()[:-1]
    draws = [Draw(s, t) for s, t in pairwise(grid)][:60]
    noises = np.stack(
        [noise.reshape(4, -1) for noise in path_noises(*draws, seeds=(1, 2, 3, 10**30), size=16384)], axis=1
    )
    size = noises.shape[-1]
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        means = (noises**power).mean(-1)
        assert np.abs(means - moment).max() < 5 * (spread / size) ** 0.5
        assert abs(means.mean() - moment) < 5 * (spread / noises.size) ** 0.5
    flat = noises.reshape(-1, size)
    assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 6 / size**0.5
    for apart in range(1, 9):
        assert abs((noises[..., apart:] * noises[..., :-apart]).mean()) < 5 / noises.size**0.5
    from scipy.stats import kstest

    assert kstest(noises[0, 0], "norm").statistic < 1.95 / size**0.5, "at the level of 0.1 %"


ASKED = [
    Draw(sigma_of(-math.inf), 20.0),
    Draw(20.0, 3.0),
    Draw(3.0, 1.5),
    Draw(3.0, 1.5, 0, 1),
    Draw(1.5, 1.49),
    Draw(1.5, 2.5, 1),
    Draw(2.5, 0.7, 1),
    Draw(0.7, 0.03, 1),
    Draw(0.03, 0.0, 1),
    Draw(3.0, 0.7),
]


def test_a_noise_depends_on_nothing_but_seed_and_draw() -> None:
    """Not on what was asked before, in which order, how often, or in which shape, dtype and batch."""
    like = torch.empty(3, 2, 5, 7)
    alone = {draw: BrownianNoise((1, 2, 3), VP)(draw, like) for draw in ASKED}
    source = BrownianNoise((1, 2, 3), VP)
    rng = np.random.default_rng(0)
    for i in rng.integers(0, len(ASKED), 60).tolist():
        assert torch.equal(source(ASKED[i], like), alone[ASKED[i]])
        source(ASKED[i], like[..., :3])
    for draw in ASKED:
        assert torch.equal(BrownianNoise((3, 2, 1), VP)(draw, like), alone[draw].flip(0))
        assert torch.equal(BrownianNoise((2,), VP)(draw, like[:1]), alone[draw][1:2])
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            assert torch.equal(BrownianNoise((1, 2, 3), VP)(draw, like.to(dtype)), alone[draw].to(dtype))
    assert BrownianNoise((), VP)(ASKED[1], like[:0]).shape == (0, 2, 5, 7)


def test_paths_of_their_own() -> None:
    """Another visit, stream, seed or direction is another path; so is less than a cell, and what ends at sigma 0."""
    near = sigma_of(1.0 + CELL / 8)
    draws = [Draw(3.0, 1.5), Draw(3.0, 1.5, 1), Draw(3.0, 1.5, 0, 1), Draw(1.5, 3.0), Draw(1.5, 0.0), Draw(0.0, 1.5)]
    draws += [
        Draw(sigma_of(1.0), near),
        Draw(near, sigma_of(1.0 + CELL / 4)),
        Draw(near, sigma_of(1.0)),
        Draw(0.0, 0.0),
    ]
    noises = path_noises(*draws, size=65536) + path_noises(draws[0], seeds=(8,), size=65536)
    assert np.abs(np.corrcoef(noises) - np.eye(len(noises))).max() < 5 / 256
    assert np.abs(np.var(noises, axis=1) - 1).max() < 5 * math.sqrt(2) / 256
    whole, first, second = path_noises(Draw(1.0, 4.0), Draw(1.0, 2.0), Draw(2.0, 4.0))  # in sigma**2 when it rises
    assert np.std(whole - math.sqrt(3 / 15) * first - math.sqrt(12 / 15) * second) < CELL / math.log(2)


def test_little_is_kept_between_intervals() -> None:
    source = BrownianNoise((1, 2), VP)
    like = torch.empty(2, 4, 64, 64)
    for sampler in (build_sampler("euler_ancestral", "karras", steps) for steps in (3, 20, 100)):
        for visit in range(3):
            for s, t in pairwise(sampler.sigmas.tolist()):
                source(Draw(s, t, visit), like)
                parts = [part for nodes in source._kept.values() for items in nodes.values() for part in items]
                assert sum(words.nbytes for words in parts) <= like.nbytes * 11 / 8


def test_the_nodes_of_an_interval_have_not_changed() -> None:
    terms, onward = brownian._increment(-172, 70)
    assert [node for node, _ in terms] == [-192, -128, -64, 0, 64, -160, -176, -168, -172, 96, 80, 72, 68, 70]
    assert onward == (64, 96, 80, 72, 68, 70)


# --- Brownian paths in runs ---


def start(process: ksched.Process, batch: int = 4, size: int = 64) -> torch.Tensor:
    eps = torch.randn(batch, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x: torch.Tensor = process.add_noise(0 * eps, eps, process.sigma_max)
    return x


@pytest.mark.parametrize("process", [VP, FLOW], ids=["VP", "Flow"])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_with_a_constant_prediction_all_grids_meet(name: str, process: ksched.Process) -> None:
    """States at common levels agree to the rounding of float32 noise: the clock is the right one."""
    results = []
    for steps in (2, 11, 88):
        lams = np.linspace(-2.5, 3.0, steps + 1)
        sampler = build_sampler(
            name, process=process, sigmas=[sigma_of(lam, process) for lam in lams.tolist()], eta=1.0
        )
        x = sigma_of(-2.5, process) * start(VP) / VP.sigma_max
        results.append(sampler.sample(lambda x, sigma: 0 * x + 0.7, x, seed=3, noise="brownian"))
    scale = process.noise_std(sigma_of(3.0, process))
    for other in results[1:]:
        assert float((other - results[0]).abs().max()) < 1e-5 * scale


@short(is_form)
@pytest.mark.parametrize("name", [s.name for s in samplers() if "eta" in s.options and s.draws != 0 and not s.adaptive])
def test_the_picture_stays_when_the_number_of_steps_changes(name: str) -> None:
    """Results of 20, 40 and 80 steps are nearer to each other than with new noise: by 4 to 8 times, most of them.

    What is left is the sampler's own error and, at many steps, the rounding to cells.
    """
    exact = Gaussian([0.0] * 64, [0.25] * 64, VP)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        denoised = exact(x, sigma)
        return denoised, denoised

    def gaps(noise: Any) -> list[float]:
        runs = [build_sampler(name, "simple", n, eta=1.0).sample(model, x, seed=5, noise=noise) for n in (20, 40, 80)]
        return [float((a - b).square().mean().sqrt()) for a, b in pairwise(runs)]

    x = start(VP, 16)
    for path, plain in zip(gaps("brownian"), gaps(None), strict=True):
        assert path < plain / 2


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_run_on_a_path_resumes_bit_for_bit(eta: float) -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 8, eta=eta)
    x = start(VP).float()
    whole = sampler.sample(lambda x, sigma: x / 3, x, seed=7, noise="brownian")
    assert not torch.equal(whole, sampler.sample(lambda x, sigma: x / 3, x, seed=7))
    run = sampler.start(x, seed=7, noise="brownian")
    while not run.done:
        state = pickle.loads(pickle.dumps(run.state_dict()))
        run = sampler.start(torch.zeros_like(x), seed=1)
        run.load_state_dict(state)
        run.feed(run.x / 3)
    assert torch.equal(run.x, whole)
    half = sampler.start(x[2:], seed=[9, 10], noise="brownian")
    while not half.done:
        half.feed(half.x / 3)
    assert torch.equal(half.x, whole[2:]), "items do not depend on their batch"


def test_a_run_split_in_two_is_the_same_run() -> None:
    grid = build_sampler("euler_ancestral", "karras", 8).sigmas.tolist()
    x = start(VP)
    whole, early, late = (build_sampler("euler_ancestral", sigmas=sigmas) for sigmas in (grid, grid[:5], grid[4:]))
    middle = early.sample(lambda x, sigma: x / 3, x, seed=7, noise="brownian")
    result = late.sample(lambda x, sigma: x / 3, middle, seed=7, noise="brownian")
    assert torch.equal(result, whole.sample(lambda x, sigma: x / 3, x, seed=7, noise="brownian"))


def test_the_path_as_a_function() -> None:
    x = torch.zeros(2, 3, 8, dtype=torch.float64)
    noise = brownian_sampler(x, 5)
    expected = BrownianNoise((5, 6), VP)(Draw(3.0, 1.5), x)
    assert torch.equal(noise(3.0, 1.5), expected)
    assert torch.equal(noise(torch.tensor(3.0), torch.tensor(1.5)), expected)
    assert torch.equal(brownian_sampler(x, [5, 6], FLOW)(0.9, 0.5), BrownianNoise((5, 6), FLOW)(Draw(0.9, 0.5), x))
    sampler = build_sampler("euler_ancestral", "karras", 5)
    by_name = sampler.sample(lambda x, sigma: x / 3, x * 0 + 9, seed=5, noise="brownian")
    assert torch.equal(sampler.sample(lambda x, sigma: x / 3, x * 0 + 9, noise=noise), by_name)


def test_what_is_refused() -> None:
    x = torch.ones(2, 4)
    sampler = build_sampler("euler_ancestral", "karras", 5)
    with pytest.raises(ValueError, match=r"noise must be .*brownian.* or callable.*got 'browns'"):
        sampler.start(x, seed=1, noise="browns")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give seed=<int>"):
        sampler.start(x, noise="brownian")
    with pytest.raises(ValueError, match="needs a process"):
        Run(sampler.plan, x, seed=1, noise="brownian")
    with pytest.raises(ValueError, match="one seed per item; got 3 seeds for a batch of 2"):
        BrownianNoise((1, 2, 3), VP)(DRAW, x)
    with pytest.raises(ValueError, match='"seeded" or "brownian"; got \'other\''):
        seeded_source("other", (1,), VP)
    assert build_sampler("euler", "karras", 5).start(x, noise="brownian").nfe == 0, "nothing is drawn"

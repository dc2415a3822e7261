"""Noise chosen by name: Gaussian with unit variance, but correlated in space.

Each kind is data: the white noises that it is made from, and how. NumPy and torch use the same formula.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from functools import lru_cache
from numbers import Integral
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from ksched.kernels.axis_maps import AxisMap, halved, interpolation, last_axes, map_axis
from ksched.kernels.normal_table import Floats
from ksched.noise.streams import seeded_numbers
from ksched.options import Between, Option
from ksched.plan.rows import Draw
from ksched.types import Array, set_fields

__all__ = [
    "COLORS",
    "Colored",
    "Correlated",
    "Library",
    "NoiseName",
    "Offset",
    "Pyramid",
    "chosen_kind",
    "correlated_numbers",
    "drawn",
    "kind_of",
    "kind_of_scheme",
    "named_numbers",
]


NoiseName: TypeAlias = Literal["white", "brownian", "pink", "brown", "blue", "violet", "pyramid", "offset"]


#: exponents of the colours: power is proportional to ``frequency ** -exponent``
COLORS = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0, "violet": -2.0}


# Additional noises of a draw use streams from here on; no sampler uses stream numbers this large.
_LAYER = 1 << 32


class Library(NamedTuple):
    """The operations that a kind of noise needs from an array library."""

    mapped: Callable[[AxisMap, Any, int], Any]
    filtered: Callable[[Any, Array, Sequence[int]], Any]


def _filtered(white: Floats, gains: Array, axes: Sequence[int]) -> Floats:
    """Noise with its frequencies scaled, item by item, so that no item depends on the batch size."""
    sizes = [white.shape[axis] for axis in axes]
    result = np.empty_like(white)
    for item, out in zip(white, result, strict=True):
        inner = [axis - 1 for axis in axes]
        spectrum = np.fft.rfftn(item.astype(np.float64), axes=inner) * gains
        out[...] = np.fft.irfftn(spectrum, s=sizes, axes=inner)
    return result


_NUMPY = Library(map_axis, _filtered)


@dataclass(frozen=True, kw_only=True)
class Correlated(ABC):
    """A kind of noise that is correlated in space: `Colored`, `Pyramid` or `Offset`.

    Parameters
    ----------
    axes : tuple of int or None
        Axes of the state along which the noise is correlated (0 is the batch); None means the last two, or those after
        batch and channel if there are fewer. Along all other axes the noise is independent.
    brownian : bool
        Make it from the white noise of ``noise="brownian"``, so that a picture stays the same when the number of steps
        changes.
    """

    #: name of the rule; a new rule gets a new name, and an old one never changes
    SCHEME: ClassVar[str]

    axes: tuple[int, ...] | None = None
    brownian: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        Option("brownian", bool, None).check(name, self.brownian)
        if self.axes is None:
            return
        axes = tuple(self.axes) if isinstance(self.axes, tuple | list) else None
        if axes is None or not all(isinstance(axis, Integral) and not isinstance(axis, bool) for axis in axes):
            raise TypeError(f"{name}: axes must be whole numbers, such as (-2, -1), or None; got {self.axes!r}")
        set_fields(self, axes=tuple(map(int, axes)))

    @property
    @abstractmethod
    def plain(self) -> bool:
        """Whether it is white noise, bit for bit."""

    @property
    def scheme(self) -> str:
        """Name of the rule with its options, for saved states."""
        return f"{self.SCHEME} {json.dumps(asdict(self), sort_keys=True)}"

    def std(self, shape: Sequence[int]) -> float:
        """Standard deviation of each number of a state of this shape."""
        return 1.0

    def layers(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of the coarser white noises that are needed besides one of the state's shape."""
        return []

    @abstractmethod
    def formed(self, white: Any, layers: Sequence[Any], library: Library) -> Any:
        """The noise, made from white noises of these shapes."""

    def covariance(self, shape: Sequence[int]) -> Array:
        """Covariance of an item's numbers, in row-major order, for `ksched.analysis.gaussian_covariance`.

        Parameters
        ----------
        shape : sequence of int
            Shape of an item, without the batch.

        Returns
        -------
        float64, shape (n, n) for n numbers; exact up to float32 rounding
        """
        sizes = [(1, *shape), *self.layers((1, *shape))]
        counts = [math.prod(size) for size in sizes]
        # one item per number of white noise, in which that number is 1 and all others are 0
        ones = np.split(np.eye(sum(counts), dtype=np.float32), np.cumsum(counts)[:-1], axis=1)
        white, *layers = (one.reshape(-1, *size[1:]) for one, size in zip(ones, sizes, strict=True))
        rows = np.asarray(self.formed(white, layers, _NUMPY), dtype=np.float64).reshape(sum(counts), -1)
        result: Array = rows.T @ rows
        return result

    def _axes(self, ndim: int) -> tuple[int, ...]:
        """The axes, for a state with ``ndim`` axes."""
        if self.axes is None:
            return last_axes(ndim)
        axes = tuple(sorted(axis + ndim if axis < 0 else axis for axis in self.axes))
        if len(set(axes)) != len(axes) or not all(0 < axis < ndim for axis in axes):
            raise ValueError(
                f"{type(self).__name__}: axes must be different axes of a state with {ndim} axes, without the batch "
                f"axis 0; got {self.axes}"
            )
        return axes


@dataclass(frozen=True)
class Colored(Correlated):
    """Colored noise: its power falls with frequency as ``1 / frequency ** exponent``.

    Parameters
    ----------
    exponent : float
        0 is white, 1 pink, 2 brown, -1 blue, -2 violet, as in skrample and RES4LYF; these are also names, as in
        ``noise="pink"``. From -8 to 8.
    axes, brownian : as for all kinds, see `ksched.noise.Correlated`

    Notes
    -----
    White noise is filtered in the Fourier domain. Frequency is radial, in cycles per number for axes of any size;
    frequency 0 counts as the lowest other frequency. The gains are scaled so that each number has variance 1 under the
    law; the standard deviation of a single draw varies, as for any normal noise. The noise is periodic: opposite edges
    are correlated like neighbours.

    *Effect on a run.* The result of a deterministic sampler has the spectrum of the data times that of the start noise.
    Noise in the steps changes each frequency by about its own gain at the levels where the sampler decides that
    frequency. No sampler is exact with it; the page on noise says how far each one is off.

    On a GPU the numbers agree with those of the CPU up to rounding, about 1e-6; on the CPU they are computed in float64
    and rounded.
    """

    SCHEME: ClassVar[str] = "ksched colored 1"

    exponent: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _set_number(self, "exponent", Between(-8.0, 8.0))

    @property
    def plain(self) -> bool:
        """Whether the noise is white."""
        return self.exponent == 0

    def formed(self, white: Any, layers: Sequence[Any], library: Library) -> Any:
        """The white noise, filtered."""
        axes = self._axes(white.ndim)
        if not axes:
            return white
        gains = _gains(self.exponent, tuple(white.shape[axis] for axis in axes))
        gains = gains.reshape([gains.shape[axes.index(k)] if k in axes else 1 for k in range(1, white.ndim)])
        return library.filtered(white, gains, axes)


@dataclass(frozen=True)
class _Layered(Correlated):
    """White noise with coarser layers added."""

    strength: float = 0.1
    _: KW_ONLY
    unit_variance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _set_number(self, "strength", Between(0.0, 100.0))
        Option("unit_variance", bool, None).check(type(self).__name__, self.unit_variance)

    @property
    def plain(self) -> bool:
        """Whether no layer is added."""
        return self.strength == 0

    def std(self, shape: Sequence[int]) -> float:
        """1 with unit variance, else the standard deviation of the sum."""
        return 1.0 if self.unit_variance else self._total(len(self.layers(shape)))

    def formed(self, white: Any, layers: Sequence[Any], library: Library) -> Any:
        """The sum of white noise and all layers, interpolated to the state's size."""
        scale = 1 / self._total(len(layers)) if self.unit_variance else 1.0
        result = white * np.float32(scale).item()
        for k, layer in enumerate(layers, 1):
            fine = layer * np.float32(scale * self.strength**k).item()
            for axis in self._axes(white.ndim):
                fine = library.mapped(interpolation(fine.shape[axis], white.shape[axis], unit=True), fine, axis)
            result = result + fine
        return result

    def _total(self, layers: int) -> float:
        """Standard deviation of the sum."""
        return math.sqrt(sum(self.strength ** (2 * k) for k in range(layers + 1)))


@dataclass(frozen=True)
class Offset(_Layered):
    """Offset noise: white noise plus one number that is the same everywhere in a channel.

    Parameters
    ----------
    strength : float
        Standard deviation of the added number, at least 0; 0.1 in the source. skrample squares its strength.
    unit_variance : bool
        Divide by ``sqrt(1 + strength**2)``; False is the published form, with a variance above 1.
    axes, brownian : as for all kinds, see `ksched.noise.Correlated`

    Notes
    -----
    N. Guttenberg 2023, "Diffusion with Offset Noise", which trains models on it. It changes only the mean of a channel:
    the mean's variance is multiplied by ``1 + n * strength**2`` for n places. With ``unit_variance`` all other
    variances are multiplied by ``1 / (1 + strength**2)``.

    *Effect on a run.* As start noise, it changes the result of a deterministic sampler in the same way. If a schedule
    starts at a level whose noise does not hide the mean of the data, white start noise gives means that vary too
    little. Offset noise can compensate: see the page on noise. The bits are the same on every device.
    """

    SCHEME: ClassVar[str] = "ksched offset 1"

    def layers(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """One layer, with a single place."""
        axes = self._axes(len(shape))
        return [tuple(1 if k in axes else size for k, size in enumerate(shape))]


@dataclass(frozen=True)
class Pyramid(_Layered):
    """Pyramid (multi-resolution) noise: white noise plus coarser and coarser layers.

    Parameters
    ----------
    strength : float
        The layer at ``1 / 2**k`` of the resolution has the standard deviation ``strength**k``; at least 0.
    levels : int or None
        Number of layers to add, at least 1; None continues down to a single place.
    unit_variance : bool
        Divide by the standard deviation of the sum.
    axes, brownian : as for all kinds, see `ksched.noise.Correlated`

    Notes
    -----
    J. Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training". There, each layer is smaller by a random
    factor between 2 and 4, and the sum is divided by its own standard deviation, so it is not normal; skrample does the
    same. Here, each layer has half the size, rounded up. It is interpolated linearly with weights that keep each
    number's variance, so the law is normal and known.

    *Effect on a run.* Like `Colored` with an exponent above 0: low frequencies gain power, high ones lose it. No
    sampler is exact with it; see the page on noise. The bits are the same on every device.
    """

    SCHEME: ClassVar[str] = "ksched pyramid 1"

    strength: float = 0.3
    levels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels is not None:
            Option("levels", int, None, 1, 64).check("Pyramid", self.levels)

    def layers(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Each layer has half the size of the one before."""
        axes, found = self._axes(len(shape)), [tuple(shape)]
        while len(found) <= (self.levels or 64) and any(found[-1][axis] > 1 for axis in axes):
            found.append(tuple(halved(size) if k in axes else size for k, size in enumerate(found[-1])))
        return found[1:]


def kind_of(noise: Any) -> Correlated | Literal["seeded", "brownian"] | None:
    """The noise behind a name or a kind; None for anything else.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(noise, str):
        names = get_args(NoiseName)
        if noise not in names:
            known = ", ".join(f'"{name}"' for name in names)
            raise ValueError(
                f"noise must be {known}, a kind such as ksched.noise.Colored(0.5), or callable, "
                f"(sigma_from, sigma_to) -> tensor; got {noise!r}"
            )
        if noise == "brownian":
            return "brownian"
        noise = Colored(COLORS[noise]) if noise in COLORS else {"pyramid": Pyramid, "offset": Offset}[noise]()
    if not isinstance(noise, Correlated):
        return None
    return noise if not noise.plain else "brownian" if noise.brownian else "seeded"


def chosen_kind(noise: Any) -> Correlated | Literal["seeded", "brownian"]:
    """The noise behind a name or a kind, white for None; raises TypeError for anything else."""
    kind = "seeded" if noise is None else kind_of(noise)
    if kind is None:
        raise TypeError(f'noise must be a name, such as "pink", or a kind of ksched.noise; got {type(noise).__name__}')
    return kind


def kind_of_scheme(scheme: str) -> Correlated | None:
    """The kind of a saved state's rule; None for a rule that is not one of these, or with other options."""
    for kind in (Colored, Pyramid, Offset):
        if scheme.startswith(kind.SCHEME + " {"):
            try:
                options = json.loads(scheme.removeprefix(kind.SCHEME))
                return kind(**{name: options[name] for name in (field.name for field in fields(kind))})
            except (KeyError, TypeError, ValueError):
                return None
    return None


def drawn(
    kind: Correlated, draw: Draw, shape: Sequence[int], white: Callable[[Draw, tuple[int, ...]], Any], library: Library
) -> Any:
    """The noise of a draw, before any limit.

    Parameters
    ----------
    kind : Correlated
        The kind of noise.
    draw : Draw
        The draw.
    shape : sequence of int
        Shape of the noise, batch first.
    white : callable
        Makes white noise for a draw, of a given shape.
    library : Library
        Library of the arrays that ``white`` makes.
    """
    bare = draw._replace(limit=math.inf)
    layers = [white(bare._replace(stream=draw.stream + k * _LAYER), s) for k, s in enumerate(kind.layers(shape), 1)]
    return kind.formed(white(bare, tuple(shape)), layers, library)


def correlated_numbers(
    kind: Correlated, draw: Draw, shape: Sequence[int], white: Callable[[Draw, tuple[int, ...]], Floats]
) -> Floats:
    """The noise of a draw as a NumPy array, float32; arguments as for `drawn`."""
    result: Floats = drawn(kind, draw, shape, white, _NUMPY)
    bound = draw.limit * kind.std(shape)
    return result if bound == math.inf else np.clip(result, np.float32(-bound), np.float32(bound))


def named_numbers(noise: Any, seeds: Sequence[int], draw: Draw, shape: Sequence[int]) -> Floats:
    """Seeded noise by name or kind (None is white) as a NumPy array: the numbers of a run on the CPU.

    Raises
    ------
    TypeError, ValueError
        For unknown noise; noise from a Brownian path, which only runs on tensors can draw.
    """
    kind = chosen_kind(noise)
    if kind == "seeded":
        return seeded_numbers(seeds, draw, shape)
    if isinstance(kind, str) or kind.brownian:
        raise ValueError("noise on a Brownian path needs a run on tensors; leave out brownian")
    return correlated_numbers(kind, draw, shape, lambda own, size: seeded_numbers(seeds, own, size))


@lru_cache(maxsize=32)
def _gains(exponent: float, sizes: tuple[int, ...]) -> Array:
    """Gains of the frequencies of a real transform over axes of these sizes, with a mean square of 1."""
    squares = np.zeros(())
    for size in sizes:
        squares = squares[..., None] + np.fft.fftfreq(size) ** 2
    radius = np.maximum(np.sqrt(squares), 1 / max(sizes))
    gains = radius ** (-exponent / 2)
    gains /= math.sqrt(np.mean(gains**2))
    result: Array = gains[..., : sizes[-1] // 2 + 1]
    result.setflags(write=False)
    return result


def _set_number(kind: Correlated, name: str, limits: Between) -> None:
    """Check a number of a kind and store it as a float."""
    value = Option(name, float, None, *limits).check(type(kind).__name__, getattr(kind, name))
    set_fields(kind, **{name: value})

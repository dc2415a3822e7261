"""The sizes that a model can make: multiples of pixels and frames, and sizes that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ksched.model_settings.level_lists import Size

__all__ = ["Resolution"]


class Resolution(NamedTuple):
    """Rules for the size of the result.

    Attributes
    ----------
    multiple_of : int or None
        Divisor of width and height; None if no source gives one.
    frames : tuple of int or None
        (step, first): the number of frames must be ``step * k + first``; None if no source says so.
    sizes : tuple of tuple of int
        (width, height) that its authors name, in addition to the recipe's own ``size``.
    """

    multiple_of: int | None = None
    frames: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Resolution:
        """The rules of a row of the data file."""
        frames = row.get("frames")
        sizes = tuple((int(width), int(height)) for width, height in row.get("sizes", ()))
        return cls(row.get("multiple_of"), None if frames is None else (frames[0], frames[1]), sizes)

    def check(self, model: str, size: Size) -> None:
        """Raise ValueError for a size that breaks the rules; None is not checked."""
        for name, value in (("width", size.width), ("height", size.height)):
            if value is not None and self.multiple_of is not None and value % self.multiple_of:
                raise ValueError(
                    f"{model}: {name} must be a multiple of {self.multiple_of}; got {value}. "
                    f"{_nearest(value, self.multiple_of, 0)}"
                )
        if size.frames is not None and self.frames is not None and (size.frames - self.frames[1]) % self.frames[0]:
            step, first = self.frames
            raise ValueError(
                f"{model}: frames must be {step} k + {first}; got {size.frames}. {_nearest(size.frames, step, first)}"
            )

    def words(self) -> str:
        """The rules in words, empty if there are none."""
        said = [] if self.multiple_of is None else [f"multiples of {self.multiple_of}"]
        said += [] if self.frames is None else [f"{self.frames[0]} k + {self.frames[1]} frames"]
        said += [", ".join(f"{width} x {height}" for width, height in self.sizes)] if self.sizes else []
        return "; ".join(said)


def _nearest(value: int, step: int, first: int) -> str:
    below = (value - first) // step * step + first
    return f"Nearest are {below} and {below + step}" if below > 0 else f"The smallest is {below + step}"

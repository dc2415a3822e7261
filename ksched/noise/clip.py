"""Noise of a clip, frame by frame: each frame gets its slice of the whole clip's noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ksched.kernels.normal_table import CHUNK, Floats
from ksched.noise.brownian import BrownianNoise
from ksched.noise.seeded import SeededNoise, fill, is_host, limited, target
from ksched.noise.streams import Stream
from ksched.plan.rows import Draw

__all__ = ["ClipNoise", "FrameNoise"]


class _Chunk(NamedTuple):
    """A chunk of an item's numbers of one draw, which several frames may need."""

    draw: Draw
    item: int
    number: int


class ClipNoise:
    """The noise of a clip whose frames draw at different times.

    Parameters
    ----------
    source : object
        Makes the noise of the whole clip: seeded, or any `ksched.noise.NoiseSource`.
    shape : sequence of int
        Shape of the clip, (batch, frames, ...).
    needs : sequence of mapping
        For each frame the draws that it uses, each with the number of model calls after which it has used it; empty for
        a frame that draws nothing.

    Notes
    -----
    On the host, seeded numbers are made in chunks. A chunk that several frames use is made once and kept until the last
    of them has used it. Your own noise is kept in the same way, one whole draw at a time. A device makes numbers faster
    than it can store them, so there each frame's chunks are made for it alone.
    """

    def __init__(self, source: Any, shape: Sequence[int], needs: Sequence[Mapping[Draw, int]]) -> None:
        self.source, self.shape, self.needs = source, tuple(shape), needs
        #: whole draws of your own noise that some frames have used and others have not
        self.clips: dict[Draw, torch.Tensor] = {}
        self._chunks: dict[_Chunk, Floats] = {}
        self._asked: set[_Chunk] = set()  # chunks requested since the last call of `forget`
        self._free: list[Floats] = []  # memory of dropped chunks: allocating costs more than filling it
        frames = self.shape[1]
        self._size = int(np.prod(self.shape[2:], dtype=np.int64))  # numbers of a frame
        self._item = frames * self._size

    @property
    def seeded(self) -> bool:
        """Whether the numbers can be made again at any time."""
        return isinstance(self.source, SeededNoise | BrownianNoise)

    def frame(self, number: int) -> FrameNoise:
        """The noise of one frame."""
        return FrameNoise(self, number)

    def draw(self, draw: Draw, frame: int, like: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
        """The slice of a draw that belongs to a frame; arguments are those of a `ksched.noise.NoiseSource`."""
        if not like.numel():
            return torch.empty_like(like) if out is None else out
        if not self.seeded:
            part = self._whole(draw, like)[:, frame]
            return part.clone() if out is None else out.copy_(part)
        out = target(self.source.seeds, like, out)
        if not is_host(like):
            numbers = self.source.slice_on(like.device, draw, self._item, frame * self._size, self._size)
            return limited(out.copy_(numbers.reshape(out.shape)), draw)
        streams = self.source.streams(draw, self._item)
        fill(out, [partial(self._part, stream, draw, i, frame) for i, stream in enumerate(streams)])
        return limited(out, draw)

    def forget(self, calls: Sequence[int]) -> None:
        """Drop everything that no frame will request again.

        Parameters
        ----------
        calls : sequence of int
            For each frame, the number of model calls answered.
        """
        every = range(self.shape[1])
        self.clips = {draw: clip for draw, clip in self.clips.items() if self._waited_for(draw, every, calls)}
        for chunk in self._asked:  # chunks not requested are still waited for as before
            if not self._waited_for(chunk.draw, self._frames_in(chunk.number), calls):
                self._free.append(self._chunks.pop(chunk))
        self._asked.clear()

    def pending(self, calls: Sequence[int]) -> list[Draw]:
        """Draws that some frames have used and others have not, in a reproducible order."""
        draws = dict.fromkeys(draw for needs in self.needs for draw in needs)
        users = {
            draw: [calls[k] >= needs[draw] for k, needs in enumerate(self.needs) if draw in needs] for draw in draws
        }
        return [draw for draw, had in users.items() if any(had) and not all(had)]

    def _waited_for(self, draw: Draw, frames: range, calls: Sequence[int]) -> bool:
        """Whether one of some frames has yet to request a draw."""
        return any(draw in self.needs[k] and calls[k] < self.needs[k][draw] for k in frames)

    def _frames_in(self, chunk: int) -> range:
        """The frames that have numbers in a chunk."""
        return range(chunk * CHUNK // self._size, (min((chunk + 1) * CHUNK, self._item) - 1) // self._size + 1)

    def _whole(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """A draw for the whole clip, requested once."""
        if draw not in self.clips:
            clip = self.source(draw, like.new_empty(()).expand(self.shape))
            self.clips[draw] = clip.clone()  # the noise function may reuse its tensor
        return self.clips[draw]

    def _part(self, stream: Stream, draw: Draw, item: int, frame: int, first: int, out: Floats) -> None:
        """A `Stream` of a frame's own numbers, cut from that of its item."""
        at = frame * self._size + first
        for number, inside, part in _pieces(at, out):
            start = number * CHUNK
            if inside == 0 and len(part) == min(CHUNK, self._item - start):
                stream(start, part)
                continue
            key = _Chunk(draw, item, number)
            if key not in self._chunks:
                chunk = self._free.pop() if self._free else np.empty(CHUNK, np.float32)
                stream(start, chunk[: self._item - start])
                self._chunks[key] = chunk
            self._asked.add(key)
            part[...] = self._chunks[key][inside : inside + len(part)]


class FrameNoise:
    """The noise source of one frame's run."""

    def __init__(self, clip: ClipNoise, frame: int) -> None:
        self.clip, self.frame = clip, frame

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """The frame's slice of a draw."""
        return self.clip.draw(draw, self.frame, like, out)


def _pieces(at: int, out: Floats) -> Iterator[tuple[int, int, Floats]]:
    """Split an array that will hold the numbers from ``at`` on into chunks: the chunk, the offset in it, the part."""
    done = 0
    while done < len(out):
        number, inside = divmod(at + done, CHUNK)
        part = out[done : done + CHUNK - inside]
        yield number, inside, part
        done += len(part)

"""Overlapping noise draws, rewritten as independent increments."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from ksched.plan.rows import Draw
from ksched.processes import Level

__all__ = ["disjoint", "snr"]


def snr(level: Level) -> float:
    """Signal-to-noise ratio of a level."""
    return (level.alpha / level.sigma) ** 2 if level.sigma > 0 else math.inf


def disjoint(requests: list[Draw], clock: Mapping[float, float]) -> list[list[tuple[Draw, float]]]:
    """Each requested noise as a combination of noises on disjoint intervals: increments of one Brownian path.

    Time on the path is the signal-to-noise ratio: in it, the reverse SDE for a constant prediction adds the path
    itself.
    """
    result = []
    paths: dict[tuple[int, int, bool], set[float]] = {}  # the ends of each path's noises
    for request in requests:
        paths.setdefault(_path(request), set()).update(request[:2])
    stops = {path: sorted(sigmas) for path, sigmas in paths.items()}
    for request in requests:
        low, high = sorted(request[:2])
        rises = request.sigma_to > request.sigma_from
        along = stops[_path(request)]
        inside = along[bisect_right(along, low) : bisect_left(along, high)]
        if not inside:  # nothing overlaps
            result.append([(request, 1.0)])
            continue
        ends = [high, *reversed(inside), low]
        whole = clock[low] - clock[high]
        parts = []
        for a, b in itertools.pairwise(ends):
            share = 1.0 if math.isinf(clock[b]) else (clock[b] - clock[a]) / whole
            part = Draw(b, a, *request[2:]) if rises else Draw(a, b, *request[2:])
            parts.append((part, math.sqrt(share)))
        result.append(parts)
    return result


def _path(request: Draw) -> tuple[int, int, bool]:
    """Key of the path that overlapping noises share; noise added on the way up belongs to a separate path."""
    return request.visit, request.stream, request.sigma_to > request.sigma_from

"""Progress of work in several stages, as one share of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["Report", "Stages", "progress_line"]

#: called with the name of the current stage and the share of all work that is done, from 0 to 1
Report: TypeAlias = Callable[[str, float], object]


class Stages:
    """Stages of work whose lengths are known in advance, in a unit such as seconds.

    Parameters
    ----------
    lengths : mapping of str to float
        Length of each stage, in order.
    report : callable
        Called at every step of the work.
    """

    def __init__(self, lengths: Mapping[str, float], report: Report) -> None:
        self._lengths, self._report = lengths, report
        self._whole = sum(lengths.values())

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Enter a stage; yields a function to call with the additional work done, in the unit of the lengths."""
        names = list(self._lengths)
        before = sum(self._lengths[other] for other in names[: names.index(name)])
        done = 0.0

        def advance(length: float) -> None:
            nonlocal done
            done = min(done + length, self._lengths[name])
            self._report(name, (before + done) / self._whole)

        advance(0.0)
        yield advance
        advance(self._lengths[name])


@contextmanager
def progress_line() -> Iterator[Report]:
    """Show a tqdm progress bar with the current stage and the remaining time; needs the extra ``cli``."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError('progress bars need tqdm: pip install "ksched[cli]"') from error

    form = "{desc:<28}{percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"
    with tqdm(total=1.0, bar_format=form, dynamic_ncols=True) as bar:

        def report(doing: str, share: float) -> None:
            bar.set_description_str(doing, refresh=False)
            bar.update(share - bar.n)

        yield report

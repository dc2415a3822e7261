"""How names are compared, and which known name is most similar to an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

__all__ = ["did_you_mean", "few", "nearest", "spelling_key"]


def spelling_key(text: str) -> str:
    """The spelling without case, spaces, dashes or dots; ``+`` is read as the letter p (DPM++ = dpmpp)."""
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("+", "p"))


def nearest(word: str, known: Iterable[str], *, most: int = 3, alike: float = 0.6) -> list[str]:
    """Known words spelt like another one, the most similar first.

    Parameters
    ----------
    word : str
        The unknown word.
    known : iterable of str
        Words that could be meant.
    most : int
        Largest number of results.
    alike : float
        Least similarity, 0 to 1; no result is much less similar than the first.
    """
    keys: dict[str, str] = {}
    for name in known:
        keys.setdefault(spelling_key(name), name)
    key = spelling_key(word)
    near = difflib.get_close_matches(key, keys, n=most, cutoff=alike)
    scores = [difflib.SequenceMatcher(a=other, b=key).ratio() for other in near]
    return [keys[other] for other, score in zip(near, scores, strict=True) if score >= scores[0] - 0.15]


def did_you_mean(word: str, known: Iterable[str], *, most: int = 2, alike: float = 0.6) -> str:
    """The end of a message about an unknown word, "; did you mean 'eta'?", or ""; parameters as for `nearest`."""
    near = nearest(word, known, most=most, alike=alike)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def few(names: Collection[str], most: int = 8) -> str:
    """The first of many names, separated by commas, and the number of the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more

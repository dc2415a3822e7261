"""Sheets: pictures side by side with what they are written beside them, for people to compare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

__all__ = ["sheet"]


try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise ImportError('sheets need Pillow: pip install "ksched[diffusers]"') from error


_LEAST, _MOST = 128, 320  # sides of a cell that a person can look at and that fit on a screen side by side


_GAP, _MARGIN = 6, 18


# sizes of texts
_LARGE, _MIDDLE, _SMALL = 22, 17, 14


_INK, _PALE, _LINE = "#111111", "#555555", "#d8d8d8"


def sheet(
    cells: Sequence[Sequence[Image.Image]],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    note: str = "",
) -> Image.Image:
    """One picture of many, in rows and columns.

    Parameters
    ----------
    cells : pictures by row; rows may have different lengths. Small ones are enlarged by a whole number, so that every
        pixel stays what it is; large ones are made smaller
    rows, columns : what to write left of each row, and over each column
    captions : what to write under each picture, by row
    title, note : over the whole

    Raises
    ------
    ValueError : no picture, or labels that are not one for each
    """
    _check(cells, rows, columns, captions)
    pictures = [[_fitted(picture) for picture in row] for row in cells]
    over = [(text, size, colour) for text, size, colour in ((title, _LARGE, _INK), (note, _SMALL, _PALE)) if text]
    layout = _layout(pictures, rows, columns, captions, [(text, size) for text, size, _ in over])
    page = Image.new("RGB", layout.page, "white")
    pen = ImageDraw.Draw(page)
    y = _MARGIN
    for text, size, colour in over:
        pen.multiline_text((_MARGIN, y), text, fill=colour, font=_font(size))
        y += _extent(text, size)[1] + 8
    left, top = layout.across[0], layout.down[0]
    for text, x, w in zip(columns, layout.across, layout.widths, strict=False):
        pen.multiline_text((x + w / 2, top - 8), text, fill=_INK, font=_font(_MIDDLE), anchor="md", align="center")
    for text, y, h in zip(rows, layout.down, layout.heights, strict=False):
        place = (left - 14, y + h / 2)
        pen.multiline_text(place, text, fill=_INK, font=_font(_MIDDLE), anchor="rm", align="right")
    for k, row in enumerate(pictures):
        for i, picture in enumerate(row):
            x, y = layout.across[i] + (layout.widths[i] - picture.width) // 2, layout.down[k]
            page.paste(picture, (x, y))
            pen.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=_LINE)
            if captions:
                at, text = (
                    (layout.across[i] + layout.widths[i] / 2, layout.down[k] + picture.height + 4),
                    captions[k][i],
                )
                pen.multiline_text(at, text, fill=_PALE, font=_font(_SMALL), anchor="ma", align="center")
    return page


def _check(
    cells: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]],
) -> None:
    """Raise unless there is a picture, and a label for each."""
    wide = max(map(len, cells), default=0)
    if not wide:
        raise ValueError("a sheet must have at least one picture; got none")
    for name, labels, count in (
        ("rows", rows, len(cells)),
        ("columns", columns, wide),
        ("captions", captions, len(cells)),
    ):
        if labels and len(labels) != count:
            raise ValueError(f"{name} must be {count} texts, one for each; got {len(labels)}")


class _Layout(NamedTuple):
    """Where everything stands on a sheet, in pixels."""

    across: list[int]  # left end of every column
    widths: list[int]  # of every column
    down: list[int]  # top of every row
    heights: list[int]  # of every row, without its captions
    page: tuple[int, int]


def _layout(
    pictures: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]],
    over: Sequence[tuple[str, int]],
) -> _Layout:
    """The layout of pictures and texts; ``over`` are the texts over the whole and their sizes."""
    widths = _column_widths(pictures, columns, captions)
    heights = [max(picture.height for picture in row) for row in pictures]
    under = max((_extent(text, _SMALL)[1] for row in captions for text in row), default=0) + (8 if captions else 0)
    left = _MARGIN + max((_extent(text, _MIDDLE)[0] + 14 for text in rows), default=0)
    above = _MARGIN + sum(_extent(*each)[1] + 8 for each in over) + 4 * bool(over)
    top = above + max((_extent(text, _MIDDLE)[1] + 8 for text in columns), default=0)
    *across, right = accumulate((w + _GAP for w in widths), initial=left)
    *down, bottom = accumulate((h + under + _GAP for h in heights), initial=top)
    right = max(right, *(_MARGIN + _extent(*each)[0] + _GAP for each in over), 0)
    return _Layout(across, widths, down, heights, (right - _GAP + _MARGIN, bottom - _GAP + _MARGIN))


def _column_widths(
    pictures: Sequence[Sequence[Image.Image]], columns: Sequence[str], captions: Sequence[Sequence[str]]
) -> list[int]:
    """Width of the widest picture or text of every column."""
    widths = [0] * max(map(len, pictures))
    sizes = [[picture.width for picture in row] for row in pictures]
    sizes += [[_extent(text, _SMALL)[0] for text in row] for row in captions]
    for row in (*sizes, [_extent(text, _MIDDLE)[0] for text in columns]):
        for k, width in enumerate(row[: len(widths)]):
            widths[k] = max(widths[k], width)
    return widths


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _extent(text: str, size: int) -> tuple[int, int]:
    """Width and height of a text."""
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=_font(size))
    return round(right - min(left, 0)), round(bottom - min(top, 0))


def _fitted(picture: Image.Image) -> Image.Image:
    """A picture of a size that can be looked at."""
    picture, side = picture.convert("RGB"), max(picture.size)
    if side > _MOST:
        return picture.resize((picture.width * _MOST // side or 1, picture.height * _MOST // side or 1))
    factor = -(-_LEAST // side)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)

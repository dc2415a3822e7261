"""Sheets: labelled pictures side by side, for comparison by eye."""

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


_LEAST, _MOST = 128, 320  # side of a cell in pixels: large enough to see, small enough for several on a screen


_GAP, _MARGIN = 6, 18


# font sizes
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
    """Combine pictures into one, in rows and columns.

    Parameters
    ----------
    cells : sequence of sequence of Image
        Pictures by row; rows may differ in length. Small pictures are enlarged by an integer factor, so that pixels
        stay sharp; large ones are reduced.
    rows, columns : sequence of str
        Labels to the left of each row, and above each column.
    captions : sequence of sequence of str
        Captions below each picture, by row.
    title, note : str
        Texts above the sheet.

    Raises
    ------
    ValueError
        If there is no picture, or if the number of labels is wrong.
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
    """Raise unless there is a picture, and one label for each row, column and picture."""
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
    """Positions on a sheet, in pixels."""

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
    """Arrange pictures and texts; ``over`` are the texts above the sheet and their font sizes."""
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
    """Return the width of the widest picture or text in every column."""
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
    """Return width and height of a text."""
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=_font(size))
    return round(right - min(left, 0)), round(bottom - min(top, 0))


def _fitted(picture: Image.Image) -> Image.Image:
    """Scale a picture to a size that is easy to see."""
    picture, side = picture.convert("RGB"), max(picture.size)
    if side > _MOST:
        return picture.resize((picture.width * _MOST // side or 1, picture.height * _MOST // side or 1))
    factor = -(-_LEAST // side)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)

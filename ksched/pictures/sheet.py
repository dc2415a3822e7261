"""Sheets: pictures side by side with what they are written beside them, for people to compare."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

__all__ = ["sheet"]


try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise ImportError('sheets need Pillow: pip install "ksched[diffusers]"') from error


_SMALLEST, _LARGEST = 128, 320  # sides of a cell that a person can look at and that fit on a screen side by side


_GAP, _MARGIN = 6, 18


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
    shown = [[_fitted(picture) for picture in row] for row in cells]
    heading, label, small = (ImageFont.load_default(size) for size in (22, 17, 14))
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def size(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[int, int]:
        left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=font)
        return round(right - min(left, 0)), round(bottom - min(top, 0))

    under = max((size(text, small)[1] for row in captions for text in row), default=0) + (8 if captions else 0)
    widths = [max(row[k].width for row in shown if k < len(row)) for k in range(wide)]
    for labels, font in ((columns, label), *((row, small) for row in captions)):
        widths = [max(w, size(labels[k], font)[0] if k < len(labels) else 0) for k, w in enumerate(widths)]
    heights = [max(picture.height for picture in row) + under for row in shown]
    left = _MARGIN + max((size(text, label)[0] + 14 for text in rows), default=0)
    tops = [(text, font, colour) for text, font, colour in ((title, heading, _INK), (note, small, _PALE)) if text]
    above = _MARGIN + sum(size(text, font)[1] + 8 for text, font, _ in tops) + 4 * bool(tops)
    grid = above + max((size(text, label)[1] + 8 for text in columns), default=0)
    across = [left, *accumulate((w + _GAP for w in widths), initial=left)][1:]
    down = [*accumulate((h + _GAP for h in heights), initial=grid)]
    full = max(across[-1], *(_MARGIN + size(text, font)[0] + _GAP for text, font, _ in tops), 0)

    page = Image.new("RGB", (full - _GAP + _MARGIN, down[-1] - _GAP + _MARGIN), "white")
    pen = ImageDraw.Draw(page)
    y = _MARGIN
    for text, font, colour in tops:
        pen.multiline_text((_MARGIN, y), text, fill=colour, font=font)
        y += size(text, font)[1] + 8
    for text, x, w in zip(columns, across, widths, strict=False):
        pen.multiline_text((x + w / 2, grid - 8), text, fill=_INK, font=label, anchor="md", align="center")
    for k, row in enumerate(shown):
        if rows:
            middle = down[k] + (heights[k] - under) / 2
            pen.multiline_text((left - 14, middle), rows[k], fill=_INK, font=label, anchor="rm", align="right")
        for i, picture in enumerate(row):
            x, y = across[i] + (widths[i] - picture.width) // 2, down[k]
            page.paste(picture, (x, y))
            pen.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=_LINE)
            if captions:
                place = (across[i] + widths[i] / 2, down[k] + picture.height + 4)
                pen.multiline_text(place, captions[k][i], fill=_PALE, font=small, anchor="ma", align="center")
    return page


def _fitted(picture: Image.Image) -> Image.Image:
    """A picture of a size that can be looked at."""
    picture, side = picture.convert("RGB"), max(picture.size)
    if side > _LARGEST:
        return picture.resize((picture.width * _LARGEST // side or 1, picture.height * _LARGEST // side or 1))
    factor = -(-_SMALLEST // side)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)

"""One HTML file that runs plans in a browser: noise levels, the table of numbers, and particles on exact data."""

from ksched.explorer.html_page import is_page, page_html
from ksched.explorer.selection import Case, Selection, options_text

__all__ = ["Case", "Selection", "is_page", "options_text", "page_html"]

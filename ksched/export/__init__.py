"""Plans as source code in another language: a table, and about twenty lines that run it."""

from ksched.export.formats import Format, export

__all__ = ["Format", "export"]

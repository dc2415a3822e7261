"""Plans as source code: a table and a reader of some twenty lines in another language."""

from ksched.export.formats import Format, export

__all__ = ["Format", "export"]

"""How a flat table of operations numbers what it reads and writes."""

from __future__ import annotations

__all__ = ["NOWHERE", "RESULTS"]


#: First slot of a result, and no slot.
RESULTS, NOWHERE = 1 << 20, -1

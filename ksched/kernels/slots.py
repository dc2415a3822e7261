"""How a flat table of operations numbers what it reads and writes."""

from __future__ import annotations

__all__ = ["NO_SLOT", "RESULTS"]


#: First slot of a result, and no slot.
RESULTS, NO_SLOT = 1 << 20, -1

"""Plans: a run of a sampler as a table of numbers. A plan is data and does not depend on how it is executed."""

from ksched.plan.plan import Plan
from ksched.plan.rows import Draw, Register, Row

__all__ = ["Draw", "Plan", "Register", "Row"]

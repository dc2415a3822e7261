"""The names and settings of other programs, and what they mean in ksched. The core imports none of this."""

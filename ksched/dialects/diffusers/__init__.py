"""diffusers' scheduler classes and their configurations, as data. Needs no diffusers."""

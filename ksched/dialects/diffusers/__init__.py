"""diffusers' scheduler classes and their configurations, as data. diffusers need not be installed."""

"""Reading and writing what users keep: whole files or none, JSON and TOML with clear errors."""

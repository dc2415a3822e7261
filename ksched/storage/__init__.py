"""Reading and writing the files that users keep: atomic writes, and JSON and TOML with clear errors."""

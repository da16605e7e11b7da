"""The version of this package, as its pyproject.toml has it."""

VERSION = "0.1.0"

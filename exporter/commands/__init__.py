"""Subcommands of `pgvigil` and their helpers; `serve` is in `web`, `scrape` in `__main__`, `demo` in its own room."""

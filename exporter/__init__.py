"""pgvigil, the PostgreSQL exporter for Prometheus.

Data flows one way, and the folders follow it; `[tool.importlinter]` in pyproject.toml lists them in that order:

    settings + *.yaml -> catalog -> planning -> schedule -> scrape -> report -> exposition -> web, commands
                                                 connections <-/      watch: the looks between scrapes
"""

__version__ = "0.1.0"

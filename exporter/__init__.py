"""pgvigil, the PostgreSQL exporter for Prometheus.

Data flows one way, and the folders follow it; `[tool.importlinter]` in pyproject.toml lists which may import which:

    settings + *.yaml -> catalog -> planning -> schedule -> scrape -> samples -> report -> exposition -> web, commands
                                                 connections <-/      watch: the looks between scrapes
"""

__version__ = "0.1.0"

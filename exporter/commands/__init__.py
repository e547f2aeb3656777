"""Subcommands of `pgvigil`, apart from serving."""

"""What the subcommands of `pgvigil` do, beside serving."""

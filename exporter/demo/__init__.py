"""An embedded PostgreSQL with a workload that goes wrong, for `pgvigil demo`."""

"""Keeps a day of sessions, statements, key gauges and incidents of each target in an SQLite file."""

"""Scrapes one target: its workers, what they run, and whether the server is up."""

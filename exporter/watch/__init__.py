"""Looks at a target between scrapes: samples waits, records incidents."""

"""Writes a report as the page that Prometheus reads."""

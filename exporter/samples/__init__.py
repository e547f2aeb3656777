"""Turns rows into samples. Pure."""

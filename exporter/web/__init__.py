"""Serves pages over HTTP."""

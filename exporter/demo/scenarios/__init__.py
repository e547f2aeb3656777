"""Incidents that can be played on the shop: the cause of each, its cure, and what shows it."""

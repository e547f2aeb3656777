"""Decides what runs on a server, from the catalog and what is known of the server. Pure."""

"""Decides which jobs run on a server, from the catalog and the facts of the server. No I/O."""

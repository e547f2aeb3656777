"""Talks to PostgreSQL and PgBouncer: connection strings, logins, sessions, discovery, and the budget of connections."""

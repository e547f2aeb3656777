"""Talks to PostgreSQL and PgBouncer: sessions, and the connections of one target within their budget."""

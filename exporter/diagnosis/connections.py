"""Finds who holds the connections, and why nobody new gets in. Pure."""

from collections.abc import Iterator

from exporter.connections.session import APPLICATION_NAME
from exporter.diagnosis.culprits import found
from exporter.diagnosis.findings import Finding, Remedy, count, limit
from exporter.diagnosis.readings import Labels, Readings
from exporter.diagnosis.sessions import statement_of
from exporter.sql import literal


def connections(now: Readings, _: float) -> Iterator[Finding]:
    """Find who holds the connections when few are left, and limits of roles and databases."""
    used, left = now.value("pg_connections_used"), now.value("pg_connections_available")
    if used is not None and left is not None and used + left:
        ratio = used / (used + left)
        if ratio > limit("ConnectionsNearlyUsed", "ratio"):
            alert = "ConnectionsAtLimit" if ratio >= limit("ConnectionsAtLimit", "ratio") else "ConnectionsNearlyUsed"
            holder = _holder(now, used)
            most = f"; {holder[1]} has {holder[0]:,.0f} of them" if holder else ""
            labels, ends = (holder[2], _ends(now, holder[2])) if holder else ({}, [])
            whole = now.value("pg_connections_max") or used + left
            kept = whole - used - left
            whom = "" if now.value("pg_connections_reserved") else " for superusers"
            others = f"{'' if left else 'the other '}{kept:,.0f} {'is' if kept == 1 else 'are'}"
            reserved = f", and {others} reserved{whom}" if kept > 0 else ""
            sentence = f"{used:,.0f} of {count(whole, 'connection')} are in use{reserved}{most}"
            if not left:
                ends = [_way_in(kept), *ends]
            yield found(alert, sentence, labels, ends, None, _most_run(now) if holder else "")
    for had in now.series("pg_roles_connection_limit"):
        has = now.value("pg_roles_connections", had.labels) or 0.0
        if had.value > 0 and has > limit("RoleConnectionsNearlyUsed", "ratio") * had.value:
            sentence = f"role {had.labels['rolname']} has {has:,.0f} of the {had.value:,.0f} connections it may have"
            yield found("RoleConnectionsNearlyUsed", sentence, had.labels)
    for had in now.series("pg_database_connection_limit"):
        has = now.value("pg_database_connections", had.labels) or 0.0
        if had.value > 0 and has > limit("DatabaseConnectionsNearlyUsed", "ratio") * had.value:
            name = had.labels["datname"]
            sentence = f"database {name} has {has:,.0f} of the {had.value:,.0f} connections it may have"
            yield found("DatabaseConnectionsNearlyUsed", sentence, had.labels)


_SIZEABLE = 0.2
"""Share of the connections in use from which on their holder is named."""

_HOLDERS = (("usename", "application_name"), ("usename",), ("datname",))
"""What sessions are summed by, until one holds a sizeable share."""


def _holder(now: Readings, used: float) -> tuple[float, str, Labels] | None:
    """Return who has a sizeable share of the connections: how many, its name, and its labels; None where nobody has."""
    for by in _HOLDERS:
        sums: dict[tuple[str, ...], float] = {}
        for session in now.series("pg_sessions"):
            if session.labels.get("application_name") != APPLICATION_NAME:
                key = tuple(session.labels.get(name, "") for name in by)
                sums[key] = sums.get(key, 0.0) + session.value
        most = max(sums, key=sums.__getitem__, default=None)
        if most is not None and any(most) and sums[most] >= _SIZEABLE * used:
            labels = dict(zip(by, most, strict=True))
            return sums[most], _called(labels), labels
    return None


def _called(labels: Labels) -> str:
    if datname := labels.get("datname"):
        return f"database {datname}"
    application, user = labels.get("application_name", ""), labels["usename"]
    if "application_name" in labels and not application:
        return f"user {user} without application_name"
    return f"application {application} of {user}" if application else f"user {user}"


def _ends(now: Readings, labels: Labels) -> list[Remedy]:
    """Return what frees connections of an application: it depends on what its sessions do."""
    of_state = {state: _sessions(now, {**labels, "state": state}) for state in ("idle", "active")}
    found = []
    if of_state["idle"]:
        effect = f"End {count(of_state['idle'], 'idle session')} of it, outside of a transaction."
        found.append(Remedy(effect, _of_sessions("pg_terminate_backend", {"state": "idle", **labels})))
    if of_state["active"] > of_state["idle"]:
        run = f"Cancel what its {count(of_state['active'], 'active session')} run"
        effect = f"{run}: the application gets errors. Its connections stay."
        found.append(Remedy(effect, _of_sessions("pg_cancel_backend", {"state": "active", **labels})))
        effect = "If it tries again, end its sessions, and stop the application."
        found.append(Remedy(effect, _of_sessions("pg_terminate_backend", labels)))
    return found


def _way_in(reserved: float) -> Remedy:
    if reserved > 0:
        kept = f"{count(reserved, 'connection')} {'is' if reserved == 1 else 'are'} kept for that"
        return Remedy(f"Log in as a superuser: {kept}.")
    return Remedy("Stop the application, or use a session that is open: no login succeeds, not even of a superuser.")


def _sessions(now: Readings, labels: Labels) -> float:
    return sum(each.value for each in now.series("pg_sessions", **labels))


def _of_sessions(function: str, labels: Labels) -> str:
    """Write what ends sessions, but for that of whoever runs it, for ours, and for processes that are no client's."""
    conditions = " AND ".join(f"{column} = {literal(value)}" for column, value in labels.items())
    if not labels.get("application_name"):
        conditions += f" AND application_name <> {literal(APPLICATION_NAME)}"
    conditions += " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    return f"SELECT {function}(pid) FROM pg_stat_activity WHERE {conditions};"  # noqa: S608  # an operator runs it


def _most_run(now: Readings) -> str:
    """Return the text of the statement that most sessions are at."""
    running = now.series("pg_statement_running_sessions")
    return statement_of(now, running[0].labels) if running else ""


def logins(now: Readings, _: float) -> Iterator[Finding]:
    """Find why nobody new gets in."""
    reasons = [each.labels["reason"] for each in now.series("pg_login_reason") if each.value]
    if now.value("pg_login_success") == 0:
        if own := [reason for reason in reasons if reason in OF_THE_EXPORTER]:
            yield found("ExporterLoginFails", f"the exporter's new logins fail: {own[0]}", {})
        elif reasons != ["too_many_connections"]:
            yield found("LoginsFail", f"new logins fail ({', '.join(reasons) or 'unknown reason'})", {})
        elif (left := now.value("pg_connections_available")) and not _is_limit_reached(now):  # else connections say it
            why = f"though {left:,.0f} places seem left: logins that are not finished hold them"
            yield found("LoginsFail", f"new logins fail (too_many_connections), {why}", {})


OF_THE_EXPORTER = ("settings", "authentication")
"""Reasons of a failed login that say nothing of others, as in the rule of the alert."""


def _is_limit_reached(now: Readings) -> bool:
    """Return whether a role or a database has all the connections that it may have."""
    return any(
        had.value > 0 and (now.value(f"{of}_connections", had.labels) or 0.0) >= had.value
        for of in ("pg_roles", "pg_database")
        for had in now.series(f"{of}_connection_limit")
    )

"""The command line: builds the parts as the settings say and starts them."""

import asyncio
import io
import logging
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter import __version__
from exporter.errors import ExporterError, PgvigilError, SettingsError
from exporter.kinds import PRODUCTS
from exporter.passwords import without_passwords
from exporter.printable import printable

if TYPE_CHECKING:
    from exporter.settings import Settings

# Each command imports what it needs: a server that runs for months carries no other command, and those that ask no
# server start without its libraries.


def _use(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    """Keep the file for the command: one that stands after the command wins over one before it."""
    context.obj = file or context.obj


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    callback=_use,
    expose_value=False,
    help="Configuration file (YAML); PGVIGIL_CONFIG does the same. It may stand before or after the command.",
)


@click.group(invoke_without_command=True)
@config_option
@click.version_option(__version__, prog_name="pgvigil")
@click.pass_context
def cli(context: click.Context) -> None:
    """PostgreSQL exporter for Prometheus. Without a command it serves. Settings are PGVIGIL_* variables or --config."""
    if context.invoked_subcommand is None:
        context.invoke(serve_command)


@cli.command("serve")
@config_option
@click.option(
    "--web.config.file",
    "web_config",
    type=click.Path(path_type=Path),
    help="TLS, users, headers, as Prometheus' exporters have it; PGVIGIL_WEB_CONFIG_FILE does the same.",
)
@click.option(
    "--web.listen-address",
    "addresses",
    multiple=True,
    metavar="HOST:PORT",
    help="Where to serve, once or more; PGVIGIL_LISTEN does the same.",
)
@click.pass_obj
def serve_command(config: Path | None, web_config: Path | None = None, addresses: Sequence[str] = ()) -> None:
    """Serve /metrics until SIGTERM (the default)."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is to read files again, which is done anyway until it serves
    from exporter.settings import PREFIX
    from exporter.web.server import serve

    if web_config:
        os.environ[f"{PREFIX}WEB_CONFIG_FILE"] = str(web_config)
    if addresses:
        os.environ[f"{PREFIX}LISTEN"] = ",".join(addresses)
    serve(_settings(config), config)


@cli.command()
@config_option
@click.option("--target", default="", help="Which one, when several are configured.")
@click.pass_obj
def scrape(config: Path | None, target: str) -> None:
    """Print one page; the exit code is 0 when the server is up, else 1."""
    page, up = asyncio.run(_one_page(_settings(config), target))
    if sys.stdout.isatty():  # names are data, and may hold what controls a terminal
        click.echo("\n".join(map(printable, page.decode().splitlines())))
    else:
        sys.stdout.buffer.write(page)
    sys.exit(0 if up else 1)


file_option = partial(click.option, type=click.Path(path_type=Path, dir_okay=False, exists=True))


@cli.command("now")
@click.option("--url", default="http://127.0.0.1:9187", show_default=True, help="Where the exporter serves.")
@click.option("--target", default="", help="Which one, when it has several; without it a line for each.")
@file_option("--token-file", help="A file with the bearer token that the exporter asks for.")
@file_option("--ca-file", help="Certificate authorities for its https, instead of the system's.")
@file_option("--cert-file", help="A client certificate, where the exporter asks for one.")
@file_option("--key-file", help="Its private key, unless it is in the same file.")
def now_command(url: str, target: str, **files: Path | None) -> None:
    """Print what is wrong now, who is to blame and what helps, as a running exporter knows it.

    The exit code is 0 when nothing is wrong, 1 when something is, and 2 when it cannot be read or is not known yet.
    """
    from exporter.commands.now import Credentials, now

    try:
        sys.exit(now(url, target, Credentials(**files)))
    except ExporterError as error:
        click.echo(f"pgvigil: {error}", err=True)
        sys.exit(2)


@cli.command("demo")
@click.option("--listen", default="127.0.0.1:9187", show_default=True, help="Where to serve; when taken, a free port.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End by itself after this time.")
@click.option("--incident", metavar="NAME", help="Play one incident, such as migration; a wrong name lists them all.")
@click.option(
    "--grafana-provisioning",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write data source and dashboards for your Grafana, and a prometheus.yml, to this folder.",
)
@click.option("--prometheus", default="http://localhost:9090", show_default=True, help="Where your Grafana finds it.")
def demo_command(
    listen: str, seconds: float | None, incident: str | None, folder: Path | None, prometheus: str
) -> None:
    """Start a PostgreSQL that is in trouble, and the exporter beside it, until Ctrl-C."""
    from exporter.demo.run import Grafana, demo

    demo(listen, seconds, incident, Grafana(folder, prometheus) if folder else None)


@cli.command("check")
@config_option
@click.pass_obj
def check_command(config: Path | None) -> None:
    """Say what works, what is missing, and the SQL that mends it.

    The exit code is 0 when nothing is missing, 1 when something is or a collector fails, and 2 when a server
    cannot be reached or a setting is wrong.
    """
    from exporter.commands.check import check, written
    from exporter.configuration import load_settings, unmatched
    from exporter.leftovers import leftovers
    from exporter.logs import configure
    from exporter.web.guard import Guard

    for leftover in leftovers():
        click.echo(f"pgvigil: {leftover}", err=True)
    try:
        configure("console", "error")  # what is worth a line is told below
        settings = load_settings(config)
        Guard(settings)
        checkups, failures = asyncio.run(check(settings))
    except PgvigilError as error:
        click.echo(f"pgvigil: {error}", err=True)
        sys.exit(2)
    missing = unmatched(settings.targets_files)
    for pattern in missing:
        click.echo(f"pgvigil: targets_files: no file matches {pattern}. Write one, or correct the pattern", err=True)
    for failure in failures:
        click.echo(f"pgvigil: {failure}", err=True)
    click.echo("\n\n".join(map(written, checkups)) or "No server is named, so there is nothing to check.")
    sys.exit(max(2 * bool(failures), int(bool(missing)), *(checkup.exit_code for checkup in checkups)))


@cli.command("grants")
@config_option
@click.option("--role", default="pgvigil", show_default=True, help="Name of the role.")
@click.option("--kind", type=click.Choice(list(PRODUCTS)), help="Kind of target; PGVIGIL_KIND when not given.")
@click.pass_obj
def grants_command(config: Path | None, role: str, kind: str | None) -> None:
    """Print the SQL that creates the role to connect as: pgvigil grants | psql. For PgBouncer, lines of its files."""
    from exporter.commands.grants import console_grants, grants
    from exporter.configuration import load_settings

    settings = load_settings(config)
    of_console = (kind or settings.kind) == "pgbouncer"
    click.echo(console_grants(role) if of_console else grants(role, settings.max_connections_per_target), nl=False)


@cli.command("reference")
@click.option("--check", is_flag=True, help="Write nothing; fail when the file is out of date.")
@click.option("--diff", type=click.Choice(["postgres_exporter"]), help="Print its names with ours and how they differ.")
def reference_command(check: bool, diff: str | None) -> None:
    """Write exporter/collectors/README.md and exporter/LIBPQ.md, or print the names of another exporter."""
    from exporter.catalog.load import BUILT_IN, COMPATIBILITY, load

    if diff:
        from exporter.commands.compatibility import difference

        click.echo(difference(load(BUILT_IN).of_kind("postgresql"), load(COMPATIBILITY)), nl=False)
        return
    from exporter.commands.reference import read_costs, reference
    from exporter.connections.libpq import table

    costs = read_costs((BUILT_IN / "costs.tsv").read_text("utf-8"))
    pages = {BUILT_IN / "README.md": reference(load(BUILT_IN), costs), BUILT_IN.parent / "LIBPQ.md": table()}
    if not check and not (BUILT_IN.parents[1] / "pyproject.toml").is_file():
        raise click.ClickException(
            f"{BUILT_IN.parent}: is an installed package, whose files stay as they are. Run this in a checkout; what it"
            f" would write is in {BUILT_IN / 'README.md'}"
        )
    for file, text in pages.items():
        if check and (not file.is_file() or file.read_text("utf-8") != text):
            raise click.ClickException(f"{file} is out of date; run: pgvigil reference")
        if not check:
            file.write_text(text, "utf-8")


@cli.command("rules")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--values", type=click.Path(path_type=Path, dir_okay=False), help="Thresholds, labels, links ... (YAML).")
def rules_command(folder: Path, values: Path | None) -> None:
    """Write the alert rules for Prometheus to FOLDER, with your own values in them.

    Files that an earlier run wrote and that have no alert left are removed; other files stay.
    """
    from exporter.alert_rules import shipped
    from exporter.commands.rules import Values, read_values, rule_files

    files = (
        rule_files(read_values(values), shipped("rules"), values.name)
        if values
        else rule_files(Values(), shipped("rules"))
    )
    _write("rules", files, folder, "no alert left")


@cli.command("dashboards")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--values", type=click.Path(path_type=Path, dir_okay=False), help="The file that `rules` takes (YAML).")
def dashboards_command(folder: Path, values: Path | None) -> None:
    """Write the Grafana dashboards to FOLDER, with links to your runbooks (runbookBaseUrl) in them.

    Files that an earlier run wrote and that are no longer shipped are removed; other files stay.
    """
    from exporter.commands.dashboards import built_in, dashboard_files
    from exporter.commands.rules import Values, read_values

    files = dashboard_files(read_values(values) if values else Values(), built_in())
    if not files:
        raise click.ClickException(f"{built_in()}: holds no dashboards. Install pgvigil again.")
    _write("dashboards", files, folder, "no longer shipped")


def _write(command: str, files: Mapping[str, str], folder: Path, why: str) -> None:
    """Write the files of a command, and name those that an earlier run wrote and this one removed."""
    from exporter.commands.owned_files import write_owned

    try:
        removed = write_owned(command, files, folder)
    except OSError as error:
        place = error.filename or folder
        raise click.ClickException(f"{place}: {error.strerror}. Choose a folder that can be written.") from error
    click.echo(f"wrote {len(files)} files to {folder}")
    for name in removed:
        click.echo(f"{name}: {why}; removed")


def _settings(config: Path | None) -> "Settings":
    from exporter.configuration import load_settings
    from exporter.leftovers import leftovers
    from exporter.logs import configure

    settings = load_settings(config)
    configure(settings.log_format, settings.log_level)
    for leftover in leftovers():
        logging.getLogger(__name__).warning(leftover)
    return settings


async def _one_page(settings: "Settings", name: str) -> tuple[bytes, bool]:
    from exporter.assembly import catalog_of
    from exporter.discovery.discovery import with_discovered
    from exporter.exposition.negotiation import negotiate
    from exporter.exposition.page import Pages
    from exporter.fleet import Fleet

    settings, failures = await with_discovered(settings)
    for failure in failures:
        click.echo(f"pgvigil: {failure}", err=True)
    targets = Fleet(settings, catalog_of(settings))
    if name not in targets:
        wrong = f"no target is named {name!r}" if name else "several targets are configured; name one"
        raise SettingsError(f"--target: {wrong}; configured: {_configured(targets)}")
    try:
        report = await targets[name].scrape(settings.scrape_timeout)
    finally:
        await targets[name].close()
    pages = Pages(settings.max_samples, settings.compatibility_names)
    return pages.page(report, negotiate(""), gzip=False), report.up


def _configured(targets: Collection[str]) -> str:
    return ", ".join(filter(None, targets)) or ("none: there is one target, without a name" if targets else "none")


def main() -> None:
    """Run the command line. An error that the user can mend is a line, not a traceback."""
    try:
        sys.exit(cli(prog_name="pgvigil", standalone_mode=False))
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        click.echo(without_passwords(told.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit("Aborted!")
    except PgvigilError as error:
        sys.exit(f"pgvigil: {error}")


if __name__ == "__main__":
    main()

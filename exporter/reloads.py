"""Reads configuration, targets and collectors again: when a file changes, at SIGHUP, and when a client asks."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from exporter.assembly import catalog_of
from exporter.catalog.model import Catalog
from exporter.configuration import configuration_file, load_settings, targets_files, unmatched
from exporter.connection_settings import TargetSettings
from exporter.connections.off_loop import OffLoop
from exporter.discovery.discovery import DiscoveryLoop
from exporter.discovery.rounds import Rounds
from exporter.errors import PgvigilError, SettingsError
from exporter.exposition.process_metrics import CONFIG_SUCCESS, CONFIG_SUCCESS_TIMESTAMP
from exporter.file_changes import fingerprint, settled
from exporter.fleet import Change, Fleet
from exporter.samples.model import Family
from exporter.settings import Settings

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""Interval at which the files are looked at: each look wakes an exporter that rests."""

_BEGIN_SECONDS = 5.0
"""Seconds that the start waits for the sources of servers."""

_PATIENCE_SECONDS = 10.0

_DSNS = "files of the DSNs"

_JUST_NOW_SECONDS = 5.0
"""Age of a file that may have changed between the start, which read it, and the first look."""

_AT_START = (
    "listen",
    "web_config_file",
    "bearer_token_file",
    "pages",
    "pages_from",
    "compatibility_names",
    "scrape_timeout",
    "scrape_timeout_offset",
    "max_samples",
    "history_hours",
    "state_dir",
    "log_format",
    "log_level",
)
"""Settings that are read at the start only."""

Adopt = Callable[[Change], Awaitable[None]]


class Reloads:
    """Keeps the fleet as the files say. What cannot be used changes nothing.

    Args:
        fleet: the targets.
        settings: as read at the start.
        catalog: likewise.
        file: the configuration file; None where there is none.
        clock: Unix time.

    """

    def __init__(
        self,
        fleet: Fleet,
        settings: Settings,
        catalog: Catalog,
        file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fleet, self._settings, self._file = fleet, settings, configuration_file(file)
        self._at_start = settings
        self._calls, self._clock = OffLoop(), clock
        self._catalog = self._of_catalog(settings), catalog
        """The collectors, and what they were read from."""
        self._seen: tuple[object, ...] | None = fingerprint(self._files())
        self._matched = _matched(settings)
        """The patterns of targets_files that had files."""
        if any(_was_written_after(clock() - _JUST_NOW_SECONDS, each) for each in self._files()):
            self._seen = None
        self._discovery = DiscoveryLoop(settings.discovery)
        self._discovery.taken = [target.name for target in settings.targets or ()]
        self._rounds = Rounds(self._discovery, self._follow)
        self._found: tuple[TargetSettings, ...] = ()
        """The targets of the sources that the fleet has."""
        self._one_at_a_time = asyncio.Lock()
        self._adopt: Adopt | None = None
        self._asked = asyncio.Event()
        self._why, self._succeeded_at = "", clock()
        """Why the latest configuration cannot be used; empty while it is used."""

    def ask(self) -> None:
        """Have everything read again soon, as SIGHUP does."""
        self._asked.set()

    async def begin(self, adopt: Adopt) -> None:
        """Ask the sources of servers once, for a few seconds at most.

        Args:
            adopt: begins with the targets that come, and ends those that have gone.

        """
        self._adopt = adopt
        await self._rounds.begin(_BEGIN_SECONDS)

    @property
    def is_complete(self) -> bool:
        """Return whether all servers are known: each source has answered once."""
        return self._discovery.is_complete

    async def discover(self) -> None:
        """Ask the sources of servers again and again, until cancelled."""
        await self._rounds.run()

    async def _follow(self) -> None:
        """Have the fleet follow what the sources say."""
        async with self._one_at_a_time:
            if self._discovery.targets != self._found:
                await self._use(self._settings, self._catalog[1], rereads=False)

    async def run(self) -> None:
        """Read again when asked, and when the files have changed, until cancelled."""
        while True:
            await self._until_asked(_LOOK_SECONDS if self._has_files else None)
            was_asked = self._asked.is_set()
            self._asked.clear()
            try:
                if was_asked or await self._has_changed():
                    await self.reload()
            except Exception:  # noqa: BLE001  # the boundary: nothing else retrieves it
                _log.exception("configuration could not be read again")

    async def reload(self) -> str:
        """Read everything again; return why it cannot be used, or nothing."""
        async with self._one_at_a_time:
            try:
                await self._reload()
            except Exception as error:  # noqa: BLE001  # whatever is wrong, the earlier one stays
                is_known = isinstance(error, (PgvigilError, TimeoutError))
                before, self._why = self._why, str(error) if is_known else f"{type(error).__name__}: {error}"
                is_late = isinstance(error, TimeoutError)
                if not is_late or self._why != before:
                    _log.warning("configuration cannot be used; the earlier one stays", extra={"reason": self._why})
                if is_late:
                    self._seen = None  # the next look tries again
            else:
                self._why, self._succeeded_at = "", self._clock()
            return self._why

    async def _reload(self) -> None:
        seen = await self._calls.call("look", lambda: fingerprint(self._files()), _PATIENCE_SECONDS)
        self._seen = seen  # what is wrong in them is said once
        settings, source, catalog = await self._calls.call("read", self._read, _PATIENCE_SECONDS)
        if late := [name for name in _AT_START if getattr(settings, name) != getattr(self._at_start, name)]:
            _log.warning("%s: changed, and read at the start only. Restart for it", ", ".join(late))
        take_back = self._discovery.adopt(settings.discovery)
        try:
            await self._use(settings, catalog, rereads=True)
            _log.info("configuration was read again")
        except BaseException:
            take_back()
            raise
        self._settings, self._catalog = settings, (source, catalog)
        self._matched = _matched(settings)
        self._rounds.wake()

    async def _use(self, settings: Settings, catalog: Catalog, *, rereads: bool) -> None:
        """Have the fleet be what the settings and the sources of servers say."""
        own = settings.targets or ()
        self._discovery.taken = [target.name for target in own]
        found = self._discovery.targets
        named = (*own, *found) if settings.discovery else settings.targets
        wanted = settings.model_copy(update={"targets": named})
        prepared = await self._calls.call(
            _DSNS, lambda: self._fleet.prepare(wanted, catalog, rereads=rereads), _PATIENCE_SECONDS
        )
        if prepared.settings is not wanted:  # an earlier call, which hung
            raise TimeoutError(f"{_DSNS}: have only just been read. Ask again")
        change = self._fleet.adopt(prepared)
        self._found = found
        if change.come or change.gone:
            extra = {what: _named(each) for what, each in (("come", change.come), ("gone", change.gone)) if each}
            _log.info("targets have changed", extra=extra)
        if self._adopt:
            await self._adopt(change)

    @property
    def failures(self) -> list[str]:
        """Say why configuration and sources of servers are not used as they are now."""
        return [*([self._why] if self._why else []), *self._discovery.failures]

    def families(self) -> list[Family]:
        """Say whether the latest configuration could be used, for the page of metrics."""
        return [
            Family(CONFIG_SUCCESS, [""], [int(not self._why)]),
            Family(CONFIG_SUCCESS_TIMESTAMP, [""], [self._succeeded_at]),
            *self._discovery.families(),
        ]

    def _read(self) -> tuple[Settings, object, Catalog]:
        """Read the settings, and the collectors where they may be others: that takes as long as many scrapes."""
        settings = load_settings(self._file)
        if self._file and self._settings.has_names and not settings.has_names:
            raise SettingsError(f"{self._file}: names no targets any more. Restart for that; `targets: []` is none")
        if self._file and not self._file.read_text("utf-8").strip():
            raise SettingsError(f"{self._file}: is empty. Restart for that")
        if lost := [each for each in settings.targets_files if each in self._matched - _matched(settings)]:
            raise SettingsError(
                f"targets_files: no file matches {lost[0]} any more. A list of no targets is a file with []"
            )
        source = self._of_catalog(settings)
        known, catalog = self._catalog
        return settings, source, catalog if source == known else catalog_of(settings)

    @staticmethod
    def _of_catalog(settings: Settings) -> object:
        own = fingerprint(_own_collectors(settings))
        return settings.collectors, settings.disable, settings.statement_text_length, settings.collectors_dir, own

    async def _until_asked(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._asked.wait(), seconds)
        except TimeoutError:
            return

    async def _has_changed(self) -> bool:
        """Return whether the files are others than those that were read, once they are no longer being written."""
        seen = await self._look()
        if seen is None or seen == self._seen:
            return False
        await settled(self._look, seen)
        return True

    async def _look(self) -> tuple[object, ...] | None:
        try:
            return await self._calls.call("look", lambda: fingerprint(self._files()), _PATIENCE_SECONDS)
        except TimeoutError:
            return None

    def _files(self) -> list[Path]:
        """List the files that are read. Blocking."""
        named = [self._file] if self._file else []
        own = _own_collectors(self._settings)
        return [*named, *targets_files(self._settings.targets_files), *own, *self._fleet.files]

    @property
    def _has_files(self) -> bool:
        settings = self._settings
        return bool(self._file or settings.targets_files or settings.collectors_dir or self._fleet.files)


def _named(targets: Iterable[str]) -> str:
    """Name some targets, of many the first ones."""
    names = list(targets)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


_MOST_NAMED = 10


def _matched(settings: Settings) -> set[str]:
    """Return the patterns of targets_files that have files. Blocking."""
    return set(settings.targets_files) - set(unmatched(settings.targets_files))


def _own_collectors(settings: Settings) -> list[Path]:
    folder = settings.collectors_dir
    return [folder, *sorted(folder.glob("*.yaml"))] if folder else []


def _was_written_after(oldest: float, file: Path) -> bool:
    try:
        return file.stat().st_mtime > oldest
    except OSError:
        return False

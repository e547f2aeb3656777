"""Asks the sources of servers again and again, and keeps what each of them said last."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from exporter.connection_settings import SourceKind, SourceSettings, TargetSettings
from exporter.connections.dsn import parameters
from exporter.connections.off_loop import OffLoop
from exporter.discovery.aws import aws
from exporter.discovery.dns_srv import dns_srv
from exporter.discovery.kubernetes import have_pods_changed, kubernetes
from exporter.discovery.member import Answer, Member, check, target_of
from exporter.discovery.patroni import patroni
from exporter.errors import DiscoveryError, PgvigilError
from exporter.exposition.process_metrics import DISCOVERY_SUCCESS, DISCOVERY_TARGETS
from exporter.samples.label_values import label_text
from exporter.samples.model import Family
from exporter.settings import Settings

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
"""Interval at which each source is asked."""

_PATIENCE_SECONDS = 20.0

_GRACE_SECONDS = 60.0
"""Time for a source to answer for the first time, for which Prometheus keeps the list it has."""

_CLASH = "Set `name` of a source"

_MOST_MEMBERS = 1000
"""Upper bound on the servers of a source: twice what one process can watch. A source that goes mad costs us nothing."""

Ask = Mapping[SourceKind, Callable[[SourceSettings], Answer]]

Watch = Mapping[SourceKind, Callable[[SourceSettings, str, float], bool]]

ASK: Ask = {
    "patroni": patroni,
    "kubernetes": kubernetes,
    "dns": dns_srv,
    "aws": aws,
}

WATCH: Watch = {"kubernetes": have_pods_changed}
"""What waits for a change since a version, some seconds at most, of the sources that tell of changes."""

_BURST_SECONDS = 1.0
"""Time after a change for others that come with it: pods change several times when they come or go."""


@dataclass(frozen=True)
class _Known:
    """What is known from a source."""

    targets: Sequence[TargetSettings] | None = None
    """None before its first answer."""
    why: str = ""
    """Why its latest answer could not be used; empty where it could."""
    version: str = ""
    since: float = 0.0
    """When it was first to be asked: monotonic time."""


class DiscoveryLoop:
    """Asks all sources. One that fails changes nothing: its servers stay as they were.

    Args:
        sources: what to ask.
        ask: asks a source of each kind.
        watch: waits for changes, of those kinds that tell of them.
        clock: monotonic time.

    """

    def __init__(
        self,
        sources: Iterable[SourceSettings] = (),
        ask: Ask = ASK,
        watch: Watch = WATCH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._watch, self._clock = ask, watch, clock
        self._known = {source: _Known(since=clock()) for source in _checked(sources)}
        self._calls = OffLoop()
        self.taken: Collection[str] = ()
        """Names of targets that no source may give to another server."""
        self._clashes: Mapping[str, SourceSettings] = {}
        """Names that two servers have -> the source of the one that is left out."""

    def adopt(self, sources: Iterable[SourceSettings]) -> Callable[[], None]:
        """Ask these from now on; what is known of those that stay is kept. Return what takes it back.

        The servers of one that is changed stay until it answers. SettingsError leaves all as it was.
        """
        before, sources = self._known, _checked(sources)
        fresh = _Known(since=self._clock())
        self._known = {
            source: before.get(source) or replace(fresh, targets=_inherited(place, sources, before))
            for place, source in enumerate(sources)
        }

        def take_back() -> None:
            self._known = {source: self._known.get(source, known) for source, known in before.items()}

        return take_back

    @property
    def sources(self) -> Sequence[SourceSettings]:
        """The sources."""
        return tuple(self._known)

    @property
    def targets(self) -> tuple[TargetSettings, ...]:
        """All targets that the sources named last, each name once."""
        return tuple(self._told()[0])

    def _told(self) -> tuple[list[TargetSettings], dict[str, SourceSettings]]:
        """Return the targets, and the names that a source gives to one server while another has it."""
        found, clashes, names = list[TargetSettings](), dict[str, SourceSettings](), set(self.taken)
        for source, known in self._known.items():
            for target in known.targets or ():
                if target.name in names:
                    clashes[target.name] = source
                else:
                    names.add(target.name)
                    found.append(target)
        return found, clashes

    @property
    def is_complete(self) -> bool:
        """Return whether each source has answered once, or had a minute to: before, servers may be missing."""
        now = self._clock()
        return all(known.targets is not None or now - known.since > _GRACE_SECONDS for known in self._known.values())

    async def ask(self, sources: Iterable[SourceSettings] | None = None) -> list[str]:
        """Ask these sources at once, or all of them; return what is wrong."""
        asked = self.sources if sources is None else sources
        failures = [why for why in await asyncio.gather(*map(self._asked, asked)) if why]
        return failures + self._name_clashes()

    def _name_clashes(self) -> list[str]:
        """Note which servers are left out, since others have their names, and say it; in the log, when that changes."""
        before, self._clashes = self._clashes, self._told()[1]
        said = self._said_of_clashes()
        if said and self._clashes != before:
            _log.warning("servers of one name: the first stays", extra={"reason": "; ".join(said[:_MOST_SAID])})
        return said

    def _said_of_clashes(self) -> list[str]:
        return [
            f"{source.title}: {name}: another server has this name. {_CLASH}" for name, source in self._clashes.items()
        ]

    async def until_changed(self, seconds: float) -> set[SourceSettings]:
        """Wait until sources that can be watched tell of a change, and return them; `seconds` at most."""
        changed, rung = asyncio.Event(), set[SourceSettings]()
        watching = [
            asyncio.create_task(self._watched(source, known.version, seconds, rung, changed), name=source.title)
            for source, known in self._known.items()
            if known.version and source.source in self._watch
        ]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()
                    await asyncio.sleep(_BURST_SECONDS)
        finally:
            for task in watching:
                task.cancel()
        return rung

    async def _watched(
        self, source: SourceSettings, version: str, seconds: float, rung: set[SourceSettings], changed: asyncio.Event
    ) -> None:
        """Watch a source; where that fails, the list that is read again and again does."""
        wait = self._watch[source.source]
        while source not in rung:
            try:
                what = f"watch {source.title}"
                if await self._calls.call(what, lambda: wait(source, version, seconds), _PATIENCE_SECONDS):
                    rung.add(source)
                    changed.set()
                await asyncio.sleep(_BURST_SECONDS)  # where it ends at once
            except Exception as error:  # noqa: BLE001  # whatever it answered, it costs nothing else
                _log.debug("changes cannot be watched", extra={"reason": str(error)})
                return

    async def _asked(self, source: SourceSettings) -> str:
        """Ask a source. A server of it that cannot be a target costs the others nothing."""
        why, version = "", ""
        targets: tuple[TargetSettings, ...] | None = None
        try:
            answer = await self._calls.call(source.title, lambda: self._ask[source.source](source), _PATIENCE_SECONDS)
            targets, why = _targets(answer.members, source)
            version = answer.version
        except (PgvigilError, TimeoutError) as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001  # whatever it answered, it costs no other source
            why = f"{source.title}: {type(error).__name__}: {error}"
        before = self._known.get(source, _Known())
        if why and before.targets is not None:  # those known stay, but for what is known anew
            anew = {each.name for each in targets or ()}
            targets = (*(targets or ()), *(each for each in before.targets if each.name not in anew))
        if why and _without_numbers(why) != _without_numbers(before.why):
            _log.warning("servers could not be looked for; those known stay", extra={"reason": why})
        elif before.why and not why:
            _log.info("servers are looked for again", extra={"source": source.title})
        self._note(source, _Known(targets, why, version))
        return why

    def _note(self, source: SourceSettings, known: _Known) -> None:
        if source in self._known:  # else it was removed meanwhile
            self._known[source] = replace(known, since=self._known[source].since)

    @property
    def failures(self) -> list[str]:
        """Say of each source that fails why, and which servers are left out for their names."""
        return [known.why for known in self._known.values() if known.why] + self._said_of_clashes()

    def families(self) -> list[Family]:
        """Say of each source whether it answers, and how many servers it names."""
        labels = [label_text({"source": source.title}) for source in self._known]
        known, clashing = self._known.items(), set(self._clashes.values())
        return (
            [
                Family(DISCOVERY_SUCCESS, labels, [int(not each.why and of not in clashing) for of, each in known]),
                Family(DISCOVERY_TARGETS, labels, [len(each.targets or ()) for _, each in known]),
            ]
            if labels
            else []
        )


def _checked(sources: Iterable[SourceSettings]) -> Sequence[SourceSettings]:
    sources = tuple(sources)
    for source in sources:
        check(source)
    return sources


def _inherited(
    place: int, sources: Sequence[SourceSettings], before: Mapping[SourceSettings, _Known]
) -> Sequence[TargetSettings] | None:
    """Return the targets of the source that this one was before it was changed; None where it is new."""
    source, earlier = sources[place], list(before)
    gone = [each for each in earlier if each not in sources and each.source == source.source]
    same = [each for each in gone if each.title == source.title]
    same += [each for each in gone if len(earlier) == len(sources) and earlier[place] == each]
    return before[same[0]].targets if same else None


def _without_numbers(why: str) -> str:
    """Return what is the same where the same goes wrong in the same way: seconds and ports may differ each time."""
    return re.sub(r"\d+", "", why)


def _about(member: Member, source: SourceSettings, why: str) -> str:
    return why if source.title in why else f"{source.title}: {member.name}: {why}"


_MOST_CHARACTERS = 500
"""Upper bound on what is said of a member: its name may be as long as it likes."""


def _targets(members: Sequence[Member], source: SourceSettings) -> tuple[tuple[TargetSettings, ...], str]:
    """Return the targets that members become, and why others do not."""
    if len(members) > _MOST_MEMBERS:
        raise DiscoveryError(
            f"{source.title}: names {len(members)} servers, of which one exporter cannot watch more than"
            f" {_MOST_MEMBERS}. Name fewer, or spread them over several exporters"
        )
    found, wrong = list[TargetSettings](), list[str]()
    for member in members:
        try:
            target = target_of(member, source)
            parameters(target.dsn.get_secret_value())
            found.append(target)
        except PgvigilError as error:
            wrong.append(_about(member, source, str(error))[:_MOST_CHARACTERS])
    return tuple(found), "; ".join(wrong[:_MOST_SAID])


_MOST_SAID = 3


async def with_discovered(settings: Settings) -> tuple[Settings, list[str]]:
    """Ask the sources once; return the settings with the servers that they name, and what is wrong with sources."""
    if not settings.discovery:
        return settings, []
    loop = DiscoveryLoop(settings.discovery)
    loop.taken = [target.name for target in settings.targets or ()]
    failures = await loop.ask()
    return settings.model_copy(update={"targets": (*(settings.targets or ()), *loop.targets)}), failures

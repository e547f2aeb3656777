"""Servers that are found: what each source says, and what becomes of it while an exporter runs."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dns.message
import dns.rdatatype
import dns.rrset
import http_answers
import pytest
import yaml
from botocore.session import Session
from botocore.stub import Stubber
from kubernetes_api import KubernetesApi
from pages import MONITOR, Page, read
from patience import wait_until
from pydantic import SecretStr
from serving import Exporter, run, serving

from exporter.connection_settings import SourceSettings
from exporter.connections.dsn import parameters
from exporter.demo.cluster import Cluster
from exporter.discovery.aws import aws
from exporter.discovery.discovery import Ask, DiscoveryLoop
from exporter.discovery.dns_srv import dns_srv
from exporter.discovery.http_json import reason
from exporter.discovery.kubernetes import have_pods_changed, kubernetes
from exporter.discovery.member import Answer, Member, target_of
from exporter.discovery.patroni import patroni
from exporter.errors import DiscoveryError, SettingsError


class Patroni:
    """What a REST API of Patroni answers, as it is told."""

    def __init__(self) -> None:
        self.members = list[dict[str, Any]]()
        self.answers = True

    def answer(self) -> bytes:
        """A cluster as Patroni 4 describes it."""
        return json.dumps({"members": self.members, "scope": "orders"}).encode() if self.answers else b"no JSON"


@contextmanager
def rest(cluster: Patroni) -> Iterator[str]:
    """An HTTP server that answers so; gives its address."""
    with http_answers.answering(
        lambda path, _: http_answers.Answer(cluster.answer(), 200 if path == "/cluster" else 404)
    ) as place:
        yield f"http://{place}"


class Api:
    """What the API of Kubernetes answers: pages of lists, by path."""

    def __init__(self, pages: dict[str, list[Any]]) -> None:
        self.pages = pages
        self.asked = list[dict[str, list[str]]]()
        self.tokens = set[str]()


@contextmanager
def served(api: Api) -> Iterator[str]:
    """An HTTP server that answers so; gives its address."""

    def answer(path: str, headers: Mapping[str, str]) -> http_answers.Answer:
        url = urlsplit(path)
        api.asked.append({"continue": [], **parse_qs(url.query)})
        api.tokens.add(headers["Authorization"])
        pages = api.pages.get(url.path)
        return http_answers.Answer(json.dumps(pages.pop(0)).encode()) if pages else http_answers.Answer(b"{}", 404)

    with http_answers.answering(answer) as place:
        yield f"http://{place}"


def member(name: str, port: int, **more: Any) -> dict[str, Any]:
    """One as Patroni describes it."""
    return {"name": name, "role": "replica", "state": "streaming", "host": "127.0.0.1", "port": port, **more}


def source(kind: str = "patroni", **settings: Any) -> SourceSettings:
    """A source as it is configured."""
    needs: dict[str, dict[str, Any]] = {
        "patroni": {"urls": ["http://127.0.0.1:1"]},
        "kubernetes": {"selector": "cnpg.io/cluster=shop"},
        "dns": {"srv": "_pg._tcp.x"},
        "aws": {"tags": {"a": "b"}},
    }
    return SourceSettings.model_validate({"source": kind, "dsn": "user=monitor", **needs[kind], **settings})


def test_the_next_member_is_asked_where_one_does_not_answer() -> None:
    cluster = Patroni()
    cluster.members = [
        member("db1", 5432),
        member("db2", 5433),
        {"name": "new", "role": "replica", "state": "creating"},
    ]
    with rest(cluster) as url:
        found = patroni(source(urls=["http://127.0.0.1:1", f"{url}/"]))
    assert found == Answer([Member(f"db{n}", "127.0.0.1", 5431 + n, {"cluster": "orders"}) for n in (1, 2)])


@pytest.mark.parametrize(
    "answer", [b"no JSON", b"[]", b"{}", b'{"members": [{"host": "h"}]}', b'{"members": ["x"]}', b'{"members": []}']
)
def test_a_cluster_that_says_nothing_of_use_is_named(answer: bytes) -> None:
    cluster = Patroni()
    cluster.answer = lambda: answer  # type: ignore[method-assign]
    with rest(cluster) as url, pytest.raises(DiscoveryError, match=f"patroni {url}: no member answers: {url}: "):
        patroni(source(urls=[url]))


def pod(name: str, address: str = "", **about: Any) -> dict[str, Any]:
    """One as Kubernetes describes it."""
    status = {"podIP": address} if address else {"phase": "Pending"}
    return {"metadata": {"name": name, "labels": {"cnpg.io/cluster": "shop"}, **about}, "status": status}


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """The account of a pod."""
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "namespace").write_text("databases")
    return tmp_path


def test_pods_are_servers_by_their_labels(account: Path) -> None:
    api = Api({"/api/v1/namespaces/databases/pods": [
        {"items": [pod("shop-1", "10.0.0.1"), pod("shop-2")], "metadata": {"continue": "a/b"}},
        {"items": [pod("shop-3", "10.0.0.3", deletionTimestamp="now"), pod("other", "10.0.0.4", labels=None),
                   {**pod("evicted", "10.0.0.4"), "status": {"podIP": "10.0.0.5", "phase": "Failed"}}],
         "metadata": {"resourceVersion": "7"}},
    ]})  # fmt: skip
    with served(api) as url:
        found = kubernetes(source("kubernetes", urls=[url], port=5433), account)
    assert found == Answer(
        [Member("shop-1", "10.0.0.1", 5433, {"cluster": "shop"}), Member("other", "10.0.0.4", 5433)], "7"
    )
    assert [each["continue"] for each in api.asked] == [[], ["a/b"]]
    assert {tuple(each["labelSelector"]) for each in api.asked} == {("cnpg.io/cluster=shop",)}
    assert api.tokens == {"Bearer s3cret"}


def test_pods_that_may_not_be_listed_are_said_without_the_token(account: Path) -> None:
    with served(Api({})) as url, pytest.raises(DiscoveryError) as caught:
        kubernetes(source("kubernetes", urls=[url]), account)
    assert str(caught.value) == f"kubernetes {url} cnpg.io/cluster=shop: Not Found"


def test_where_there_is_no_pod_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(DiscoveryError, match="this is no pod"):
        kubernetes(source("kubernetes", selector="app=postgres"), tmp_path)
    with pytest.raises(DiscoveryError, match="namespace: none is given, and this is no pod"):
        kubernetes(source("kubernetes", selector="app=postgres", urls=["http://127.0.0.1:8001"]), tmp_path)


def test_a_list_without_an_end_is_not_read_on(account: Path) -> None:
    page = {"items": [], "metadata": {"continue": "on"}}
    api = Api({"/api/v1/namespaces/databases/pods": [page] * 99})
    with served(api) as url, pytest.raises(DiscoveryError, match="the list has no end"):
        kubernetes(source("kubernetes", urls=[url]), account)


def test_an_answer_that_dribbles_is_given_up(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.discovery.http_json.SECONDS", 1.0)

    def dribbling() -> Iterator[bytes]:
        while True:
            yield b" "
            time.sleep(0.1)

    with http_answers.answering(lambda *_: http_answers.Answer(dribbling())) as place:
        settings = source("kubernetes", urls=[f"http://{place}"])
        with pytest.raises(DiscoveryError, match="timed out"):
            kubernetes(settings, account)
        assert not have_pods_changed(settings, "1", 1, account)


def test_a_token_goes_nowhere_else(account: Path) -> None:
    seen = list[str]()

    def elsewhere(path: str, _: Mapping[str, str]) -> http_answers.Answer:
        seen.append(path)
        return http_answers.Answer(b'{"items": []}')

    with ExitStack() as stack:
        other = stack.enter_context(http_answers.answering(elsewhere))
        api = stack.enter_context(
            http_answers.answering(lambda *_: http_answers.Answer(b"", 302, {"Location": f"http://{other}/"}))
        )
        stack.enter_context(pytest.raises(DiscoveryError, match="Found"))
        kubernetes(source("kubernetes", urls=[f"http://{api}"]), account)
    assert seen == []


def of_pods(url: str, account: Path) -> DiscoveryLoop:
    """A loop over the pods of a cluster."""

    def ask(settings: SourceSettings) -> Answer:
        return kubernetes(settings, account)

    def watch(settings: SourceSettings, version: str, seconds: float) -> bool:
        return have_pods_changed(settings, version, seconds, account)

    return DiscoveryLoop([source("kubernetes", urls=[url])], {"kubernetes": ask}, {"kubernetes": watch})


async def test_a_pod_that_comes_changes_or_goes_ends_the_wait(account: Path) -> None:
    api = KubernetesApi()
    labels = {"cnpg.io/cluster": "shop"}
    changes: list[tuple[Callable[[], None], list[str]]] = [
        (lambda: api.put("shop-1", labels, "10.0.0.1"), ["shop-1"]),
        (lambda: api.put("shop-2", labels), ["shop-1"]),
        (lambda: api.put("shop-2", labels, "10.0.0.2"), ["shop-1", "shop-2"]),
        (lambda: api.delete("shop-1"), ["shop-2"]),
    ]
    with api.served() as url:
        loop = of_pods(url, account)
        for change, there in changes:
            assert await loop.ask() == []
            waiting = asyncio.create_task(loop.until_changed(3600))
            await asyncio.to_thread(api.wait_for_watch)
            change()
            await waiting
            assert await loop.ask() == []
            assert [each.name for each in loop.targets] == there
            api.forget_watches()


def test_a_change_between_list_and_watch_is_not_missed(account: Path) -> None:
    api = KubernetesApi()
    with api.served() as url:
        settings = source("kubernetes", urls=[url])
        version = kubernetes(settings, account).version
        api.put("shop-1", {"cnpg.io/cluster": "shop"}, "10.0.0.1")
        assert have_pods_changed(settings, version, 60, account)
        current = kubernetes(settings, account).version
        api.put("other", {"cnpg.io/cluster": "other"}, "10.0.0.9")
        assert not have_pods_changed(settings, current, 1, account), "it is none of those selected"
        api.compact()
        assert have_pods_changed(settings, version, 60, account), "410 Gone: the list has to be read"


async def test_where_pods_cannot_be_watched_they_are_listed_again_and_again(account: Path) -> None:
    api = KubernetesApi(verbs=("list",))
    with api.served() as url:
        with pytest.raises(DiscoveryError, match="Forbidden"):
            have_pods_changed(source("kubernetes", urls=[url]), "1", 60, account)
        loop = of_pods(url, account)
        await loop.ask()
        api.put("shop-1", {"cnpg.io/cluster": "shop"}, "10.0.0.1")
        await loop.until_changed(0.5)
        assert await loop.ask() == []
        assert [each.name for each in loop.targets] == ["shop-1"]


@contextmanager
def name_server(records: Sequence[str]) -> Iterator[str]:
    """A DNS server with these SRV records; gives address and port."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # it is closed when that is over
            while True:
                asked, client = listener.recvfrom(4096)
                query = dns.message.from_wire(asked)
                answer = dns.message.make_response(query)
                if records and query.question[0].rdtype == dns.rdatatype.SRV:
                    answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "SRV", *records))
                listener.sendto(answer.to_wire(), client)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def test_records_of_dns_are_servers() -> None:
    records = ["10 5 5432 db1.example.", "10 5 5433 db1.example.", "20 5 5432 db2.example."]
    with name_server(records) as place:
        found = dns_srv(source("dns", resolver=place))
    assert found.members == [
        Member("db1.example_5432", "db1.example", 5432),
        Member("db1.example_5433", "db1.example", 5433),
        Member("db2.example", "db2.example", 5432),
    ]


def test_a_name_without_records_is_said() -> None:
    with name_server([]) as place, pytest.raises(DiscoveryError, match=r"dns _pg\._tcp\.x: _pg\._tcp\.x: "):
        dns_srv(source("dns", resolver=place))


def test_instances_of_aws_are_chosen_by_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    client = Session().create_client("rds", region_name="eu-central-1")
    tagged = [{"Key": "a", "Value": "b"}, {"Key": "team", "Value": "web"}]
    place = {"Address": "db1.x.eu-central-1.rds.amazonaws.com", "Port": 5432}
    instances = [
        {"DBInstanceIdentifier": "db1", "Engine": "postgres", "Endpoint": place, "TagList": tagged},
        {"DBInstanceIdentifier": "au1", "Engine": "aurora-postgresql", "Endpoint": place, "TagList": tagged,
         "DBClusterIdentifier": "au"},
        {"DBInstanceIdentifier": "new", "Engine": "postgres", "TagList": tagged},
        {"DBInstanceIdentifier": "my1", "Engine": "mysql", "Endpoint": place, "TagList": tagged},
        {"DBInstanceIdentifier": "other", "Engine": "postgres", "Endpoint": place, "TagList": tagged[1:]},
    ]  # fmt: skip
    with Stubber(client) as stubber:
        stubber.add_response("describe_db_instances", {"DBInstances": instances[:2], "Marker": "more"}, {})
        stubber.add_response("describe_db_instances", {"DBInstances": instances[2:]}, {"Marker": "more"})
        found = aws(source("aws"), client)
        assert [(each.name, each.labels) for each in found.members] == [("db1", {}), ("au1", {"cluster": "au"})]
        stubber.add_client_error("describe_db_instances", "AccessDenied", "not allowed")
        with pytest.raises(DiscoveryError, match=r"aws a=b: ClientError: .*not allowed"):
            aws(source("aws"), client)


def test_a_member_becomes_a_target_with_what_its_source_says() -> None:
    found = target_of(
        Member("db1", "fd00::1", 5433, {"cluster": "orders"}),
        source(
            dsn="postgresql://monitor:it%27s%5C@/shop?sslmode=require",
            name="{cluster}-{member}",
            labels={"team": "web"},
            exclude_databases=["tmp*"],
        ),
    )
    assert (found.name, found.labels, found.exclude_databases) == (
        "orders-db1",
        {"cluster": "orders", "team": "web"},
        ("tmp*",),
    )
    assert parameters(found.dsn.get_secret_value(), {}) == {
        "user": "monitor",
        "password": "it's\\",
        "dbname": "shop",
        "sslmode": "require",
        "host": "fd00::1",
        "port": "5433",
    }


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        ({"name": "{cluster}"}, "db1", "db1 has no {cluster}"),
        ({}, "a/b", "'a/b' is no name of a server"),
        ({"labels": {"team": "\ud800"}}, "db1", "labels: team: has half of a character"),
    ],
)
def test_a_member_that_can_be_no_target_is_said(settings: dict[str, str], name: str, said: str) -> None:
    with pytest.raises(DiscoveryError, match=said):
        target_of(Member(name, "h", 1), source(**settings))


def test_what_a_source_says_is_bounded() -> None:
    with pytest.raises(DiscoveryError, match="db1: its host has more than 255 characters"):
        target_of(Member("db1", "h" * 256, 1), source())
    with pytest.raises(DiscoveryError, match=r"labels\.cluster: is longer than 1000 characters"):
        target_of(Member("db1", "h", 1, {"cluster": "c" * 3_000_000}), source())
    for error in (OSError("x" * 60_000), ValueError("x" * 60_000)):
        assert len(reason(error)) < 400


async def test_another_reason_is_another_line(caplog: pytest.LogCaptureFixture) -> None:
    said = iter(["refused at port 1", "refused at port 2", "", "timed out", "no such host"])

    def ask(_: SourceSettings) -> Answer:
        if why := next(said):
            raise DiscoveryError(why)
        return Answer([])

    loop = DiscoveryLoop([source()], ask={"patroni": ask}, watch={})
    for _ in range(5):
        await loop.ask()
    reasons = [getattr(each, "reason", "") for each in caplog.records]
    assert [each for each in reasons if each] == ["refused at port 1", "timed out", "no such host"]


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("host=db9 user=monitor", "dsn: host: the source says where its servers are"),
        ("postgresql://monitor@/shop?port=1", "dsn: port: the source says"),
        ("usr=postgres", "did you mean user"),
        ("service=nope", "dsn: service: it is in none"),
    ],
)
async def test_a_dsn_of_a_source_that_cannot_be_used_changes_nothing(dsn: str, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"^discovery: patroni http://127.0.0.1:1: .*{said}"):
        DiscoveryLoop([source(dsn=dsn)])
    loop = DiscoveryLoop([source()], {"patroni": lambda _: _DB1})
    await loop.ask()
    with pytest.raises(SettingsError, match=said):
        loop.adopt([source(dsn=dsn)])
    assert [each.name for each in loop.targets] == ["db1"]


@pytest.mark.parametrize("changed", [{"labels": {"team": "web"}}, {"urls": ["http://127.0.0.1:2"]}])
async def test_the_servers_of_a_source_that_was_changed_stay_until_it_answers(changed: dict[str, Any]) -> None:
    answers: list[Callable[[], Answer]] = [lambda: _DB1, _fail, lambda: Answer([Member("db2", "h", 1)])]
    loop = DiscoveryLoop([source()], {"patroni": lambda _: answers.pop(0)()})
    await loop.ask()
    loop.adopt([source(**changed)])
    assert [each.name for each in loop.targets] == ["db1"]
    assert len(await loop.ask()) == 1
    assert [each.name for each in loop.targets] == ["db1"]
    assert await loop.ask() == []
    assert [each.name for each in loop.targets] == ["db2"]
    loop.adopt([])
    assert loop.targets == ()


async def test_a_server_whose_description_is_of_no_use_any_more_stays() -> None:
    answers = [
        Answer([Member("db1", "h", 1), Member("db2", "h", 1)]),
        Answer([Member("db1", "h", 0), Member("db2", "i", 1)]),
    ]
    loop = DiscoveryLoop([source()], {"patroni": lambda _: answers.pop(0)})
    await loop.ask()
    first = loop.targets[0]
    assert len(await loop.ask()) == 1
    found = {each.name: each for each in loop.targets}
    assert found["db1"] == first
    assert "host='i'" in found["db2"].dsn.get_secret_value()


def test_members_that_are_silent_or_dribble_leave_time_for_the_one_that_answers() -> None:
    """Each silent one alone would take five seconds, and a byte now and then has no end."""
    answer = json.dumps({"scope": "shop", "members": [member("db1", 5432)]}).encode()
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        dribbles = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=_dribble, args=[dribbles], daemon=True).start()
        good = stack.enter_context(http_answers.answering(lambda *_: http_answers.Answer(answer)))
        places = [f"127.0.0.1:{each.getsockname()[1]}" for each in (dribbles, *silent)]
        began = time.monotonic()
        found = patroni(source(urls=[f"http://{place}" for place in (*places, good)]))
        assert [each.name for each in found.members] == ["db1"]
        assert time.monotonic() - began < 20


def _dribble(listener: socket.socket) -> None:
    """Answer with a header that never ends."""
    taken, _ = listener.accept()
    with taken, suppress(OSError):
        taken.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            taken.sendall(b"x")
            time.sleep(0.2)


async def test_of_two_servers_of_one_name_the_first_stays_and_costs_nobody_else() -> None:
    members = {"patroni": [Member("db1", "a", 1), Member("db2", "a", 2)], "dns": [Member("db2", "b", 2)]}
    members["dns"] += [Member("db3", "b", 3), Member("own", "b", 4)]
    ask: Ask = {"patroni": lambda _: Answer(members["patroni"]), "dns": lambda _: Answer(members["dns"])}
    loop = DiscoveryLoop([source(), source("dns")], ask)
    loop.taken = ["own"]
    failures = await loop.ask()
    assert [said.partition(". ")[0] for said in failures] == [
        "dns _pg._tcp.x: db2: another server has this name",
        "dns _pg._tcp.x: own: another server has this name",
    ]
    assert [each.name for each in loop.targets] == ["db1", "db2", "db3"]
    assert [family.values for family in loop.families()] == [[1, 0], [2, 3]]
    members["dns"] = members["dns"][1:2]
    assert await loop.ask() == []
    assert [family.values for family in loop.families()] == [[1, 1], [2, 1]]


async def test_a_source_that_never_answers_holds_up_the_list_for_a_minute() -> None:
    now = [0.0]
    loop = DiscoveryLoop([source(), source("dns")], {"patroni": lambda _: _DB1, "dns": _fail}, clock=lambda: now[0])
    await loop.ask()
    assert not loop.is_complete
    now[0] = 61.0
    assert loop.is_complete
    loop.adopt([source(), source("dns"), source("aws")])
    assert not loop.is_complete, "another one has its minute"


async def test_a_change_of_one_source_asks_no_other() -> None:
    asked, told = list[str](), threading.Event()

    def ask(settings: SourceSettings) -> Answer:
        asked.append(settings.source)
        return Answer([], "1")

    def watch(*_: object) -> bool:
        return told.wait(60)

    loop = DiscoveryLoop([source(), source("kubernetes")], {"patroni": ask, "kubernetes": ask}, {"kubernetes": watch})
    await loop.ask()
    told.set()
    changed = await loop.until_changed(3600)
    await loop.ask(changed)
    assert sorted(asked) == ["kubernetes", "kubernetes", "patroni"]


async def test_a_source_that_fails_changes_nothing() -> None:
    answers: list[Callable[[], Answer]] = [lambda: Answer([Member("db1", "h", 1)]), _fail, lambda: Answer([])]
    loop = DiscoveryLoop([source()], {"patroni": lambda _: answers.pop(0)()})
    assert not loop.is_complete
    assert await loop.ask() == []
    assert ([each.name for each in loop.targets], loop.is_complete) == (["db1"], True)
    assert await loop.ask() == ["patroni http://127.0.0.1:1: no"]
    assert [each.name for each in loop.targets] == ["db1"]
    assert [family.values for family in loop.families()] == [[0], [1]]
    assert await loop.ask() == []
    assert loop.targets == ()


async def test_what_is_known_of_a_source_outlives_a_configuration_that_cannot_be_used() -> None:
    loop = DiscoveryLoop([source()], {"patroni": lambda _: _DB1, "dns": lambda _: Answer([])})
    await loop.ask()
    take_back = loop.adopt([source("dns")])
    assert not loop.is_complete
    take_back()
    assert ([each.name for each in loop.targets], loop.is_complete) == (["db1"], True)


async def test_a_source_that_names_thousands_is_not_followed() -> None:
    loop = DiscoveryLoop([source()], {"patroni": lambda _: Answer([Member(f"db{n}", "h", 1) for n in range(1001)])})
    [why] = await loop.ask()
    assert "names 1001 servers, of which one exporter cannot watch more than 1000" in why
    assert loop.targets == ()


async def test_a_server_that_can_be_no_target_costs_the_others_nothing() -> None:
    members = [Member("db1", "h", 1), Member("db 2", "h", 1), Member("db3", "h", 99999)]
    loop = DiscoveryLoop([source()], {"patroni": lambda _: Answer(members)})
    [why] = await loop.ask()
    assert "db 2: name: 'db 2' is no name of a server" in why
    assert "db3: dsn: port is no number up to 65535" in why
    assert ([each.name for each in loop.targets], loop.is_complete) == (["db1"], True)
    assert [family.values for family in loop.families()] == [[0], [1]]


async def test_whatever_a_source_raises_is_its_failure_and_no_other_sources() -> None:
    def odd(_: SourceSettings) -> Answer:
        raise AttributeError("odd")

    loop = DiscoveryLoop([source(), source("dns")], {"patroni": odd, "dns": lambda _: _DB1})
    assert await loop.ask() == ["patroni http://127.0.0.1:1: AttributeError: odd"]
    assert [each.name for each in loop.targets] == ["db1"]


_DB1 = Answer([Member("db1", "h", 1)])


def _fail(*_: object) -> Answer:
    raise DiscoveryError("patroni http://127.0.0.1:1: no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{source: patroni, dsn: user=u}", "discovery.0: urls: patroni needs it"),
        ("{source: dns}", "discovery.0: srv: dns needs it"),
        ("{source: aws}", "discovery.0: tags: aws needs it"),
        ("{source: dns, srv: a, name: '{'}", "discovery.0: name: '{' is no name"),
        ("{source: dns, srv: a, name: '{member.x}'}", "discovery.0: name: '{member.x}' is no name"),
        ("{source: consul}", "discovery.0.source: Input should be 'patroni', 'kubernetes', 'dns' or 'aws'"),
        ("{source: patroni, urls: ['file:///etc/passwd']}", "discovery.0.urls.0: is no URL that can be asked"),
        ("{source: patroni, urls: ['http://h/?token=s3cret']}", "discovery.0.urls.0: is no URL that can be asked"),
        ("{source: patroni, urls: ['http://u:s3cret@h']}", "discovery.0.urls.0: is no URL that can be asked"),
        ("{source: dns, srv: a}, {source: dns, srv: a, dsn: user=u}", "discovery: two are dns a"),
        ("{source: dns, srv: a, resolver: x}", "discovery.0.resolver: 'x' is no address"),
        ("{source: dns, srv: a, labels: {__a: b}}", "'__a' is no name of a label"),
        ("{source: dns, srv: a, dsn_file: /x}", "discovery.0: dsn_file: give a dsn without host and port"),
    ],
)
def test_a_source_that_is_configured_wrongly_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pgvigil.yml").write_text(f"discovery: [{text}]")
    done = run("check", "--config", str(tmp_path / "pgvigil.yml"))
    assert (done.returncode, said in done.stderr, "s3cret" in done.stderr) == (2, True, False), done.stderr


OURS = f"dbname=postgres user={MONITOR} sslmode=disable"
"""A DSN that leaves host and port to its source."""


def names(exporter: Exporter) -> set[str]:
    """The targets that Prometheus would be told of."""
    answer = exporter.get("/sd")
    return {each["labels"].get("instance", "") for each in answer.json()} - {""} if answer.is_success else set()


def metrics(exporter: Exporter) -> Page:
    """Its own metrics."""
    return read(exporter.get().text)


def test_members_come_and_go_with_their_cluster(server18: Cluster, tmp_path: Path) -> None:
    cluster = Patroni()
    cluster.members = [member("db1", server18.port)]
    with rest(cluster) as url:
        found = {"source": "patroni", "urls": [url], "dsn": OURS, "labels": {"team": "web"}}
        (tmp_path / "pgvigil.yml").write_text(yaml.safe_dump({"discovery": [found]}))
        assert "db1" in run("check", "--config", str(tmp_path / "pgvigil.yml")).stdout
        with serving("--config", str(tmp_path / "pgvigil.yml")) as exporter:
            wait_until(lambda: names(exporter) == {"db1"})
            labels = exporter.get("/sd").json()[1]["labels"]
            assert (labels["team"], labels["cluster"], labels["role"]) == ("web", "orders", "primary")
            assert read(exporter.get("/probe?target=db1").text).value("pg_up") == 1
            cluster.members.append(member("db2", server18.port))
            wait_until(lambda: names(exporter) == {"db1", "db2"})
            cluster.answers = False
            of_source = {"source": f"patroni {url}"}
            wait_until(lambda: metrics(exporter).value("pgvigil_discovery_success", **of_source) == 0)
            assert names(exporter) == {"db1", "db2"}
            assert metrics(exporter).value("pgvigil_discovery_targets", **of_source) == 2
            cluster.members, cluster.answers = [member("db2", server18.port)], True
            wait_until(lambda: names(exporter) == {"db2"})
            assert read(exporter.get("/probe?target=db2").text).value("pg_up") == 1


def test_a_source_that_does_not_answer_keeps_no_other_server_from_being_checked(
    server18: Cluster, tmp_path: Path
) -> None:
    own = {"name": "own", "dsn": server18.dsn(user=MONITOR)}
    dead = {"source": "patroni", "urls": ["http://127.0.0.1:1"], "dsn": "user=monitor"}
    (tmp_path / "pgvigil.yml").write_text(yaml.safe_dump({"targets": [own], "discovery": [dead]}))
    done = run("check", "--config", str(tmp_path / "pgvigil.yml"))
    assert done.returncode == 2
    assert "own: PostgreSQL 18" in done.stdout
    assert "patroni http://127.0.0.1:1: no member answers" in done.stderr


def test_prometheus_keeps_its_list_until_the_servers_are_known(server18: Cluster, tmp_path: Path) -> None:
    cluster = Patroni()
    cluster.answers = False
    with rest(cluster) as url:
        found = {"source": "patroni", "urls": [url], "dsn": OURS}
        (tmp_path / "pgvigil.yml").write_text(yaml.safe_dump({"discovery": [found]}))
        with serving("--config", str(tmp_path / "pgvigil.yml")) as exporter:
            assert exporter.get("/sd").status_code == 503
            cluster.members, cluster.answers = [member("db1", server18.port)], True
            wait_until(lambda: names(exporter) == {"db1"})


def test_a_secret_of_a_source_is_never_shown() -> None:
    found = target_of(Member("db1", "h", 1), source(dsn="user=u password=s3cret"))
    assert isinstance(found.dsn, SecretStr)
    assert "s3cret" not in repr(found)

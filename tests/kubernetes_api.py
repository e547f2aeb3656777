"""The API of Kubernetes as far as pods are listed and watched: versions, selectors, events since a version, 410 Gone.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/. No cluster is at hand.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from http_answers import Answer, answering

_PATIENCE_SECONDS = 60.0


class KubernetesApi:
    """Pods of one namespace.

    Args:
        verbs: what the account may do.

    """

    def __init__(self, verbs: Sequence[str] = ("list", "watch")) -> None:
        self._verbs = verbs
        self._pods = dict[str, dict[str, Any]]()
        self._events = list[tuple[int, str, dict[str, Any]]]()
        self._version, self._oldest = 1, 0
        self._changed = threading.Condition()
        self._is_watched = threading.Event()

    def put(self, name: str, labels: Mapping[str, str], address: str = "") -> None:
        """Make or change a pod."""
        kind = "MODIFIED" if name in self._pods else "ADDED"
        status = {"podIP": address} if address else {"phase": "Pending"}
        self._note(kind, {"metadata": {"name": name, "labels": dict(labels)}, "status": status})

    def delete(self, name: str) -> None:
        """Remove a pod."""
        self._note("DELETED", self._pods[name])

    def _note(self, kind: str, pod: dict[str, Any]) -> None:
        with self._changed:
            self._version += 1
            name = pod["metadata"]["name"]
            self._pods.pop(name, None)
            if kind != "DELETED":
                self._pods[name] = pod
            self._events.append((self._version, kind, pod))
            self._changed.notify_all()

    def compact(self) -> None:
        """Forget all events so far: a watch that begins before is told 410 Gone."""
        self._oldest = self._version

    def wait_for_watch(self) -> None:
        """Wait until somebody watches."""
        assert self._is_watched.wait(_PATIENCE_SECONDS)

    def forget_watches(self) -> None:
        """Wait for the next one from now on."""
        self._is_watched.clear()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve it; gives its address."""
        with answering(lambda path, _: self._answer(path)) as place:
            yield f"http://{place}"

    def _answer(self, path: str) -> Answer:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        selector = dict(each.split("=", 1) for each in asked["labelSelector"].split(","))
        if ("watch" if "watch" in asked else "list") not in self._verbs:
            return Answer(b"{}", 403)
        if "watch" not in asked:
            with self._changed:
                items = [pod for pod in self._pods.values() if _has(pod, selector)]
                return Answer(
                    json.dumps({"items": items, "metadata": {"resourceVersion": str(self._version)}}).encode()
                )
        if int(asked["resourceVersion"]) < self._oldest:
            return Answer(b"{}", 410)
        return Answer(self._told(int(asked["resourceVersion"]), selector, float(asked["timeoutSeconds"])))

    def _told(self, since: int, selector: Mapping[str, str], seconds: float) -> Iterator[bytes]:
        self._is_watched.set()
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with self._changed:
                new = [event for event in self._events if event[0] > since]
                if not new:
                    self._changed.wait(left)
            yield from (
                json.dumps({"type": kind, "object": pod}).encode() + b"\n"
                for _, kind, pod in new
                if _has(pod, selector)
            )
            since = new[-1][0] if new else since


def _has(pod: Mapping[str, Any], selector: Mapping[str, str]) -> bool:
    return bool(selector.items() <= pod["metadata"]["labels"].items())

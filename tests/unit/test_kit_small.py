"""Secrets that don't print, logs without secrets, metrics that stay bounded, addresses that proxies vouch for."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest

from faucet.kit.log import LINE_CHARACTERS_MAX, configure, logger, redact
from faucet.kit.metrics import LABEL_SETS_MAX, Counter, Gauge, Histogram, Metrics
from faucet.kit.proxies import client_address, parse_networks
from faucet.kit.secret import Secret

# ── secrets ──


def test_a_secret_is_not_shown_in_any_way() -> None:
    """Lost: an f-string, a repr of a structure, or a pickle shows a key."""
    secret = Secret("hunter22")
    for text in (str(secret), repr(secret), f"{secret}", f"{secret!r:>30}", f"{[secret]}"):
        assert "hunter22" not in text
    for serialise in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            serialise(secret)
    assert secret != Secret("hunter22")
    assert secret.reveal() == "hunter22"


def test_a_secret_is_compared_whole() -> None:
    """Lost: a prefix, or nothing at all, opens the door."""
    secret = Secret("hunter22")
    assert secret.matches("hunter22") and secret.matches(b"hunter22")
    assert not any(secret.matches(other) for other in ("", "hunter2", "hunter222", "HUNTER22", b"\xff"))


# ── logs ──

BODY = "abcdefgh"
SHOWN = "mf_sess_AAAAaaaa0000-_x"
HIDDEN = [
    f"bearer is {SHOWN}",
    "mf_dev_abcdefgh",
    f"key sk-proj-{BODY}12345678",
    f"rk_live_{BODY}12345678 whsec_{BODY}12345678",
    f"a webhook's whsec_AB/{BODY}+{BODY}/Q==",
    "Authorization: Bearer abcdefgh",
    "authorization: token-of-no-known-kind",
    "{'authorization': 'abcdefgh'}",
    "x-api-key=abcdefgh",
    "Basic YWJjZGVmZ2g6cHc=",
    f"postgresql://user:{BODY}@host/db",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_what_is_secret_is_taken_out(text: str) -> None:
    """Lost: who reads the logs can call as anybody."""
    shown = redact(text)
    assert "abcdefgh" not in shown and "AAAA" not in shown and "YWJj" not in shown and "kind" not in shown
    assert "[redacted]" in shown


@pytest.mark.parametrize(
    "text", ["a request of 12 tokens", "skip the risky task-list", "basic idea", "req_0192", "a:b@c"]
)
def test_what_is_not_secret_stays(text: str) -> None:
    """Lost: logs that say nothing."""
    assert redact(text) == text


def test_lines_are_json_and_clean_at_every_depth(capsys: pytest.CaptureFixture[str]) -> None:
    """Lost: a secret in a field, a nested header or a traceback."""
    try:
        configure("test", "info")
        logger.debug("hidden")
        logger.info("one", a=SHOWN, headers={"Authorization": "abcdefgh", "X": [SHOWN, b"sk-abcdefgh1234"]}, n=1.5)
        try:
            raise ValueError(f"with {SHOWN}")
        except ValueError:
            logger.exception("two", password="abcdefgh", api_key="abcdefgh")
        logging.getLogger("some.library").warning("lib says %s", SHOWN)
        logger.info("three", long="x" * (LINE_CHARACTERS_MAX * 2))
    finally:
        configure("test", "info")
    err = capsys.readouterr().err
    assert "AAAA" not in err and "abcdefgh" not in err
    one, two, library, three = [json.loads(line) for line in err.splitlines()]
    assert (one["event"], one["service"], one["level"], one["n"]) == ("one", "test", "info", 1.5)
    assert one["headers"] == {"Authorization": "[redacted]", "X": ["[redacted]", "[redacted]"]}
    assert "ValueError: with [redacted]" in two["exception"]
    assert (library["logger"], library["level"]) == ("some.library", "warning")
    assert len(three["long"]) == LINE_CHARACTERS_MAX


def test_an_unknown_level_is_refused() -> None:
    """Lost: a typo in LOG_LEVEL turns logs off."""
    with pytest.raises(ValueError, match="log level"):
        configure("test", "loud")


# ── metrics ──


def test_series_are_shown_as_prometheus_text() -> None:
    """Lost: dashboards and alerts built on these names."""
    metrics = Metrics("svc")
    metrics.request("GET", "/v1/things/{id}", 200, 0.02)
    metrics.request("GET", "/v1/things/{id}", 200, 9.0)
    gauge = metrics.also(Gauge("modelfaucet_holds_open", "Open."))
    gauge.set(lambda: 7)
    sizes = metrics.also(Histogram("modelfaucet_group_size", "Sizes.", bounds=(1, 10)))
    sizes.observe(10)
    text = metrics.render().decode()
    labels = 'method="GET",route="/v1/things/{id}",service="svc",status="200"'
    assert f"modelfaucet_http_requests_total{{{labels}}} 2.0" in text
    where = 'route="/v1/things/{id}",service="svc"'
    assert f'modelfaucet_http_request_duration_seconds_bucket{{le="0.025",{where}}} 1.0' in text
    assert f'modelfaucet_http_request_duration_seconds_bucket{{le="+Inf",{where}}} 2.0' in text
    assert f"modelfaucet_http_request_duration_seconds_sum{{{where}}} 9.02" in text
    assert "modelfaucet_holds_open 7.0" in text
    assert 'modelfaucet_group_size_bucket{le="10"} 1.0' in text
    assert "process_cpu_seconds_total" in text


def test_label_sets_are_bounded() -> None:
    """Lost: a label that grows with callers fills the memory of us and of the monitoring system."""
    counter = Counter("c", "C.", ("who",))
    gauge, histogram = Gauge("g", "G.", ("who",)), Histogram("h", "H.", ("who",))
    for i in range(LABEL_SETS_MAX + 50):
        counter.add((f"caller-{i}",))
        gauge.set(i, (f"caller-{i}",))
        histogram.observe(1, (f"caller-{i}",))
    assert len(counter.values) == LABEL_SETS_MAX + 1
    assert counter.values[("other",)] == 50
    assert len(gauge.values) == LABEL_SETS_MAX + 1
    others = [s.value for s in histogram.family().samples if s.labels.get("who") == "other" and s.name == "h_count"]
    assert others == [50]


# ── proxies ──

TRUSTED = parse_networks(["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "chain", "address"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["1.2.3.4"], "203.0.113.7"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["1.2.3.4, 10.0.0.9"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4", "10.0.0.9"], "1.2.3.4"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("2001:db8::1", ["2a00::7"], "2a00::7"),
        ("10.0.0.1", ["nonsense"], "nonsense"),
        ("unix", ["1.2.3.4"], "unix"),
        ("", ["1.2.3.4"], ""),
    ],
)
def test_the_nearest_stranger_is_the_client(peer: str, chain: list[str], address: str) -> None:
    """Lost: a client chooses the address that it is counted by."""
    assert client_address(peer, chain, TRUSTED) == address

"""A real scrape of a real gateway, read by Prometheus' own parser; and what the health checks say when things break."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import smtplib
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from pydantic import ValidationError

from gateway.integrations.prometheus import Config
from tests.live import Gateway, until
from tests.mosquitto import Mosquitto, free_port

CONFIG = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"], recipients: ["*@gw"]}}
  locked: {{type: smtp_server, listen: ["127.0.0.1:{locked}"], users: {{cam: right}}, tls: none}}
  files: {{type: archive}}
  watch: {{type: prometheus, listen: "127.0.0.1:{port}"}}
{more}
"""


class Watched(Gateway):
    """A gateway with its pages."""

    def __init__(self, folder: Path, more: str = "routes: [{to: [files]}]", config: str = CONFIG) -> None:
        self.page, self.locked = free_port(), free_port()
        super().__init__(folder, config.format(port=self.page, locked=self.locked, more=more))

    def get(self, path: str, accept: str = "") -> tuple[int, str, str]:
        """Status, media type and text."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.page}{path}", headers={"Accept": accept})
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status or 0, answer.headers["Content-Type"], answer.read().decode()

    def health(self, path: str = "/healthz") -> tuple[int, Any]:
        status, _, text = self.get(path)
        return status, json.loads(text)

    def samples(self) -> dict[tuple[str, ...], float]:
        """(name, label values in the order of the labels' names) -> value"""
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in parse_text(self.get("/metrics")[2])
            for sample in family.samples
        }


def send(port: int, *texts: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
        for text in texts:
            smtp.sendmail("cam@lan", ["a@gw"], f"From: cam@lan\r\nSubject: {text}\r\n\r\n{text}\r\n")


def test_a_scrape_counts_what_happened(tmp_path: Path) -> None:
    with Watched(tmp_path) as gateway:
        send(gateway.port, "Motion detected", "Motion ended", "Motion detected")
        with contextlib.closing(smtplib.SMTP("127.0.0.1", gateway.port, timeout=20)) as smtp:
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                smtp.sendmail("cam@lan", ["a@elsewhere"], "x")
            smtp.ehlo()
            smtp.mail("cam@lan")
            smtp.rcpt("a@gw")
            assert smtp.docmd("DATA")[0] == 354
            smtp.send(b"never ended")
        with smtplib.SMTP("127.0.0.1", gateway.locked, timeout=20) as smtp, pytest.raises(smtplib.SMTPException):
            smtp.login("cam", "wrong")

        def seen() -> Any:
            found = gateway.samples()
            through = found["mailwire_deliveries_total", "done", "files"] == 2
            return found if through and found["mailwire_smtp_mails_broken_off_total", "lan-mail"] else None

        found = until(seen, "all that was sent, in a scrape")
        assert found["mailwire_mails_received_total", "lan-mail"] == 3
        assert found["mailwire_mail_bytes_received_total", "lan-mail"] > 150
        assert found["mailwire_mails_duplicate_total",] == 1
        assert found["mailwire_events_total", "motion"] == 2
        assert found["mailwire_deliveries_total", "dead", "files"] == 0
        assert found["mailwire_queue_deliveries", "waiting", "files"] == 0
        assert found["mailwire_devices",] == 1
        assert found["mailwire_smtp_connections_total", "lan-mail"] == 2
        assert found["mailwire_smtp_refusals_total", "550", "lan-mail"] == 1
        assert found["mailwire_smtp_login_failures_total", "locked"] >= 1
        assert found["mailwire_smtp_refusals_total", "535", "locked"] >= 1
        assert found["mailwire_integration_up", "files", "archive"] == 1
        assert found["mailwire_healthy",] == found["mailwire_ready",] == 1
        for stage, count in {"receive": 3, "store": 3, "interpret": 2}.items():
            assert found["mailwire_stage_seconds_count", stage] == count
            assert found["mailwire_stage_seconds_bucket", "+Inf", stage] == count
        for name in ("mailwire_delivery_seconds", "mailwire_whole_seconds"):
            assert found[f"{name}_count", "files"] == 2
        assert found["mailwire_whole_seconds_sum", "files"] >= found["mailwire_delivery_seconds_sum", "files"]
        assert found["mailwire_store_commit_mails_sum",] == 3
        assert found["process_resident_memory_bytes",] > 10_000_000
        assert found["mailwire_store_bytes",] > 0


def test_both_formats_are_well_formed_and_follow_the_conventions(tmp_path: Path) -> None:
    with Watched(tmp_path) as gateway:
        send(gateway.port, "Motion detected")
        status, media_type, text = gateway.get("/metrics")
        assert (status, media_type.partition(";")[0]) == (200, "text/plain")
        families = list(parse_text(text))
        _, media_type, text = gateway.get("/metrics", "application/openmetrics-text; version=1.0.0")
        assert media_type.startswith("application/openmetrics-text")
        assert {family.name for family in parse_openmetrics(text)} == {family.name for family in families}
        status, media_type, _ = gateway.get("/metrics", "application/openmetrics-text; version=newest")
        assert (status, media_type.partition(";")[0]) == (200, "text/plain")
    ours = [family for family in families if family.name.startswith("mailwire_")]
    assert len(ours) > 30
    assert len({family.name for family in ours}) == len(ours)
    for family in ours:
        assert re.fullmatch("[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert re.search("_(seconds|mails)$", family.name)
        for sample in family.samples:
            assert set(sample.labels) <= {
                "integration", "type", "source", "reason", "kind", "stage", "target", "outcome", "state", "code", "le",
                "version",
            }  # fmt: skip


def test_no_mail_can_choose_a_label(tmp_path: Path) -> None:
    with Watched(tmp_path) as gateway:
        send(gateway.port, "Motion detected")
        until(lambda: gateway.samples().get(("mailwire_deliveries_total", "done", "files")) == 1)
        before = set(gateway.samples())
        with smtplib.SMTP("127.0.0.1", gateway.port, 'x"} 1\\', timeout=20) as smtp:
            for number in range(30):
                text = f'From: "{number}"}} 1" <{number}@x>\r\nSubject: Motion detected{number}"}} 1\r\n\r\nx\r\n'
                smtp.sendmail(f"{number}@evil", [f'"{number}"@gw'], text)
        until(lambda: gateway.samples()["mailwire_deliveries_total", "done", "files"] == 31)
        new = {name for name, *_ in set(gateway.samples()) - before}
    assert new <= {"mailwire_events_total"}


def test_a_broker_that_is_away_is_no_reason_to_start_anew(tmp_path: Path) -> None:
    port = free_port()
    config = CONFIG.replace("files: {{type: archive}}", f'broker: {{{{type: mqtt, url: "mqtt://127.0.0.1:{port}"}}}}')
    with Watched(tmp_path, "", config) as gateway:
        until(lambda: gateway.health()[1]["status"] == "degraded")
        status, said = gateway.health()
        assert status == 200
        assert said["ready"]
        assert re.match("broker: .*events wait in the store", said["reasons"][0])
        assert gateway.health("/readyz")[0] == 200
        assert gateway.samples()["mailwire_integration_up", "broker", "mqtt"] == 0
        send(gateway.port, "Motion detected")
        until(lambda: gateway.samples()["mailwire_queue_deliveries", "waiting", "broker"] == 1)
        gateway.kill()
        gateway.start()
        until(lambda: gateway.samples()["mailwire_queue_deliveries", "waiting", "broker"] == 1)
        broker = Mosquitto(tmp_path / "mosquitto")
        broker.port, broker.settled = port, True
        broker.start()
        try:
            until(lambda: gateway.health()[1]["status"] == "ok")
            until(lambda: gateway.samples()["mailwire_deliveries_total", "done", "broker"] == 1)
            until(lambda: gateway.samples()["mailwire_queue_deliveries", "waiting", "broker"] == 0)
            assert gateway.samples()["mailwire_whole_seconds_count", "broker"] == 1
            assert gateway.samples()["mailwire_whole_seconds_sum", "broker"] > 0
        finally:
            broker.stop()


def test_a_store_that_can_not_write_is_failing_until_it_can(tmp_path: Path) -> None:
    with Watched(tmp_path) as gateway:
        send(gateway.port, "Motion detected")
        gateway.settled(1)
        assert gateway.health() == (200, {"status": "ok", "ready": True, "reasons": []})
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        with pytest.raises(smtplib.SMTPDataError, match="451"):
            send(gateway.port, "Motion ended")
        status, said = gateway.health()
        assert status == 503
        assert said["status"] == "failing"
        assert said["reasons"] == ["the store can't write: disk I/O error"]
        assert gateway.health("/readyz")[0] == 503
        assert gateway.samples()["mailwire_store_writable",] == 0
        assert gateway.samples()["mailwire_mails_not_kept_total", "store_trouble"] == 1
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (soft, hard))
        until(lambda: gateway.health()[0] == 200, "finding out that it can write again, without a mail")
        send(gateway.port, "Motion ended")
        gateway.settled(2)


def test_a_full_disk_takes_no_mail_but_is_no_reason_to_start_anew(tmp_path: Path) -> None:
    with Watched(tmp_path, "store: {reserve: 1000 TiB}") as gateway:
        assert gateway.health() == (
            200,
            {"status": "degraded", "ready": False, "reasons": ["the disk is full: mail is answered with 452"]},
        )
        assert gateway.health("/readyz")[0] == 503


def test_a_source_that_does_not_listen(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = f'm: {{{{type: smtp_server, listen: ["127.0.0.1:{port}"]}}}}'
        config = CONFIG.replace("locked: ", f"{one}\n  locked: ").replace("  lan-mail", "  #")
        with Watched(tmp_path / "two", config=config) as gateway:
            status, said = gateway.health()
            assert (status, said["status"], said["ready"]) == (200, "degraded", False)
            assert said["reasons"][0].startswith(f"m: 127.0.0.1:{port} is taken by another program")
            assert gateway.health("/readyz")[0] == 503
        gateway = Watched(tmp_path / "one", config=config.replace("  locked", "  #")).start()
        status, said = gateway.health()
        assert (status, said["status"]) == (503, "failing")
        assert said["reasons"][0].startswith(f"no source of mail runs: m is retrying: 127.0.0.1:{port} is taken")
    until(lambda: gateway.health()[0] == 200, "listening once the port is free")
    assert gateway.terminate() == 0


BROKEN = """
from gateway.api import ConfigModel, Metric, Target

class Config(ConfigModel):
    pass

class Bell(Target):
    async def deliver(self, event):
        pass

    def health(self):
        raise RuntimeError("no pulse")

    def metrics(self):
        yield Metric("bell_rings_total", "counter", "Rings.", [({}, 3)])
        raise RuntimeError("no count")
"""


def test_a_fault_in_an_integration_does_not_silence_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "custom_integrations" / "bell"
    folder.mkdir(parents=True)
    manifest = {"domain": "bell", "name": "Bell", "version": "1", "provides": ["target"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "__init__.py").write_text(BROKEN)
    config = CONFIG.replace("files: {{type: archive}}", "bell: {{type: bell}}")
    with Watched(tmp_path, "", config) as gateway:
        assert gateway.samples()["mailwire_ready",] == 1
        assert gateway.health()[0] == 200
        assert gateway.samples()["mailwire_ready",] == 1
        gateway.logged("bell: it could not be asked for its metrics")
        assert gateway.log.read_text().count("RuntimeError: no count") == 1
        (folder / "__init__.py").write_text(BROKEN.replace('raise RuntimeError("no count")', "pass"))
        gateway.terminate()
        gateway.start()
        assert gateway.samples()["bell_rings_total", "bell"] == 3


def test_a_taken_port_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway = Watched(tmp_path)
        gateway.config.write_text(gateway.config.read_text().replace(str(gateway.page), str(taken.getsockname()[1])))
        gateway.page = taken.getsockname()[1]
        gateway.start()
        words = f"retrying: 127.0.0.1:{gateway.page} is taken by another program: choose another port under 'listen'"
        assert words in gateway.greeting
    until(_answers(gateway), "listening once the port is free")
    assert gateway.health()[0] == 200
    assert gateway.terminate() == 0


def _answers(gateway: Watched) -> Callable[[], bool]:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", gateway.page)) == 0

    return answers


@pytest.mark.parametrize(
    "listen", ["9925", "localhost", "127.0.0.1:x", "127.0.0.1:99999", "::1:9925", "a@b:1", "h:1/x", ""]
)
def test_a_bad_address_is_refused(listen: str) -> None:
    with pytest.raises(ValidationError, match=r"write it like '127.0.0.1:9925' or '\[::1\]:9925'"):
        Config(listen=listen)


@pytest.mark.parametrize("listen", ["0.0.0.0:9925", "[::1]:9925", "gw.lan:80"])
def test_a_good_address(listen: str) -> None:
    assert Config(listen=listen).listen == listen

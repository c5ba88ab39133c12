"""`on_event`: what is sent and to whom, that it never holds up a sweep, and that a stranger's record calls nobody."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweeper import notify, preflight
from sweeper.journal import run_folders
from sweeper.journal.events import Session
from sweeper.journal.journal import Journal
from sweeper.notify import Notifier, named, remember
from sweeper.preflight import Request
from sweeper.spec.errors import SpecError
from sweeper.stages import Stages
from tests.sweeper import confirmed, in_process, samples

RUN = "0123456789abcdef"
DONE: dict[str, Any] = {"state": "completed", "best": None, "verdict": None}


class _Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, Any]] = []
        self.paths: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.paths.append(self.path)
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(302 if self.path == "/away" else 500 if self.path == "/broken/s3cr3t" else 200)
        if self.path == "/away":
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def _keeping(path: Path, *more: str) -> list[str]:
    """A command that adds its stdin to a file."""
    code = f"import sys; open({str(path)!r}, 'a').write(sys.stdin.read()); {'; '.join(more)}"
    return [sys.executable, "-c", code]


def test_a_program_and_an_address_hear_of_failure_verdict_and_end(tmp_path: Path, server: _Server) -> None:
    said: list[str] = []
    heard = tmp_path / "heard"
    spec = samples.toy_spec(on_event=[_keeping(heard), server.address], tags={"who": "me"})
    journal = Journal(tmp_path / "journal.jsonl")
    notifier = Notifier(spec, tmp_path, journal, said.append)
    notifier.start()
    for event in (
        samples.session(),
        samples.ask(spec, 0, 1, "baseline"),
        samples.end(0, "failed", 2, "RuntimeError: token=hunter22 is wrong"),
    ):
        journal.append(event)
    source = confirmed.written(tmp_path / "other", confirmed.spec(), {"published": -0.05})
    journal.append(next(event for event in source.events if type(event).__name__ == "Verdict"))
    notifier.close(DONE)
    assert said == []
    lines = [json.loads(line) for line in heard.read_text("utf-8").splitlines()]
    assert lines == server.got
    assert sorted(line["event"] for line in lines) == ["end", "failure", "verdict"]
    by_event = {line["event"]: line for line in lines}
    assert by_event["failure"]["trials"][0]["trial"] == "t0000"
    assert "hunter22" not in heard.read_text("utf-8")
    assert by_event["verdict"]["confirmed"] == "published"
    assert by_event["end"]["state"] == "completed"
    assert by_event["end"]["tags"] == {"who": "me"}
    assert lines[-1]["event"] == "end"


def test_the_end_names_the_limit_that_ended_the_sweep(tmp_path: Path, server: _Server) -> None:
    notifier = Notifier(samples.toy_spec(on_event=[server.address]), tmp_path, Journal(tmp_path / "j"), pytest.fail)
    notifier.start()
    line = "limits.hours: the sweep has run for 2 hours, the limit is 2"
    notifier.close({**DONE, "state": "interrupted", "stopped": line})
    assert server.got[0]["stopped"] == line
    assert server.got[0]["text"] == f"toy: interrupted, stopped by {line}: no trials"


def test_whatever_a_call_does_the_sweep_goes_on(
    tmp_path: Path, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(notify, "CALL_S", 3.0)
    monkeypatch.setenv("HOOK", f"{server.address}/broken/s3cr3t")
    monkeypatch.delenv("NOWHERE", raising=False)
    calls = [
        [sys.executable, "-c", "import time; time.sleep(60)"],
        "false",
        "no-such-program-here --x",
        "env:HOOK",
        "env:NOWHERE",
        f"{server.address}/away",
        "http://127.0.0.1:1/secret-path",
    ]
    notifier = Notifier(samples.toy_spec(on_event=calls), tmp_path, Journal(tmp_path / "j"), said.append)
    notifier.start()
    notifier.close(DONE)
    assert [line.partition(":")[0] for line in said[:2]] == ["caution", "caution"]
    failures = said[2:]
    assert [line[: len("on_event[0]")] for line in failures] == [f"on_event[{n}]" for n in range(7)]
    assert "took longer" in failures[0]
    assert "status 1" in failures[1]
    assert "answered 500" in failures[3]
    assert "answered 302" in failures[5]
    assert server.paths == ["/broken/s3cr3t", "/away"]  # and no further
    assert "refused" in failures[6]
    assert "s3cr3t" not in " ".join(said)
    assert "secret-path" not in " ".join(said)


def test_secrets_of_the_sweep_are_not_in_a_programs_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tmp_path / "heard"
    monkeypatch.setenv("SWEEPER_SECRET_CONFIG_API_KEY", "planted")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted")
    code = f"import os; open({str(heard)!r}, 'w').write(repr(dict(os.environ)))"
    spec = samples.toy_spec(on_event=[[sys.executable, "-c", code]])
    notifier = Notifier(spec, tmp_path, Journal(tmp_path / "j"), pytest.fail)
    notifier.start()
    notifier.close(DONE)
    assert "PATH" in heard.read_text("utf-8")
    assert "planted" not in heard.read_text("utf-8")


def test_a_record_calls_only_what_this_user_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    spec, other = samples.toy_spec(on_event=["true"]), samples.toy_spec(on_event=["touch /tmp/x"])
    record = tmp_path / "run"
    record.mkdir()
    (record / "journal.jsonl").touch()
    assert named(spec, Request(spec=tmp_path / "mine.yaml"), RUN)
    assert not named(spec, Request(resume=record), RUN)
    assert not named(spec, Request(spec=record / "spec.yaml"), RUN)  # a record's, whatever the command names it as
    assert not named(spec, Request(resume=record, trust_record=True), RUN)
    assert named(spec, Request(resume=record, set=["on_event=[true]"]), RUN)
    remember(spec, RUN)
    assert named(spec, Request(resume=record), RUN)
    assert not named(other, Request(resume=record), RUN)  # somebody changed it meanwhile
    assert not named(spec, Request(resume=record), None)


def test_a_spec_that_was_read_from_a_record_calls_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    spec, new = samples.toy_spec(on_event=["true"]), "f" * 16
    assert named(spec, Request(spec=spec.model_dump(mode="json")), new)  # a mapping is the caller's own
    assert not named(spec, Request(spec=spec), new)
    assert named(spec, Request(spec=spec, set=["on_event=[true]"]), new)
    record = tmp_path / "run"
    record.mkdir()
    with contextlib.closing(Journal(record / "journal.jsonl")) as journal:
        journal.born(spec.spec_hash)
    again = Request(spec=record / "spec.yaml")
    assert not named(spec, again, new)
    remember(spec, journal.run)  # the new run goes on with what this user gave to that one
    assert named(spec, again, new)
    assert not named(samples.toy_spec(on_event=["false"]), again, new)


def test_calls_that_are_not_named_are_not_made(tmp_path: Path) -> None:
    said: list[str] = []
    spec = samples.toy_spec(on_event=[_keeping(tmp_path / "heard")])
    notifier = Notifier(spec, tmp_path, Journal(tmp_path / "j"), said.append, called=False)
    notifier.start()
    notifier.close(DONE)
    assert said == [notify.NOT_CALLED]
    assert not (tmp_path / "heard").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("ftp://host/x", "ftp:// is not called"),
        ("https://me:hunter22@host/x", "holds a secret"),
        ("curl -H 'token: hunter22' host", "holds a secret"),
        (["curl", "--api-key", "hunter22"], "holds a secret"),
        ("a 'b", "is no command line"),
        ("", "is empty"),
        ([], "is empty"),
        ("https:///x", "is no address"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_in_one_line(call: Any, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        samples.toy_spec(on_event=[call])
    assert said in str(refused.value)
    assert "hunter22" not in str(refused.value)
    assert "on_event" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tags": {"mlflow.parentRunId": "x"}}, "is mlflow's own"),
        ({"tags": {"sweeper.run_id": "x"}}, "is sweeper's own"),
        ({"tags": {"../x": "y"}}, "invalid tag"),
        ({"tags": {"paper/": "y"}}, "invalid tag 'paper/'"),
        ({"tags": {"a//b": "y"}}, "invalid tag 'a//b'"),
        ({"tags": {"a/./b": "y"}}, "invalid tag 'a/./b'"),
        ({"tags": {"year": 2026}}, "tags.year: 2026 should be text"),
        ({"tags": {"a": "password=hunter22"}}, "looks like a secret"),
        ({"notes": "https://me:hunter22@host"}, "looks like a secret"),
        ({"notes": "x" * 5001}, "notes"),
        ({"on_event": "notify-send"}, "should be a list"),
    ],
)
def test_notes_and_tags_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        samples.toy_spec(**changes)
    assert said in str(refused.value)
    assert "hunter22" not in str(refused.value)


def test_notes_tags_and_calls_move_no_hash() -> None:
    plain = samples.toy_spec()
    asides = samples.toy_spec(notes="look again", tags={"paper": "1"}, on_event=["true", ["echo", "a b"]])
    assert asides.spec_hash == plain.spec_hash
    assert "notes" not in plain.model_dump()
    assert sorted({path.partition(".")[0] for path in plain.changed(asides)}) == ["notes", "on_event", "tags"]


@pytest.mark.parametrize(
    "given",
    [
        ["--set", "on_event=[https://hooks.example.org/T0/s3cr3t]"],
        ["--set= on_event =[a, https://hooks.example.org/T0/s3cr3t]"],
        ["-c", "import sweeper; sweeper.run({'on_event': ['https://hooks.example.org/T0/s3cr3t']})"],
        ["-c", 'sweeper.run("s.yaml", sets={"on_event": [\n"https://hooks.example.org/T0/s3cr3t"]})'],
    ],
)
def test_what_is_called_is_not_in_the_recorded_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "sweeper.run", "on_events.yaml", *given, "--yes"])
    journal = in_process.sweep(samples.toy_spec(search={"method": "arms"}, space={}), tmp_path)
    journal.close()
    text = journal.path.read_text("utf-8")
    assert "s3cr3t" not in text
    assert "hooks" not in text
    command = next(event.command for event in journal.events if isinstance(event, Session))
    assert command.startswith("python -m sweeper.run on_events.yaml ")
    assert command.endswith(" --yes")


def test_notes_and_tags_change_on_resume_and_calls_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    spec = samples.toy_spec(search={"method": "arms"}, space={}, arms={"a": {"x": 0.2}, "b": {"x": 0.6}}, notes="one")
    journal = in_process.sweep(spec, tmp_path / "runs")
    journal.close()
    folder, said = journal.path.parent, list[str]()
    before = (folder / "journal.jsonl").read_bytes()

    def asked(*changes: str, file: Path | None = None) -> Stages:
        admission = preflight.admission(Request(spec=file, resume=folder, set=list(changes)), said.append)
        admission.prepare_info = {"data_fingerprint": "text"}
        assert admission.run_folder(None) == folder
        stages = Stages.opened(admission, folder, verbose=False, wait=0)
        stages.journal.close()
        return stages

    assert not asked().called
    assert asked("notes=two", "tags.paper=fig 2", "on_event=[echo]").called
    found = run_folders.opened(folder)[0]
    assert (found.notes, found.tags, found.on_event) == ("two", {"paper": "fig 2"}, ("echo",))
    assert found.spec_hash == spec.spec_hash
    assert (folder / "journal.jsonl").read_bytes() == before, "no part of what the record goes by"
    assert asked().called, "this user gave it to this run"
    (folder / "spec.yaml").write_text(found.model_copy(update={"on_event": ("touch x",)}).to_yaml(), "utf-8")
    assert not asked().called, "somebody has changed it since"
    own = tmp_path / "own.yaml"
    own.write_text((folder / "spec.yaml").read_text("utf-8"), "utf-8")
    assert asked(file=own).called

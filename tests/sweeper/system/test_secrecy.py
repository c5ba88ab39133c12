"""Secrets leave the driver by environment alone: specs, records, MLflow and what is said hold references or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, SecretStr

from sweeper.spec.errors import SpecError
from sweeper.spec.load import load, resolve
from sweeper.spec.spec import SweepSpec
from sweeper.system import secrecy
from sweeper.system.secrecy import command, declared, given, redact, returned, taken, veiled
from sweeper.tracking import trial_runs
from sweeper.trainable import Trainable
from sweeper.trials import cluster, trial
from sweeper.trials.task import TrialTask

SECRETS = {"key": "k-of-the-door", "password": "p w 'quoted' {x}", "line": "sk-of-the-line", "arm": "sk-of-an-arm"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test puts into the environment goes with it."""
    monkeypatch.setattr(secrecy, "_known", {})
    monkeypatch.setattr(os, "environ", os.environ.copy())


def tree(**secrets: str) -> dict[str, Any]:
    held = {**SECRETS, **secrets}
    return {
        "name": "secrets",
        "trainable": "tests.sweeper.strange:train",
        "config": {"steps": 20, "key": held["key"], "account": {"password": held["password"]}, "fail": "raise"},
        "arms": {"baseline": {"x": 0.5}, "other": {"x": 0.4, "api_key": held["arm"]}},
        "search": {"method": "arms"},
    }


def hidden(said: str) -> bool:
    return not any(part in said for part in ("of-the-door", "of-the-line", "of-an-arm", "quoted"))


def test_the_resolved_spec_holds_references_and_its_hash_does_not_tell(tmp_path: Path) -> None:
    spec = resolve(tree(), sets=["config.api_key=sk-of-the-line"])
    assert spec.config["key"] == "env:SWEEPER_SECRET_CONFIG_KEY"
    assert spec.config["account"]["password"] == "env:SWEEPER_SECRET_CONFIG_ACCOUNT_PASSWORD"
    assert spec.arms["other"]["api_key"] == "env:SWEEPER_SECRET_ARMS_OTHER_API_KEY"
    assert os.environ["SWEEPER_SECRET_CONFIG_API_KEY"] == SECRETS["line"]
    config = spec.trainable_config(spec.arms["other"])
    assert config["api_key"] == "env:SWEEPER_SECRET_ARMS_OTHER_API_KEY"
    for said in (spec.to_yaml(), json.dumps(config), json.dumps(trial_runs.settings(config))):
        assert hidden(said)
    another = resolve(tree(key="another", arm="different"), sets=["config.api_key=else"])
    assert another.spec_hash == spec.spec_hash
    assert another.config_hash(another.trainable_config(another.arms["other"])) == spec.config_hash(config)
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    assert load(tmp_path / "spec.yaml").spec_hash == spec.spec_hash


def test_a_resume_without_the_variable_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(resolve(tree()).to_yaml(), "utf-8")
    del os.environ["SWEEPER_SECRET_CONFIG_KEY"]
    with pytest.raises(SpecError, match="set the environment variable SWEEPER_SECRET_CONFIG_KEY") as error:
        load(tmp_path / "spec.yaml")
    assert "\n" not in str(error.value)


def test_people_may_name_a_variable_themselves() -> None:
    os.environ["DOOR"] = "open sesame"
    spec = resolve(tree(key="env:DOOR"))
    assert spec.config["key"] == "env:DOOR"
    assert spec.settings({}).key.get_secret_value() == "open sesame"  # pyright: ignore[reportAttributeAccessIssue]
    assert secrecy.environment()["DOOR"] == "open sesame"
    assert redact("it is open sesame") == "it is ***"


def test_only_secrets_are_looked_up() -> None:
    os.environ["DOOR"] = "open sesame"
    settings: Any = resolve({**tree(), "config": {"note": "env:DOOR"}}).settings({})
    assert settings.note == "env:DOOR"


def test_a_trial_gets_the_secret_and_what_it_says_of_it_is_hidden(tmp_path: Path) -> None:
    spec = resolve(tree())
    config = spec.trainable_config(spec.arms["baseline"])
    model = Trainable.load(spec.trainable).config
    assert model.model_validate(given(config, declared(model))).account.password == SECRETS["password"]
    task = {
        "trainable": spec.trainable,
        "id": "t0001",
        "seed": 0,
        "config": config,
        "expected": [],
        "objective": "val/loss",
    }
    task |= {"test": False, "evaluate": {}, "run_dir": str(tmp_path), "remote": "", "further": [], "shared": False}
    task |= {"workers": 0, "cpus_per_worker": 1, "gpus_per_worker": 0, "placement": "pack", "accelerator": None}
    told = TrialTask(**task, cwd=str(tmp_path), scratch=str(tmp_path))
    (tmp_path / "trials" / "t0001").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="of-the-door") as error, trial._noted(told):
        trial._train_in(tmp_path / "trials" / "t0001", tmp_path, None, told, lambda _: None, device="cpu")
    assert hidden(trial.reason(error.value))
    assert hidden((tmp_path / "trials" / "t0001" / trial.ERROR).read_text("utf-8"))


def test_a_cluster_is_sent_the_variables() -> None:
    assert cluster._carried([]) == {}
    resolve(tree())
    assert cluster._carried([])["env_vars"]["SWEEPER_SECRET_CONFIG_KEY"] == SECRETS["key"]


def test_a_refused_secret_is_not_shown() -> None:
    with pytest.raises(SpecError, match="is refused; it is a secret and not shown") as error:
        resolve({**tree(), "config": {"account": {"passphrase": "of-the-door"}}})
    assert hidden(str(error.value))


def test_no_search_varies_a_secret() -> None:
    with pytest.raises(SpecError, match=r"space\.api_key: is a secret and cannot be searched"):
        resolve({**tree(), "space": {"api_key": {"choice": ["of-the-door", "b"]}}})


class Inner(BaseModel):
    token: SecretStr | None = None
    mask_token: str = "[MASK]"


class Outer(BaseModel):
    token: float = 0.2
    password: Literal["a", "b"] = "a"
    secret: int = 3
    hub_token: str | None = None
    door: SecretStr = SecretStr("of the code")
    inner: Inner = Inner()
    tokenizer: str = "x"


def test_declarations_say_what_is_secret() -> None:
    told = declared(Outer)
    assert {path for path, secret in told.items() if secret} == {"password", "hub_token", "door", "inner.token"}
    dump = Outer(hub_token="h").model_dump(mode="json")
    assert "door" not in returned(dump, {"hub_token": "env:H"}, told), "what only the code has stays there"
    assert returned(dump, {"hub_token": "env:H"}, told)["hub_token"] == "env:H"


def test_two_secrets_do_not_share_a_variable() -> None:
    with pytest.raises(ValueError, match="would both be kept as SWEEPER_SECRET_C_A_B_PASSWORD"):
        taken({"a": {"b_password": "x"}, "a_b": {"password": "y"}}, "c")


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        ("{password: x}", "{password: ***}"),
        ("{password: x, corpus: y}", "{password: ***, corpus: y}"),
        ('"password": "x y", "b": 1', '"password": "***", "b": 1'),
        ('{\\"api_key\\": \\"x\\", \\"b\\": 1}', '{\\"api_key\\": \\"***\\", \\"b\\": 1}'),
        ('password="a\\"b" c', 'password="***" c'),
        ("'private_key': 'x'", "'private_key': '***'"),
        ("private_key=abc", "private_key=***"),
        ("https://h/?sig=abc%3D&x=1", "https://h/?sig=***&x=1"),
        ("X-Amz-Credential=AK/2&X-Amz-Signature=ab", "X-Amz-Credential=***&X-Amz-Signature=***"),
        ("accessKey: abc\nb: 1", "accessKey: ***\nb: 1"),
        ("password: a, b", "password: ***"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ('postgresql://me:"p w"@host/db', "postgresql://***@host/db"),
        ("postgresql://me:'p@ss'@h/db", "postgresql://***@h/db"),
        ("postgresql://me:p'w@h/db", "postgresql://***@h/db"),
        ('see "http://u:p@h/b" and "a@b"', 'see "http://***@h/b" and "a@b"'),
        ("--set config.api_key=sk-1 --yes", "--set config.api_key=*** --yes"),
        ("{random: 0.5, token: 0.15, trigram: 0}", "{random: 0.5, token: 0.15, trigram: 0}"),
        ('{"token": 0.2}', '{"token": 0.2}'),
        ("tokenizer: train:8192", "tokenizer: train:8192"),
        ("tokens=5 max_tokens=3 sigma=0.3 config=abc", "tokens=5 max_tokens=3 sigma=0.3 config=abc"),
        ("mask_token: '[MASK]'", "mask_token: '[MASK]'"),
        ("token: null", "token: null"),
        ("api_key: env:DOOR", "api_key: env:DOOR"),
    ],
)
def test_secrets_are_hidden_whatever_the_syntax_around_them(said: str, clean: str) -> None:
    assert redact(said) == clean


def test_a_command_hides_what_a_shell_would_join() -> None:
    given = ["run", "s.yaml", "--set", "config.api_key=a b'c", "--set", "a.token=0.15", "--hub-token", "x y"]
    assert command([*given, "--set", "config={password: x}"]) == (
        "run s.yaml --set 'config.api_key=***' --set a.token=0.15 --hub-token '***' --set 'config={password: ***}'"
    )


def test_records_in_the_clear_are_shown_veiled() -> None:
    assert veiled("config.api_key", "abc") == "***"
    assert veiled("", {"a": {"password": "x", "steps": 3}}) == {"a": {"password": "***", "steps": 3}}
    assert trial_runs.settings({"account": {"password": "x"}, "shares": {"token": 0.1}})["account.password"] == "***"


@pytest.mark.slow
def test_a_whole_sweep_leaves_no_secret_anywhere(tmp_path: Path) -> None:
    """Its folder, MLflow's store, what it says; with a trial that fails saying its password. Half a minute."""
    spec, fails = tree(), {"x": 0.3, "fail": "raise"}
    spec["config"].pop("fail")
    (tmp_path / "s.yaml").write_text(json.dumps(spec | {"arms": {**spec["arms"], "fails": fails}}), "utf-8")
    asked = ["s.yaml", "--set", f"config.api_key={SECRETS['line']}", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "SWEEPER_CACHE": str(tmp_path / "cache")}
    run = [sys.executable, "-m", "sweeper.run", *asked]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "RuntimeError: no login: password=***" in done.stderr
    (tmp_path / "s.yaml").unlink()
    assert hidden(done.stdout + done.stderr)
    there = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in there)
    assert [path for path in there if not hidden(path.read_bytes().decode(errors="replace"))] == []


@pytest.mark.parametrize("said", ["a://" * 9999, "--" * 20000, "password: " + "x, " * 9999, '"' * 20000, "a." * 20000])
def test_hostile_text_does_not_take_long(said: str) -> None:
    begin = time.process_time()
    redact(said)
    assert time.process_time() - begin < 3


def test_specs_without_secrets_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(spec: SweepSpec) -> dict[str, Any]:
        return spec.settings({}).model_dump(mode="json")  # pyright: ignore[reportAttributeAccessIssue]

    for path in sorted(Path("search_spaces").glob("*.yaml"))[:3]:
        spec = load(path)
        assert spec.trainable_config({}) == plain(spec)
    assert secrecy.environment() == {}

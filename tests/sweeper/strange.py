"""A trainable that a stranger could have written: settings of any name, secrets, and words of its own about runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, SecretStr

from sweeper.trainable import TrainContext
from trainables import toy
from trainables.settings.frozen import Frozen

said = "nothing"


class Account(Frozen):
    """Where it logs in."""

    user: str = "me"
    password: str = ""


class Data(Frozen):
    """Of what it would read."""

    corpus: str = ""
    tokenizer: str = ""


class Config(toy.Config):
    """Of a toy; logs into an account with a key."""

    model_config = ConfigDict(extra="allow")

    note: str = ""
    key: SecretStr | None = None
    api_key: str = ""
    account: Account = Account()
    data: Data = Data()


def prepare(config: Config) -> dict[str, Any]:
    return {"notes": [said], "warnings": [said], "judged": [said]}


def stuck(metrics: Mapping[str, float]) -> str:
    return said


def unlearned(metrics: Mapping[str, float]) -> str:
    return said


def train(config: Config, context: TrainContext) -> None:
    """Fails with its password in what it says, if it is to fail."""
    assert config.key is None or not config.key.get_secret_value().startswith(("env:", "*"))
    if config.fail == "raise":
        raise RuntimeError(
            f"no login: password={config.account.password}, key {config.key and config.key.get_secret_value()}"
        )
    toy.train(toy.Config(steps=config.steps, x=config.x), context)

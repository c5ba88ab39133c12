"""Reading YAML: numbers as people mean them, nothing that surprises, and every refusal in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.system import yaml_reader

steady = settings(deadline=None, derandomize=True, max_examples=60)

# What YAML can hold: no control characters but these, no byte order marks, no halves of surrogate pairs.
texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff", include_characters="\n\t"),
    max_size=12,
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.sampled_from(["5e-4", "1e5", "no", "017", "0o17", "1:30", "null", "~", "1_000", "2026-01-01", "<<", "=", "* a"]),
)
trees = st.recursive(scalars, lambda below: st.lists(below) | st.dictionaries(texts, below), max_leaves=8)


def refused(text: str) -> str | None:
    try:
        yaml_reader.parse(text)
    except ValueError as error:
        return str(error)
    return None


@steady
@given(st.dictionaries(texts, trees))
def test_what_is_written_is_read_back(tree: dict[str, Any]) -> None:
    assert repr(yaml_reader.parse(yaml_reader.dump(tree))) == repr(tree)


@steady
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    assert "\n" not in (refused(text) or "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("90", 90),
        ("+7", 7),
        ("true", True),
        ("~", None),
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("017", "017"),
        ("0o17", "0o17"),
        ("0x1f", "0x1f"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-01-01", "2026-01-01"),
        ('"5e-4"', "5e-4"),
        ("files:data/*.txt", "files:data/*.txt"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    read = yaml_reader.parse(f"key: {text}")["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: duplicate key 'a'"),
        ("a: {b: 1, b: 2}", "line 1, column 11: duplicate key 'b'"),
        (
            "a: &x [1]",
            "line 1, column 4: anchors and aliases (& and *) are not allowed; quote text that starts with one",
        ),
        ("a: *x", "line 1, column 4: anchors and aliases (& and *) are not allowed; quote text that starts with one"),
        ("a: !!python/name:os.system ''", "line 1, column 4: tags (tag:yaml.org,2002:python/name:os.system) are not"),
        ("1: a", "line 1, column 1: the key 1 is not text; quote it"),
        ("[a]: b", "line 1, column 1: the key ['a'] is not text; quote it"),
        ("a: [1", "line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("a: 1e999", "line 1, column 4: the number 1e999 is too large"),
        ("a: 1" + "0" * 5000, "line 1, column 4: the number 100000000000000000000000 is too large"),
        ("a: " + "[" * 40, "line 1, column 27: nested deeper than 24 levels"),
        ('a: "\\ud800"', "line 1, column 4: a text holds half of a surrogate pair"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("a: \x07", "unacceptable character #x0007: special characters are not allowed"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(reason)}.*\Z"):
        yaml_reader.parse(text)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty; a spec begins with name:"),
        (b"# nothing\n", "is empty; a spec begins with name:"),
        (b"- a\n- b\n", "holds a list at the top, not a mapping"),
        (b"text", "holds a single value at the top, not a mapping"),
        (b"a: \xff", "is not UTF-8 text (byte 3)"),
        (b"a: [", "cannot be read as a spec: line 1, column 5: "),
        (b"a: " + b"x" * yaml_reader.MAX_BYTES, "is larger than 1024 KiB, too large for a spec"),
    ],
)
def test_a_file_that_is_no_spec(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "spec.yaml").write_bytes(data)
    with pytest.raises(ValueError, match="^" + re.escape(reason)):
        yaml_reader.read(tmp_path / "spec.yaml")


def test_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file or directory"):
        yaml_reader.read(tmp_path / "spec.yaml")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        yaml_reader.read(tmp_path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes(b"\xef\xbb\xbfname: a\n")
    assert yaml_reader.read(tmp_path / "spec.yaml") == {"name": "a"}


def test_what_is_written_reads_the_same_elsewhere() -> None:
    tree = {"lr": 5e-4, "tiny": 1e-12, "text": "5e-4", "flag": "no", "when": "1:30", "n": None, "list": [1, "1"]}
    assert yaml.safe_load(yaml_reader.dump(tree)) == tree


def test_a_shared_value_is_written_out_twice() -> None:
    shared = [1, 2]
    assert "&" not in yaml_reader.dump({"a": shared, "b": shared})

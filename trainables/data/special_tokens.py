"""Finds the special tokens of a vocabulary, by role, in the tokenizer's files.

For each role the first of these that names one: `mask_token` and so on in tokenizer_config.json, then in
special_tokens_map.json; tokenizer.json (the template of the post-processor, the padding); an entry with a usual
spelling. For the unknown token the model itself comes before all of these. The tokens for the beginning and the end of
a text (`bos_token`, `eos_token`, `<s>`, `</s>`) serve as cls and sep where nothing else does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

ROLES = ("pad", "unk", "cls", "sep", "mask")

_USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("[BOS]", "<bos>", "<s>"),
    "eos": ("[EOS]", "<eos>", "</s>"),
}
_STANDS_FOR = {"cls": "bos", "sep": "eos"}


def named(*settings: Mapping[str, Any]) -> dict[str, str]:
    """Tokens by role, for every role that the settings name. The first settings win; null names nothing."""
    found: dict[str, str] = {}
    for each in settings:
        for role in _USUAL:
            token = each.get(f"{role}_token")
            content = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(content, str) and content:
                found.setdefault(role, content)
    return found


def find(names: Mapping[str, str], described: Mapping[str, Any], entries: Collection[str]) -> dict[str, str]:
    """Tokens by role, for the roles that have one. Tokens that are not from `names` are entries.

    names: see `named`. described: tokenizer.json as the library writes it. entries: of the vocabulary.
    """
    described_tokens = {role: token for role, token in _described(described).items() if token in entries}
    usual = {role: next((token for token in spelt if token in entries), None) for role, spelt in _USUAL.items()}
    found = {}
    for role in ROLES:
        other = _STANDS_FOR.get(role, role)
        own = described_tokens.get(role) if role == "unk" else None
        chosen = (own, names.get(role), described_tokens.get(role), usual[role], names.get(other), usual[other])
        token = next((token for token in chosen if token), None)
        if token:
            found[role] = token
    return found


def needs_unknown(described: Mapping[str, Any]) -> bool:
    """Whether some texts have no pieces: true unless the tokenizer falls back on bytes."""
    return not (described["model"].get("byte_fallback") or "ByteLevel" in _kinds(described))


def _described(described: Mapping[str, Any]) -> dict[str, str]:
    """Tokens by role, from tokenizer.json."""
    model = described["model"]
    unknown = model.get("unk_token")
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    found = {"unk": unknown, "pad": (described.get("padding") or {}).get("pad_token")}
    for step in steps(described.get("post_processor"), "processors"):
        if step["type"] in ("BertProcessing", "RobertaProcessing"):
            found |= {"cls": step["cls"][0], "sep": step["sep"][0]}
        if step["type"] == "TemplateProcessing":
            found |= _frame(step)
    return {role: token for role, token in found.items() if token}


def _frame(template: Mapping[str, Any]) -> dict[str, str]:
    """The first token before the text and the first one after it, if any."""
    sides: tuple[list[str], list[str]] = ([], [])
    behind = False
    for piece in template["single"]:
        if "Sequence" in piece:
            behind = True
        else:
            sides[behind].extend(template["special_tokens"][piece["SpecialToken"]["id"]]["tokens"])
    return {role: tokens[0] for role, tokens in zip(("cls", "sep"), sides, strict=True) if tokens}


def _kinds(described: Mapping[str, Any]) -> set[str]:
    """The types of the steps before the model."""
    found = set()
    for part, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        found |= {step["type"] for step in steps(described.get(part), inner)}
    return found


def steps(part: Mapping[str, Any] | None, inner: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a part of tokenizer.json, sequences flattened. inner: the key of a sequence's steps."""
    if part and part["type"] == "Sequence":
        for each in part[inner]:
            yield from steps(each, inner)
    elif part:
        yield part

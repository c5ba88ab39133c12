"""Tokenizers from SentencePiece's own `.model` files.

A file whose folder names a tokenizer class, such as XLMRobertaTokenizer, is read as transformers reads it. A file as
the trainer wrote it is read as SentencePiece itself reads it: with the leading space that it was trained with, its
normalisation and its bytes. (Without a class, transformers 5 omits the leading space and keeps others, so that the
first word of a line would get other tokens than in training.)
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables import limits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "sentencepiece.model")
INSTALL = "pip install 'sweeper[sentencepiece]'"
SPACE = "▁"

_GENERAL = {"PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", "PythonBackend"}
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4


def read(path: Path, settings: dict[str, Any], names: dict[str, str]) -> tuple[Tokenizer, dict[str, str]]:
    """A `.model` file as a tokenizer, and the special tokens that it or its class names, by role.

    settings: of tokenizer_config.json. names: special tokens that the folder's settings name; those that are not pieces
    become entries after them. ValueError, without the path, for a file that cannot be read.
    """
    class_name = settings.get("tokenizer_class")
    if class_name and class_name not in _GENERAL:
        return _as_transformers_does(path, str(class_name))
    return _as_trained(path, names)


def _as_transformers_does(path: Path, class_name: str) -> tuple[Tokenizer, dict[str, str]]:
    if find_spec("sentencepiece") is None:
        raise ValueError(f"a {class_name} from {path.name} needs the package sentencepiece: {INSTALL}")
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
        if type(loaded).__name__ in _GENERAL:
            raise ValueError("it has no such class")
        tokenizer = loaded.backend_tokenizer
    except Exception as error:  # whatever the converters raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "remove tokenizer_class from tokenizer_config.json to read it as plain SentencePiece"
        raise ValueError(f"transformers cannot make a {class_name} of {path.name} ({reason}): {advice}") from error
    return tokenizer, {role: str(token) for role, token in loaded.special_tokens_map.items() if token}


def _as_trained(path: Path, names: dict[str, str]) -> tuple[Tokenizer, dict[str, str]]:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    proto = _parsed(path)
    spec, cleaning = proto.trainer_spec, proto.normalizer_spec
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unknown = next((index for index, piece in enumerate(proto.pieces) if piece.type == _UNKNOWN), None)
    if unknown is None or spec.model_type not in (_UNIGRAM, _BPE) or spec.treat_whitespace_as_suffix:
        raise ValueError(f"{path.name} is not a SentencePiece unigram or BPE model with leading spaces")
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    if spec.model_type == _UNIGRAM:
        model: Any = models.Unigram(pieces, unknown, spec.byte_fallback)
    else:
        unk_token, fallback = pieces[unknown][0], spec.byte_fallback
        merges = _merges(proto.pieces)
        model = models.BPE(ids, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=fallback)
    tokenizer = Tokenizer(model)
    steps: list[Any] = []
    if cleaning.precompiled_charsmap:
        steps.append(normalizers.Precompiled(cleaning.precompiled_charsmap))
    if cleaning.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if cleaning.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    scheme: Any = "always" if cleaning.add_dummy_prefix else "never"
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=spec.split_by_whitespace)
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme=scheme)
    if spec.byte_fallback:
        back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence(back + [decoders.Strip(" ", 1, 0)] * cleaning.add_dummy_prefix)
    for piece in proto.pieces:
        if piece.type in (_CONTROL, _USER_DEFINED):
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)])
    own = {role: getattr(spec, f"{role}_id") for role in ("pad", "bos", "eos")}
    found = {role: pieces[index][0] for role, index in own.items() if 0 <= index < len(pieces)}
    tokenizer.add_special_tokens([token for token in names.values() if token not in ids])
    return tokenizer, {f"{role}_token": token for role, token in found.items()}


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """Every way to make a piece of two, best piece first, in the order of SentencePiece's BPE."""
    normal = {piece.piece: (-piece.score, index) for index, piece in enumerate(pieces) if piece.type == _NORMAL}
    found = []
    for piece, rank in normal.items():
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        found += [(rank, pair) for pair in halves if pair[0] in normal and pair[1] in normal]
    return [pair for _, pair in sorted(found, key=lambda merge: merge[0])]


def _parsed(path: Path) -> Any:
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        messages: Any = import_protobuf()
        proto = messages.ModelProto()
        proto.ParseFromString(limits.read(path, limits.TOKENIZER))
    except ImportError:
        raise ValueError(f"{path.name} needs the package protobuf: {INSTALL}") from None
    except Exception as error:  # DecodeError, from a package that may not be installed
        raise ValueError(f"{path.name} is not a SentencePiece model ({error})") from error
    if not proto.pieces:
        raise ValueError(f"{path.name} is not a SentencePiece model: no pieces")
    return proto

"""How likely a masked language model finds a sentence: each token is masked in turn, and log-probabilities are summed.

The pseudo-log-likelihood of Salazar et al. (2020), as in BabyLM's evaluation pipeline (2025, `sentence_zero_shot`): the
tokenizer's special tokens ([CLS] and [SEP] of BERT) are in the input, but neither masked nor counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables import limits, received

TOKENS_AT_ONCE = {"cpu": 4096}  # in the inputs of one pass; as many as fit the cache
TOKENS_ON_A_GPU = 65_536
LOGITS_AT_ONCE = 2**24  # 64 MiB
ARITHMETIC = 2  # goes up when scores change in any bit, so that a cache gives none of another
PADDED_VOCABULARY = 128  # a model may have so many more entries than its tokenizer

Progress = Callable[[int, int], None]  # masked positions done, and in all
Row = tuple[tuple[int, ...], tuple[int, ...]]  # ids, and for each 0 if it is masked in its turn and counted, else 1


def silent(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


class Scorer:
    """Pseudo-log-likelihoods in nats, of logits in float32, summed in float64.

    A batch has sentences of one length, so that nothing is padded and no attention mask is needed. Sentences of the
    same tokens are scored once, so they tie exactly. The head runs at the masked position alone. The order of the
    arithmetic is a function of the sentences.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str = "cpu") -> None:
        self.model, self.tokenizer, self.device = model.to(device).eval(), tokenizer, device
        self._at = torch.zeros(0, dtype=torch.long)  # the masked position of every row of a pass

    def __call__(self, sentences: Sequence[str], progress: Progress = silent) -> NDArray[np.float64]:
        """[n] sums of log-probabilities. ValueError for a sentence beyond the model's positions."""
        return self.batches(Batches(tokens(self.tokenizer, sentences)), progress)

    def batches(self, given: Batches, progress: Progress = silent) -> NDArray[np.float64]:
        """[n] sums over the counted positions of every row. ValueError for a row beyond the model's positions."""
        parts, done = [], 0
        for group in given.groups:
            parts.append(self.group(group, lambda more, before=done: progress(before + more, given.total)))
            done += int(group.counted.sum())
        return given.joined(parts)

    def group(self, group: Group, tell: Callable[[int], None] = lambda _: None) -> NDArray[np.float64]:
        """[m] sums of a group's rows, the same whatever other groups there are.

        tell: gets counted positions done. Raises ValueError for rows beyond the model's positions.
        """
        if group.ids.shape[1] > positions(self.model):
            raise ValueError(f"a sentence of {group.ids.shape[1]} tokens exceeds {positions(self.model)} positions")
        sums, done = np.zeros(len(group.ids)), 0
        with torch.inference_mode(), self._hooked():
            for rows, values in self._masked(group.ids, group.counted):
                np.add.at(sums, rows, values)
                done += len(rows)
                tell(done)
        return sums

    def _masked(self, ids: Tensor, scored: Tensor) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """(rows [m], log-probabilities [m]) of the scored positions of ids [n, T], batch by batch."""
        rows, at = scored.nonzero(as_tuple=True)
        size = min(TOKENS_AT_ONCE.get(self.device, TOKENS_ON_A_GPU) // ids.shape[1], LOGITS_AT_ONCE // self._entries)
        for row, where in zip(rows.split(max(1, size)), at.split(max(1, size)), strict=True):
            inputs = ids[row].to(self.device)
            self._at = where.to(self.device)
            column = self._at.unsqueeze(1)
            targets = inputs.gather(1, column)
            inputs.scatter_(1, column, self.tokenizer.mask_token_id)
            logits = limits.fails(lambda given=inputs: self.model(input_ids=given).logits, "the model fails")[
                :, 0
            ].float()
            yield row.numpy(), _log_softmax_at(logits, targets[:, 0]).cpu().numpy()

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Let the head, and a BERT's last layer past its attention, see the masked positions alone."""
        base = self.model.base_model
        hooks = [base.register_forward_hook(self._masked_states)]
        if self.model.config.model_type == "bert":
            hooks.append(base.encoder.layer[-1].attention.output.register_forward_pre_hook(self._masked_inputs))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _masked_states(self, _module: Any, _inputs: Any, output: Any) -> Any:
        output.last_hidden_state = self._of_masked(output[0])
        return output

    def _masked_inputs(self, _module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(map(self._of_masked, inputs))

    def _of_masked(self, states: Tensor) -> Tensor:
        """[m, T, H] to [m, 1, H]; [m, 1, H] is returned as it is."""
        if states.shape[1] == 1:
            return states
        return states[torch.arange(len(states), device=states.device), self._at].unsqueeze(1)

    @property
    def _entries(self) -> int:
        return self.model.config.vocab_size


def _log_softmax_at(logits: Tensor, targets: Tensor) -> Tensor:
    """[m] log-probabilities in float64 of logits [m, V] in float32 at targets [m].

    Only exponentials and their sum are of float32. `logsumexp` takes as long and errs ten times as much, because it
    rounds its result, of some 10 nats, to float32.
    """
    peak = logits.amax(1, keepdim=True)
    rest = (logits - peak).exp_().sum(1)
    return (logits.gather(1, targets.unsqueeze(1)).double() - peak.double())[:, 0] - rest.double().log()


class Group(NamedTuple):
    """m distinct rows of one length T.

    Args:
        chosen: [m] which of all distinct rows they are.
        ids: [m, T].
        counted: [m, T] whether a position is masked in its turn.
    """

    chosen: NDArray[np.int64]
    ids: Tensor
    counted: Tensor


class Batches:
    """[n] rows in groups of one length, each distinct row once. One serves all models that share a tokenizer.

    Args:
        rows: [n].

    Attributes:
        place: [n] which of the distinct rows each is.
        distinct: how many there are.
        total: counted positions of the distinct rows.
        groups: by falling length.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        places: dict[Row, int] = {}
        self.place = [places.setdefault(row, len(places)) for row in rows]
        found = list(places)
        lengths = np.array([len(ids) for ids, _ in found])
        self.distinct = len(found)
        self.total = sum(len(left_out) - sum(left_out) for _, left_out in found)
        self.groups: list[Group] = []
        for length in np.unique(lengths)[::-1]:
            chosen = np.flatnonzero(lengths == length)
            ids, left_out = np.array([found[i] for i in chosen], dtype=np.int64).transpose(1, 0, 2)
            self.groups.append(Group(chosen, torch.from_numpy(ids), torch.from_numpy(left_out == 0)))

    def joined(self, parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """[n] sums of all rows. parts: [m] of each group."""
        sums = np.zeros(self.distinct)
        for group, part in zip(self.groups, parts, strict=True):
            sums[group.chosen] = part
        return sums[self.place]

    @property
    def digest(self) -> bytes:
        """Hash of the rows."""
        digest = hashlib.sha256(np.array(self.place, np.int64).tobytes())
        for chosen, ids, counted in self.groups:
            for part in (chosen, np.array(ids.shape, np.int64), ids.numpy(), counted.numpy()):
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.digest()


def tokens(tokenizer: Any, sentences: Sequence[str]) -> list[Row]:
    """[n] rows with every token counted but the special ones that the tokenizer adds. An [UNK] is an ordinary token."""
    if not sentences:
        return []
    coded = tokenizer(list(sentences), return_special_tokens_mask=True, verbose=False)
    return [
        (tuple(ids), tuple(special))
        for ids, special in zip(coded["input_ids"], coded["special_tokens_mask"], strict=True)
    ]


def completion_tokens(tokenizer: Any, options: Sequence[tuple[str, str]]) -> list[Row]:
    """[n] rows of sentences in which only the tokens of the completion count; what comes before is context.

    options: [n] (sentence, the completion that it ends with). As in the pipeline, a token is the completion's if it
    ends after the place where the completion begins, so one that lies across the border counts. Raises ValueError, in
    one line, if the tokenizer does not tell where a token ends.
    """
    if not options:
        return []
    if not tokenizer.is_fast:
        raise ValueError("the tokenizer does not say which characters a token stands for: save it as tokenizer.json")
    coded = tokenizer([sentence for sentence, _ in options], return_offsets_mapping=True, verbose=False)
    rows = []
    for ids, spans, (sentence, completion) in zip(coded["input_ids"], coded["offset_mapping"], options, strict=True):
        begin = len(sentence) - len(completion)
        rows.append((tuple(ids), tuple(int(end <= begin) for _, end in spans)))
    return rows


def positions(model: Any) -> int:
    """The most tokens that a row may have.

    If the table of positions has a row for padding, as RoBERTa's has, positions count from the row after it.
    """
    for name, module in model.base_model.named_modules():
        pad = getattr(module, "padding_idx", None)
        if name.rpartition(".")[2] == "position_embeddings" and pad is not None:
            return len(module.weight) - pad - 1
    return model.config.max_position_embeddings


def load(folder: Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of a folder that AutoModelForMaskedLM and AutoTokenizer load.

    No hub, no pickle, no code from the folder. ValueError, in one line, for any other folder and for one without its
    own tokenizer.
    """
    from transformers import AutoModelForMaskedLM

    _quiet()
    received.check_bundle(folder)
    config = load_config(folder)
    tokenizer = load_tokenizer(folder, config.vocab_size)
    options: Any = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    model, found = limits.fails(
        lambda: AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options),
        f"{folder} has no readable masked language model",
    )
    if found["missing_keys"]:
        raise ValueError(f"{folder} lacks weights of its model, such as {min(found['missing_keys'])}")
    if unused := [name for name in found["unexpected_keys"] if re.search(r"\.\d+\.", name)]:
        raise ValueError(f"{folder} has weights of layers that its config leaves out, such as {min(unused)}")
    _try(folder, model, tokenizer)
    return model, tokenizer


def _try(folder: Path, model: Any, tokenizer: Any) -> None:
    """Raises ValueError, in one line, if model and tokenizer fail on a first sentence."""
    message = f"{folder}: its model and its tokenizer fail on a first sentence"
    entries = limits.fails(lambda: int(model.config.vocab_size), message)
    rows = limits.fails(lambda: [tokenizer("a")["input_ids"], tokenizer("a", "b")["input_ids"]], message)
    ids = [*tokenizer.get_vocab().values(), tokenizer.mask_token_id, *rows[0], *rows[1]]
    if not 0 <= min(ids) <= max(ids) < entries:
        raise ValueError(f"{folder}: the tokenizer has the id {max(ids):,}, the model only {entries:,} entries")
    with torch.inference_mode():
        given = torch.tensor([[*rows[0], tokenizer.mask_token_id]], device=model.device)
        logits = limits.fails(lambda: model(input_ids=given[:, : max(1, positions(model))]).logits, message)
    if logits.shape[0] != 1 or logits.shape[2:] != (entries,):
        raise ValueError(f"{message} (its logits have the shape {list(logits.shape)})")


def untrained(folder: Path, seed: int) -> Any:
    """The folder's model before training: its config with random weights, in float32."""
    from transformers import AutoModelForMaskedLM

    config = load_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForMaskedLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def load_config(folder: Path) -> Any:
    """The model's config. ValueError, in one line, if there is none."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a bundle: no config.json")
    return limits.fails(
        lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        f"{folder}/config.json cannot be read",
    )


def load_tokenizer(folder: Path, vocab_size: int | None = None) -> Any:
    """The folder's tokenizer. If it is missing, transformers may return an empty one, which is refused.

    vocab_size: entries of the model, if known.
    """
    from transformers import AutoTokenizer

    absent = f"{folder} has no tokenizer of its own: put the model's tokenizer.json and tokenizer_config.json there"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")):
        raise ValueError(absent)
    received.check_tokenizer(folder)
    tokenizer = limits.fails(
        lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), absent
    )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError(absent)
    if vocab_size is not None and not 0 <= vocab_size - len(tokenizer) < PADDED_VOCABULARY:
        raise ValueError(f"{folder}: the tokenizer has {len(tokenizer)} entries, the model {vocab_size}")
    if tokenizer.mask_token_id is None:
        raise ValueError(f"{folder}: the tokenizer has no mask token")
    return tokenizer


def _quiet() -> None:
    """Switch off transformers' progress bars, and its reports on weights, which `load` checks itself."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

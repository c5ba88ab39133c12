"""The obvious scorer of sentences, and bundles made on the spot to score with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainables.data.vocabulary import Vocabulary


def one_by_one(model: Any, tokenizer: Any, sentences: Sequence[str]) -> list[float]:
    """[n] pseudo-log-likelihoods: one sentence and one mask at a time, logits at every position."""
    model.eval()
    sums = []
    for sentence in sentences:
        coded = tokenizer(sentence, return_offsets_mapping=True)
        total = 0.0
        for position, (_begin, end) in enumerate(coded["offset_mapping"]):
            if end == 0:  # the tokenizer's own [CLS] and [SEP] stand for no characters
                continue
            ids = torch.tensor([coded["input_ids"]])
            answer = int(ids[0, position])
            ids[0, position] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            total += float(torch.log_softmax(logits[0, position], -1)[answer])
        sums.append(total)
    return sums


def make_bundle(folder: Path, vocabulary: Vocabulary, seed: int = 0, **shape: Any) -> Path:
    """A `BertForMaskedLM` at random. shape: settings of its BertConfig."""
    from transformers import BertConfig, BertForMaskedLM

    vocabulary.save(folder)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary.strings), max_position_embeddings=32, type_vocab_size=1)
    config.update(tiny | shape)
    torch.manual_seed(seed)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def fit(folder: Path, text: Sequence[str], steps: int) -> None:
    """Take some steps of training on the text, so that predictions are neither even nor all alike."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    torch.manual_seed(0)
    model: Any = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.003)
    for step in range(steps):
        batch = tokenizer(list(text[32 * step : 32 * step + 32]), padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = (torch.rand(ids.shape) < 0.3) & (mask == 1)
        labels = torch.where(hidden, ids, -100)
        loss = model(input_ids=ids.masked_fill(hidden, tokenizer.mask_token_id), attention_mask=mask, labels=labels)
        loss.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)

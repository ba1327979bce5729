"""Exports a label store as a data set with a card, for the library `datasets` and the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.compute as pc

from compress.files import new_folder
from compress.keep import in_words, read_keep
from compress.labels.store import LabelStore, pieces, write_shard

CARD = """---
pretty_name: {name}
tags: [evocomp, visual-token-compression, multimodal]
size_categories: [{size}]
configs:
- config_name: default
  data_files:
  - {{split: train, path: data/train-*.parquet}}
---
# {title}

Which visual tokens of an image a multimodal LLM should keep to answer a question: {samples:,} labels of
{kept}, judged by the model's own loss on the answer (EvoComp, arXiv:2604.17087).
Made with the toolkit evocomp. Images, questions and answers are not part of it: `id` names them in the data
set that was labelled.

    from datasets import load_dataset
    labels = load_dataset("{folder}", split="train")

or `evocomp train --labels {folder}/data --out compressor`.

| column | meaning |
| --- | --- |
| `id` | the sample: name of the data set, and its name there |
| `kept` | indices of the visual tokens to keep, ascending |
| `loss_before` | nats per response token that a random candidate of the search costs |
| `loss_after` | nats per response token with the kept tokens only |
| `loss_full` | nats per response token with all visual tokens |
| `evaluations` | candidates whose loss was computed |
| `seed` | of this sample's search |
| `seconds` | that the sample took |
| `score` | per visual token, higher is more worth keeping; empty for kinds of labels without scores |

Mean loss: {before:.4f} of a random candidate, {after:.4f} of the label, {full:.4f} of all tokens.
{given_up:,} samples could not be labelled and are not in it.

## Settings

{settings}
"""


def export(store: LabelStore, out: str | os.PathLike[str]) -> Path:
    """Write `store` to the new folder `out`: README.md (the card) and data/train-*.parquet, also a store.

    ValueError if `out` exists. The folder appears only when it is complete.
    """
    target = Path(out)
    with new_folder(target) as part:
        (part / "data").mkdir()
        files = pieces(store.table(), store.settings)
        for number, piece in enumerate(files):
            write_shard(piece, part / "data" / f"train-{number:05d}-of-{len(files):05d}.parquet")
        (part / "README.md").write_text(card(store, target.name), encoding="utf-8")
    return target


def card(store: LabelStore, folder: str) -> str:
    """The card that describes the labels."""
    table = store.table(["loss_before", "loss_after", "loss_full"])
    before, after, full = (pc.mean(table[name]).as_py() for name in table.column_names)
    bounds = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")]
    rows = [f"| `{name}` | {json.dumps(value)} |" for name, value in store.settings.items()]
    title = f"Visual tokens to keep: {store.settings.get('data', 'mixture')}, {len(store):,} labels"
    return CARD.format(
        title=title, name=json.dumps(title),  # valid YAML as well
        size=next((size for bound, size in bounds if len(store) < bound), "n>1M"),
        samples=len(store), kept=in_words(read_keep(store.setting("keep")), store.setting("visual_tokens")),
        folder=folder, before=before, after=after, full=full, given_up=len(store.quarantine),
        settings="\n".join(["| setting | value |", "| --- | --- |", *rows]),
    )  # fmt: skip

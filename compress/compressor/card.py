"""The model card of a compressor: a description, its training and labels, and its use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import ModelCardData

from compress.hub import is_name

CARD = "README.md"
TAGS = ["evocomp", "visual-token-compression", "token-pruning", "multimodal", "vision-language"]


def card(described: Mapping[str, Any], name: str) -> str:
    """Return the card as Markdown with the hub's metadata.

    `described` is the JSON configuration saved beside the weights (`Compressor.describe`), `name` the name of
    the repository. The metadata name the base model if it has the form of a hub name.
    """
    info = dict(described["info"])
    base, labels = info.pop("base_model", ""), info.pop("labels", [])
    data = ModelCardData(library_name="evocomp", tags=TAGS, base_model=base if is_name(base) else None)
    parts = [f"---\n{data.to_yaml()}\n---", _introduction(described, base)]
    parts.append(_use(base or "MODEL", name, labels[0].get("keep", 64) if labels else 64))
    if info:
        chosen = "`score` chose the epoch, higher is better; it is no benchmark." if "score" in info else ""
        parts.append("\n\n".join(filter(None, ["## Training", chosen, _table(info.items())])))
    for number, settings in enumerate(labels, 1):
        title = "## Labels" + (f" {number}" if len(labels) > 1 else "")
        parts.append(f"{title}\n\n{_table(settings.items())}")
    return "\n\n".join(parts) + "\n"


def _introduction(described: Mapping[str, Any], base: str) -> str:
    llm, layers = described["llm"], described["layers"]
    reads = "image and question" if described["text"] else "the image, not the question"
    return f"""# Visual-token compressor{f" for {base}" if base else ""}

Gives every visual token of a multimodal LLM a logit, from the embeddings of {reads}: tokens of highest
logits stay, the decoder never sees the others. Layers: {layers}, bidirectional, of {llm["model_type"]}'s
form and width {llm["hidden_size"]}; then a linear classifier, after [EvoComp](https://arxiv.org/abs/2604.17087)."""


def _use(base: str, name: str, keep: int | str) -> str:
    return f"""## Use

```python
from evocomp import EvoComp, attach, load

mllm = load("{base}")
with attach(mllm, EvoComp("{name}"), keep={keep!r}):  # visual tokens per decoder layer
    print(mllm.answer([image], [question]))
```

```sh
evocomp eval --model {base} --method evocomp --compressor {name} --keep {keep}
```"""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows]
    return "\n".join(["| setting | value |", "| --- | --- |", *lines])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

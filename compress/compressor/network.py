"""The compressor (paper 3.3): one bidirectional layer of the LLM and a classifier of visual tokens."""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from compress import hub
from compress.compressor.card import CARD, card
from compress.documents import Document, checked, read_json, regular_file
from compress.files import replacing
from evosearch.registry import cut

CONFIG, WEIGHTS = "compressor.json", "compressor.safetensors"
FILES = CONFIG, WEIGHTS, CARD
UNSAVED = ("_name_or_path", "architectures", "transformers_version")  # of the LLM's configuration


class _Described(Document):
    """A compressor's JSON file."""

    format: Literal[1]
    text: bool
    layers: Annotated[int, Field(ge=1, le=1000)]
    norm: bool
    words: bool = False
    llm: dict[Annotated[str, Field(min_length=1)], Any]
    info: dict[str, Any] = {}


@dataclass(frozen=True)
class Tokens:
    """The input of a compressor for one sample: embeddings of visual tokens [N, D] and prompt text [T, D].

    The answer is not part of it. The first `before` text tokens precede the image, the others follow it.
    """

    visual: Tensor
    text: Tensor
    before: int


class Batch(NamedTuple):
    """Samples packed in LLM order and padded on the right."""

    embeds: Tensor  # [B, S, D]
    present: Tensor  # [B, S] bool, False for padding
    rows: Tensor  # [B, N] positions of the visual tokens in the sequence
    valid: Tensor  # [B, N] bool, False for padding


def pack(samples: Sequence[Tokens], *, text: bool = True) -> Batch:
    """Pack ragged samples into one batch; `text=False` leaves the text tokens out."""
    sequences, rows = [], []
    for tokens in samples:
        before = tokens.before if text else 0
        parts = [tokens.text[:before], tokens.visual, tokens.text[before:]] if text else [tokens.visual]
        sequences.append(torch.cat(parts))
        rows.append(torch.arange(before, before + len(tokens.visual), device=tokens.visual.device))

    def filled(lists: Sequence[Tensor]) -> Tensor:
        return pad_sequence(
            [torch.ones(len(x), dtype=torch.bool, device=x.device) for x in lists], batch_first=True
        )

    return Batch(
        pad_sequence(sequences, batch_first=True),
        filled(sequences),
        pad_sequence(rows, batch_first=True),
        filled(rows),
    )


class WordMatch(nn.Module):
    """A term of a visual token's logit: its similarity to the words of the prompt (ours).

    The similarity is sum_j g(t_j) max(0, cos(v_i, t_j)) over the text tokens t_j of the prompt. The gate g in
    (0, 1) is learned and weighs the words. The result is standardised over the visual tokens of the sample
    and scaled. A token that matches several words ("red", "sign") ranks above one that matches one of them.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gate = nn.Linear(width, 1)
        self.scale = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Return the terms [B, N] for embeddings [B, S, D]; values at padding are undefined."""
        unit = F.normalize(x.to(self.gate.weight), dim=-1)
        visual = unit.gather(1, batch.rows[..., None].expand(-1, -1, unit.shape[-1]))
        shown = torch.zeros_like(batch.present[:, :1]).expand(-1, x.shape[1] + 1)
        shown = shown.scatter(1, batch.rows.where(batch.valid, x.shape[1]), True)[:, :-1]
        gates = self.gate(unit).sigmoid().squeeze(-1) * (batch.present & ~shown)
        match = ((visual @ unit.transpose(1, 2)).clamp(min=0) * gates[:, None]).sum(-1)
        count = batch.valid.sum(1, keepdim=True)
        mean = (match * batch.valid).sum(1, keepdim=True) / count
        spread = (((match - mean).square() * batch.valid).sum(1, keepdim=True) / count).sqrt()
        return self.scale * (match - mean) / (spread + 1e-6)


class Compressor(nn.Module):
    """Compute a retention logit for every visual token: h = x + layer(x), then a linear classifier.

    The layer has the architecture of the LLM's layers (its class follows from `config`, the LLM's text
    configuration) but attends in both directions. `text=False` is the ablation without text tokens.
    `layers` > 1 uses that many layers instead of one, `norm=True` puts an RMS norm before the classifier, and
    `words=True` adds a `WordMatch` to the logits (all ours). Embeddings of another width are reduced or
    expanded by adaptive average pooling over the features (transfer). `info` holds JSON-serialisable notes on
    the training, which are saved with the weights.
    """

    info: Mapping[str, Any]

    def __init__(
        self, config: PreTrainedConfig, *, text: bool = True, layers: int = 1, norm: bool = False,
        words: bool = False,
    ):  # fmt: skip
        super().__init__()
        if words and not text:
            raise ValueError("words=True matches tokens with the question: it needs text=True")
        self.info = {}
        if layers < 1:
            raise ValueError(f"layers={layers}: a compressor has at least 1 layer")
        self.text, self.width = text, config.hidden_size
        self.config = _shortened(config, layers)
        kinds = getattr(self.config, "layer_types", None) or []
        if "linear_attention" in kinds[:layers]:
            raise ValueError(
                f"a compressor copies layers with attention; layer {kinds.index('linear_attention')} of this "
                f"{config.model_type} decoder is recurrent: choose another model"
            )
        decoder = AutoModel.from_config(self.config)
        self.layers, self.rotary = decoder.layers, decoder.rotary_emb
        # The kind of each layer, if the rotary embedding takes a kind; else empty strings.
        by_kind = "layer_type" in inspect.signature(self.rotary.forward).parameters
        self._kinds = kinds[:layers] if by_kind else [""] * layers
        for layer in self.layers:
            layer.self_attn.is_causal = False
        self.norm = nn.RMSNorm(self.width, eps=1e-6) if norm else nn.Identity()
        self.head = nn.Linear(self.width, 1)
        self.words = WordMatch(self.width) if words else None

    @classmethod
    def from_decoder(
        cls, decoder: Any, *, text: bool = True, layers: int = 1, norm: bool = False, words: bool = False
    ) -> Compressor:
        """Build a compressor from copies of the first layers of `decoder`, the LLM without its head."""
        if layers > len(decoder.layers):
            raise ValueError(f"layers={layers}: the LLM has {len(decoder.layers)} layers to start from")
        made = cls(decoder.config, text=text, layers=layers, norm=norm, words=words)
        for mine, theirs in zip(made.layers, decoder.layers, strict=False):
            mine.load_state_dict(theirs.state_dict())
        return made

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return retention logits [B, N] and the classifier's input [B, N, D]; undefined at padding."""
        x = batch.embeds.to(self.layers[0].input_layernorm.weight)
        if x.shape[-1] != self.width:
            x = F.adaptive_avg_pool1d(x, self.width)
        positions = torch.arange(x.shape[1], device=x.device)[None]
        if "mrope_section" in (getattr(self.config, "rope_parameters", None) or {}):
            positions = positions.expand(3, 1, -1)
        present = batch.present if len(x) > 1 else None  # one sample has no padding
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=present)
        angles = {kind: self.rotary(x, positions, *filter(None, [kind])) for kind in set(self._kinds)}
        out = x
        for layer, kind in zip(self.layers, self._kinds, strict=True):
            out = layer(out, attention_mask=mask, position_embeddings=angles[kind])
        hidden = (x + out).gather(1, batch.rows[..., None].expand(-1, -1, self.width))
        hidden = self.norm(hidden.to(self.head.weight))
        logits = self.head(hidden).squeeze(-1)
        if self.words is not None:
            logits = logits + self.words(x, batch)
        return logits, hidden

    def running(self, dtype: torch.dtype, device: torch.device) -> Compressor:
        """Return this compressor on `device`; for another `dtype` than float32, a converted copy.

        Only the layers are converted. The classifier stays in float32, since its logits are ranked.
        """
        self.to(device)
        if dtype == torch.float32:
            return self
        half = copy.deepcopy(self)
        half.layers.to(dtype)
        return half

    @torch.inference_mode()
    def score(self, tokens: Tokens) -> Tensor:
        """Return the retention logits [N] of one sample in float32."""
        return self(pack([tokens], text=self.text))[0][0].float()

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable configuration: architecture, LLM configuration and `info`."""
        settings = {
            "text": self.text, "layers": len(self.layers), "norm": isinstance(self.norm, nn.RMSNorm),
            "words": self.words is not None,
        }  # fmt: skip
        llm = {key: value for key, value in self.config.to_dict().items() if key not in UNSAVED}
        return {"format": 1, **settings, "llm": llm, "info": dict(self.info)}

    def save(self, folder: str | os.PathLike[str], info: Mapping[str, Any] | None = None) -> None:
        """Write weights and a JSON configuration into `folder`; each file is replaced atomically.

        `info`, if given, replaces the compressor's own.
        """
        if info is not None:
            self.info = dict(info)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with replacing(target / WEIGHTS) as part:
            part.write_bytes(
                save(weights)
            )  # save_file maps the file into memory, which hides the error of a full disk
        with replacing(target / CONFIG) as part:
            part.write_text(json.dumps(self.describe(), indent=1))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Compressor:
        """Load the compressor that `save` wrote to `folder`, in evaluation mode, without the LLM."""
        path = Path(folder)
        described = read_description(path)
        try:
            weights = load_file(regular_file(path / WEIGHTS))
        except (OSError, SafetensorError) as problem:
            raise ValueError(f"{path / WEIGHTS}: unreadable ({problem}); train again") from problem
        told = checked(_Described, described, path / CONFIG)
        with torch.device("meta"):  # sizes are compared with the weights before memory is allocated
            cls._of(told, path / CONFIG).refuse_other_shape(weights, str(path / WEIGHTS))
        made = cls._of(told, path / CONFIG)
        made.load_weights(weights, str(path / WEIGHTS))
        if unsound := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise ValueError(f"{path / WEIGHTS}: {unsound[0]} holds numbers that are not finite; train again")
        made.info = described.get("info", {})
        return made.eval()

    @classmethod
    def _of(cls, told: _Described, where: Path) -> Compressor:
        """Build the described compressor; ValueError if transformers cannot build its decoder."""
        # Private names and attention kernels belong to a process, and a kernel may need a download.
        llm = {key: value for key, value in told.llm.items() if key[0] != "_" and "implementation" not in key}
        types = llm.get("layer_types")
        llm |= {"num_hidden_layers": told.layers}
        llm |= {"layer_types": types[: told.layers]} if isinstance(types, list) else {}
        try:
            made = cls(
                AutoConfig.for_model(llm.pop("model_type"), **llm),
                text=told.text, layers=told.layers, norm=told.norm, words=told.words,
            )  # fmt: skip
            if any(layer.input_layernorm is None or layer.self_attn is None for layer in made.layers):
                raise ValueError("its layers have another form")
        except Exception as problem:  # configurations of other models raise errors of any type
            why = cut(f"{type(problem).__name__}: {problem}", 100)
            raise ValueError(
                f"{where}: llm is not a decoder that a compressor can be built from ({why})"
            ) from problem
        return made

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **to_hub: Any,
    ) -> str | None:
        """Save weights and configuration with `save`, and a model card unless `folder` has a README.md.

        `push_to_hub=True` also uploads the files to `repo_id` and returns the address of the commit. Default:
        the folder's name in your own namespace. `to_hub` are further arguments of `compress.hub.publish`.
        """
        self.save(folder)
        name = repo_id or Path(folder).name
        if not (Path(folder) / CARD).exists():
            with replacing(Path(folder) / CARD) as part:
                part.write_text(card(self.describe(), name), encoding="utf-8")
        return hub.publish(Path(folder), FILES, name, **to_hub) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **to_hub: Any) -> str:
        """Commit weights, configuration and card to the hub repository `repo_id` and return the address.

        `to_hub` are further arguments of `compress.hub.publish`. Raises the errors of `publish`.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repo_id)  # the card contains repo_id
            return hub.publish(folder, FILES, repo_id, **to_hub)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
    ) -> Compressor:
        """Load the compressor from a folder or the hub repository `name` at `revision`, in evaluation mode.

        ValueError, with advice, if there is none.
        """
        return cls.load(compressor_folder(name, revision=revision, token=token))

    def load_weights(self, weights: Mapping[str, Tensor], origin: str) -> None:
        """Load a state dict. ValueError, which names `origin`, if names or shapes differ."""
        self.refuse_other_shape(weights, origin)
        self.load_state_dict(weights)

    def refuse_other_shape(self, weights: Mapping[str, Tensor], origin: str) -> None:
        """Raise ValueError, which names `origin`, if names or shapes differ from this compressor's."""
        for name, mine in self.state_dict().items():
            theirs = tuple(weights[name].shape) if name in weights else "missing"
            if theirs != tuple(mine.shape):
                needed = f"this compressor needs {tuple(mine.shape)}"
                raise ValueError(f"{origin}: another shape: {name} is {theirs}, {needed}")
        extra = sorted(set(weights) - set(self.state_dict()))
        if extra:
            raise ValueError(
                f"{origin}: another shape: it also holds {cut(extra[0])}, unknown to this compressor"
            )


def compressor_folder(
    name: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """Return the folder `name`, or the local copy of the hub repository of that name."""
    if hub.is_name(str(name)) and not Path(name).exists():
        return hub.fetch(str(name), FILES, revision=revision, token=token)
    return Path(name)


def read_description(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the configuration that `Compressor.save` wrote: the architecture and `info`."""
    path = Path(folder) / CONFIG
    try:
        described = read_json(path)
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: no compressor here ({CONFIG} is missing); give training's folder, or a hub name"
        ) from None
    except OSError as problem:
        raise ValueError(f"{path}: unreadable ({problem}); train again") from problem
    if not isinstance(described, dict) or described.get("format") != 1:
        raise ValueError(f"{path}: not a compressor's configuration (format 1 is expected)")
    checked(_Described, described, path)
    return described


def _shortened(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """Copy the configuration with `layers` layers and a vocabulary of 1, since its embeddings are unused."""
    short = copy.deepcopy(config)
    short.num_hidden_layers, short.vocab_size, short.dtype = layers, 1, torch.float32
    short.pad_token_id = short.bos_token_id = short.eos_token_id = None
    if getattr(short, "layer_types", None):
        short.layer_types = short.layer_types[:layers]
    return short

"""Stage 3: a small text tower, paired with the busy model's vision tower as in CLIP.

Methods that read CLIP's joint space need it. The vision tower is frozen: the embeddings of texts learn to be
near the CLS features of the scenes that they describe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from compress.micro.busy_language import TEMPLATES, tokenizer
from compress.micro.busy_world import KINDS, SIDE, render, scene
from compress.micro.recipe.busy_tower import VISION
from compress.micro.recipe.tower import normalise
from compress.micro.world import COLORS

FOLDER = "clip"  # beside the model's files, whose config.json names it
LONGEST = 32  # most tokens that the text tower reads
PHRASES = [f"{color} {kind}" for color in COLORS for kind in KINDS]
ASKING = ("color", "shape", "exist", "read", "ground", "count")  # families with one phrase per template


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of the model's words, with <s> and </s> added and padding on the right."""
    made = tokenizer()
    ends = [("<s>", made.bos_token_id), ("</s>", made.eos_token_id)]
    made.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made.padding_side = "right"
    return made


def new_clip(tower: Any) -> CLIPModel:
    """Build a CLIP from a vision tower, with a new text tower of two layers."""
    made = tokenizer()
    text = {
        "vocab_size": len(made), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": LONGEST, "projection_dim": 64,
        "bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
    }  # fmt: skip
    vision = VISION.to_dict() | {"projection_dim": 64}
    torch.manual_seed(12)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    clip.vision_model.load_state_dict(tower.state_dict(), strict=False)
    return clip


@torch.no_grad()
def seen(clip: CLIPModel, seeds: range) -> tuple[Tensor, Tensor]:
    """Return CLS features [n, C] of training scenes, and which of `PHRASES` are true of them [n, P]."""
    features, true = [], torch.zeros(len(seeds), len(PHRASES))
    for row, seed in enumerate(seeds):
        made = scene("train", seed)
        pixels = torch.frombuffer(bytearray(render(made).tobytes()), dtype=torch.uint8)
        features.append(clip.vision_model(normalise(pixels.view(1, SIDE, SIDE, 3))).pooler_output)
        for index in made.visible():
            thing = made.things[index]
            true[row, PHRASES.index(f"{thing.color} {thing.kind}")] = 1
    return torch.cat(features), true


def pair(
    clip: CLIPModel, scenes: int, steps: int, log: Callable[[str], None], batch: int = 64, lr: float = 2e-3
) -> None:
    """Train the text tower and both projections in place, with sigmoid losses of scenes and phrases."""
    features, true = seen(clip, range(500_000, 500_000 + scenes))
    words = clip_tokenizer()
    learned = [*clip.text_model.parameters(), *clip.text_projection.parameters()]
    learned += [*clip.visual_projection.parameters(), clip.logit_scale]
    offset = torch.nn.Parameter(torch.tensor(-2.0))
    optimiser = torch.optim.AdamW([*learned, offset], lr=lr, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    for step in range(steps):
        rng = torch.Generator().manual_seed(step)
        rows = torch.randint(len(features), (batch,), generator=rng)
        said = [phrase_said(phrase, rng) for phrase in PHRASES]
        ids = words(said, padding=True, return_tensors="pt")
        texts = clip.text_projection(
            clip.text_model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).pooler_output
        )
        images = clip.visual_projection(features[rows])
        logits = clip.logit_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T + offset
        loss = F.binary_cross_entropy_with_logits(logits, true[rows])
        loss.backward()
        optimiser.step()
        rates.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0:
            log(f"text tower {step}/{steps} loss {loss.item():.3f}")


def phrase_said(phrase: str, rng: torch.Generator) -> str:
    """Return a phrase alone or in a question about it, at random."""
    family = ASKING[int(torch.randint(len(ASKING), (1,), generator=rng))]
    forms = TEMPLATES[family]
    form = forms[int(torch.randint(len(forms), (1,), generator=rng))]
    return phrase if torch.rand(1, generator=rng) < 0.4 else form.format(x=phrase)


def save_clip(clip: CLIPModel, folder: Path) -> None:
    """Write the CLIP model into a folder in `folder`, in half precision."""
    clip.half().save_pretrained(folder / FOLDER)
    clip_tokenizer().save_pretrained(folder / FOLDER)

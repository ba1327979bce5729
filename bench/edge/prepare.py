"""Prepare a model: the parts of the chain in torch, and their export to a folder for a runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL.Image import Image

from bench.edge.bundle import EMBEDDINGS, META, RANDOM, Bundle, BundleSettings
from bench.edge.chain import EdgePrompt
from bench.edge.decoder import FixedDecoder
from bench.edge.parts import FixedCompressor, FixedVision
from bench.edge.precision import Floats, Precision
from bench.edge.protocol import Protocol
from bench.edge.reference import TorchBackend
from bench.edge.runtimes.onnx import export_compressor, export_vision
from compress.compressor.network import Compressor
from compress.files import digest_of
from compress.fingerprint import fingerprint
from compress.models.loading import MLLM
from compress.weights import parts_of

GraphWriter = Callable[[FixedDecoder, Protocol, Floats, Path], None]  # decoder, shapes, embeddings, folder


@dataclass(frozen=True)
class PreparedModel:
    """One model under one protocol and precision, in torch."""

    settings: BundleSettings
    reference: TorchBackend
    embeddings: Floats
    pixels: tuple[int, int]  # height and width of an image


def prepare(
    mllm: MLLM, compressor: Compressor, protocol: Protocol, text: int, precision: Precision, files: str, *,
    layers: int | None = None, random: bool = False,
) -> PreparedModel:  # fmt: skip
    """Quantise the decoder and fix all shapes: a prompt has at most `text` tokens besides the image.

    `layers` takes only the first decoder layers; `random` marks the weights as random. ValueError for models,
    widths and depths without fixed shapes.
    """
    vision, width = FixedVision(mllm), mllm.decoder.config.hidden_size
    if compressor.width != width:
        raise ValueError(
            f"the compressor is {compressor.width} wide and the decoder {width}: fixed shapes take a "
            f"compressor that was trained for this model"
        )
    if layers is not None and not 1 <= layers <= mllm.layers:
        raise ValueError(f"--depth-slice {layers}: the decoder has {mllm.layers} layers")
    held = replace(precision, cache=32 if precision.cache == 16 else precision.cache)
    decoder = FixedDecoder(mllm.decoder, mllm.head, held, layers)
    settings = BundleSettings(
        model=mllm.name,
        weights=RANDOM if random else weights_of(mllm, compressor),
        files=files,
        precision=precision.label,
        chunk=protocol.chunk,
        contexts=protocol.contexts,
        tokens=mllm.visual_tokens,
        text=text,
        reads_text=compressor.text,
        layers=len(decoder.layers),
        of_layers=mllm.layers,
        kv_heads=decoder.shape.kv_heads,
        head_dim=decoder.shape.head_dim,
    )
    side = mllm.model.config.vision_config.image_size
    parts = vision, FixedCompressor(compressor.eval())
    table = mllm.decoder.embed_tokens.weight.detach().float().numpy()
    return PreparedModel(settings, TorchBackend(settings, decoder, parts), table, (side, side))


def exported(work: PreparedModel, folder: Path, write: GraphWriter) -> Bundle:
    """Export to a folder, the decoder by `write`; a finished export is reused unless other code wrote it.

    ValueError if it was made with other settings.
    """
    settings = replace(work.settings, code=fingerprint(prepare, exported, write))
    if (folder / META).exists():
        found = Bundle.open(folder)
        differs = [
            f"{name} is {value} there and {vars(settings)[name]} here"
            for name, value in vars(found.settings).items()
            if value != vars(settings)[name] and name != "code"
        ]
        if differs:
            raise ValueError(
                f"{folder} was exported with other settings: {'; '.join(differs)}. Choose these, or another "
                f"folder"
            )
        if found.settings == settings:
            return found
        (folder / META).unlink()
    folder.mkdir(parents=True, exist_ok=True)
    vision, compressor = work.reference.parts
    export_vision(vision, work.pixels, folder)
    export_compressor(compressor, work.settings.length, folder)
    np.save(folder / EMBEDDINGS, work.embeddings)
    write(work.reference.decoder, work.settings.protocol, work.embeddings, folder)
    return Bundle(folder, settings).finish()


def question(mllm: MLLM, image: Image, text: str) -> EdgePrompt:
    """A prompt in the model's chat format."""
    inputs = mllm.prepare([image], [text])
    ids: list[int] = inputs["input_ids"][0].tolist()
    start = ids.index(mllm.image_token_id)
    pixels: Floats = inputs["pixel_values"].float().cpu().numpy()
    return EdgePrompt(pixels, ids[:start], ids[start + mllm.visual_tokens :])


def made_up(work: PreparedModel, words: int, seed: int = 0) -> EdgePrompt:
    """A prompt of random pixels and token ids, for random weights."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(len(work.embeddings), size=words).tolist()
    pixels = rng.standard_normal((1, 3, *work.pixels), dtype=np.float32)
    return EdgePrompt(pixels, ids[:1], ids[1:])


def weights_of(mllm: MLLM, compressor: Compressor) -> str:
    """A fingerprint of all weights: equal for equal chains."""
    return digest_of([mllm.fingerprint(), *parts_of(compressor.state_dict())])

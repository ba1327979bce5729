"""Applies a compression method to an unmodified transformers model, with hooks for a `with` block.

    with attach(model, FastV(), keep=64) as trace:
        model.generate(**inputs)
    trace.samples[0].entering          # visual tokens entering each decoder layer

Before every decoder layer where the method acts, a hook gathers the rows that are kept, so that this and all
deeper layers, and their caches, are in fact shorter. While decoding, each layer gets the mask and the
positions that fit its own cache. For a method that acts before the first layer only, this is done once for
the whole decoder; its layers then run unmodified and may have a static cache. A method that acts at VISION
also selects at that point, because the prompt is known there: the tower's tokens are stored until then, and
only the kept ones are projected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.attach.attention import window
from compress.attach.layout import MISCOUNTED, read_layout
from compress.attach.prefill import Prefill, Record
from compress.attach.tower import Arguments, Encoding, Modality, TowerSession
from compress.base import INPUT, VISION, ClsSelector, Positions, Selector, tower_layer
from compress.budget import Match, check_match, plan
from compress.keep import Keep, count_of, read_keep
from compress.models.caches import Key, cache_in, grown, mark, mark_of
from compress.models.loading import MLLM, Picture, adapt

ENCODERS: dict[Modality, str] = {"image": "get_image_features", "video": "get_video_features"}
_attached: WeakSet[nn.Module] = WeakSet()


@dataclass
class Trace:
    """Records of all prefills inside one `attach`, in order; one per image or video, and for each beam."""

    samples: list[Record] = field(default_factory=list)


@contextmanager
def attach(
    model: PreTrainedModel | MLLM,
    selector: Selector,
    keep: Keep | str | float = 64,
    *,
    match: Match = "equivalent",
    positions: Positions | None = None,
    count_flops: bool = False,
    turns: bool = False,
) -> Iterator[Trace]:
    """Compress the visual tokens of every sample that goes through `model` inside the block.

    `keep` is a count of visual tokens for every image, or a ratio that is resolved for each image by itself:
    "11.1%", "1/9", or a float between 0 and 1 (`compress.keep`). An image with fewer tokens than the count
    keeps all, except under a method that shortens the tower, which shortens every tile alike. A video has one
    budget for all its frames, like an image. `match` defines the cost that equals the budget: with
    "equivalent" the mean over decoder layers of the visual tokens that enter a layer, with "tokens" the
    visual tokens after the method's last stage.

    `generate` (greedy, sampling, beams) and plain calls of the model work, at batch 1 and with left padding;
    logits and caches are shorter if tokens were dropped. A cache can be continued after its own prefill, also
    if it was copied, cropped to text after the images, or had its rows moved. All text counts as prompt.
    Default of `positions`: as in the method's official code (M-RoPE always keeps its own). `count_flops`
    counts the FLOPs of the selection itself. Keeping all tokens leaves the model untouched, bit for bit. Only
    calls of the model itself are compressed, not of its submodules; under a method that acts at VISION the
    projector alone returns NaN. Functions from `torch.compile` run uncompiled inside the block, in the whole
    process, because compiled code does not notice hooks.

    With `turns` one call may add several tokens to a cache: another turn of a conversation, text only.
    Dropped tokens stay dropped; for a new image, or a selection by the new question, give the whole
    conversation. Without `turns`, several tokens are refused, since chunked prefill and assisted decoding
    look the same.

    ValueError for an unsupported model, an impossible budget, a second method on the same model, and for
    inputs that cannot be compressed: `labels`, `inputs_embeds`, masks that are not 2-D, right padding, static
    caches if layers would differ in length, chunked prefill, assisted decoding, caches from outside the
    block, `generate` without a cache, gradient checkpointing of layers that the method shortens.
    """
    mllm = adapt(model)
    check_match(match)
    if positions not in (None, "original", "compact"):
        raise ValueError(f"positions={positions!r}: choose 'original' or 'compact'")
    for layer in selector.tower_layers:
        try:
            tower_layer(layer, len(mllm.tower_layers))
        except ValueError as problem:
            raise ValueError(f"{type(selector).__name__} reads {problem}") from None
    numbering = "original" if mllm.mrope else positions or selector.positions
    session = _Session(mllm, selector, read_keep(keep), match, numbering, count_flops, turns)
    if mllm.model in _attached:
        raise ValueError(f"{mllm.name} has a method attached already: leave that `with` block first")
    _attached.add(mllm.model)
    try:
        session.hook()
        with torch.compiler.set_stance("force_eager"):
            yield session.trace
    finally:
        session.unhook()
        _attached.discard(mllm.model)


class _Session:
    """One method on one model: hooks that pass every prefill and every decoding step to a `Prefill`."""

    def __init__(
        self, mllm: MLLM, selector: Selector, keep: Keep, match: Match, positions: Positions,
        count_flops: bool, turns: bool,
    ):  # fmt: skip
        self.mllm, self.selector, self.count_flops, self.turns = mllm, selector, count_flops, turns
        self.keep, self.match, self.positions = keep, match, positions
        self.plans: dict[tuple[int, Match], dict[int, int]] = {}
        # A bad budget fails before any batch; whether a mean is in reach may depend on the image.
        self.most = mllm.visual_tokens
        if isinstance(keep, int) and mllm.free_size and (mllm.video_arguments or mllm.processor is None):
            self.most = max(self.most, keep)  # videos have no limit; images only with a processor
        self.schedule = self.plan(self.most, "tokens" if mllm.free_size else match)
        self.windowed = any(window(mllm.decoder, number) for number in range(mllm.layers))
        self.before_decoder = self._acts_before_decoder()
        left = self.schedule.get(VISION)
        self._check_tower(left)
        kernel = mllm.decoder.config._attn_implementation
        if selector.attends_by_size and kernel not in ("sdpa", "eager"):
            raise ValueError(
                f"{type(selector).__name__} adds the sizes of tokens to attention logits, which {kernel} "
                f"does not take: load {mllm.name} with attn_implementation='sdpa' or 'eager'"
            )
        if selector.reads_clip is not None:
            mllm.clip(selector.reads_clip)
        recurrent = [number for number in range(mllm.layers) if mllm.recurrent(number)]
        if recurrent and not self.before_decoder:
            raise ValueError(
                f"{type(selector).__name__} acts inside the decoder, and layer {recurrent[0]} of {mllm.name} "
                f"is recurrent: choose a method that acts at the decoder's input"
            )
        self.tower = TowerSession(mllm, selector, left, count_flops)
        self.trace = Trace()
        self.handles: list[Any] = []
        self.covered: list[tuple[Any, str, Any]] = []  # object, attribute, its own value before or None
        self.visuals: dict[Modality, Arguments] = {}  # arguments of visuals encoded for the next call
        self.prefills: WeakKeyDictionary[Key, Prefill] = WeakKeyDictionary()  # while their cache lives
        self.prefill: Prefill | None = None  # of the current call
        self.phase = ""  # "prefill" or "decode" while the model itself is being called
        self.signature = inspect.signature(mllm.model.forward)

    def _check_tower(self, left: int | None) -> None:
        """ValueError if the method needs a part of the tower that this model does not have."""
        mllm, selector = self.mllm, self.selector
        name, model = type(selector).__name__, f"{self.mllm.name} ({type(self.mllm).__name__})"
        received = selector.cls == "received"
        if received and not mllm.receives:
            why = "has CLS: leave cls=received out" if mllm.clip_tower else "has no attention to read"
            raise ValueError(f"{name} cannot replace CLS on {model}: its tower {why}")
        if not mllm.clip_tower and (left is not None or selector.tower_layers and not received):
            substitute = isinstance(selector, ClsSelector) and mllm.receives
            raise ValueError(
                f"{name} works on the tokens of a CLIP tower, which {model} does not have: choose "
                f"{'cls=received, or ' if substitute else ''}a method that acts at the decoder's input or "
                f"inside it"
            )

    def plan(self, tokens: int, match: Match) -> dict[int, int]:
        key = tokens, match
        if key not in self.plans:
            keep = self.keep
            if isinstance(keep, int) and tokens != self.most:
                keep = min(keep, tokens)
            self.plans[key] = plan(self.selector, tokens, keep, self.mllm.layers, match)
        return self.plans[key]

    def _acts_before_decoder(self) -> bool:
        """Whether all stages are at or before the decoder's input, whatever the image's size."""
        tokens = self.mllm.visual_tokens
        stages = self.selector.schedule(tokens, min(count_of(self.keep, tokens), tokens), self.mllm.layers)
        # Other kernels may interpret positions with gaps as packed sequences.
        plain = self.mllm.decoder.config._attn_implementation in ("sdpa", "eager")
        # The decoder itself would apply its window to the shorter sequence.
        ahead = self.windowed and self.positions == "original"
        # The decoder builds plain causal masks only.
        special = self.mllm.special_masks or self.selector.attends_by_size
        return plain and not ahead and not special and max(stages, default=INPUT) <= INPUT

    def hook(self) -> None:
        mllm, add = self.mllm, self.handles.append
        self._cover(mllm.model, "forward", self._calling)
        for kind, name in ENCODERS.items():
            if hasattr(mllm.model.base_model, name):
                self._cover(mllm.model.base_model, name, partial(self._noting, kind))
        self.tower.hook()
        if self.before_decoder:
            add(mllm.decoder.register_forward_pre_hook(self._decoder, with_kwargs=True))
            return
        add(mllm.decoder.register_forward_pre_hook(self._take_residuals, with_kwargs=True))
        for number, module in enumerate(mllm.decoder.layers):
            add(module.register_forward_pre_hook(partial(self._layer, number), with_kwargs=True))

    def _cover(self, owner: Any, name: str, around: Callable[[Any], Any]) -> None:
        """Wrap a method of this object with `around` until `unhook`, for calls that bypass module hooks."""
        self.covered.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, around(getattr(owner, name)))

    def _calling(self, forward: Any) -> Any:
        """Wrap the model's forward, which wrappers of a model call directly."""

        @wraps(forward)
        def calling(*args: Any, **kwargs: Any) -> Any:
            try:
                output = forward(*args, **self._begin(args, kwargs))
                self._end(output, self._named(args, kwargs))
            finally:
                self.phase, self.prefill = "", None
                self.tower.forget()
            return output

        return calling

    def _noting(self, kind: Modality, encode: Any) -> Any:
        """Record the arguments of visual encoders: `generate` may call them before it calls the model."""
        signature = inspect.signature(encode)

        @wraps(encode)
        def noting(*args: Any, **kwargs: Any) -> Any:
            if self.tower.kind is not None:  # a video encoder may call the image encoder
                return encode(*args, **kwargs)
            noted = signature.bind(*args, **kwargs).arguments
            if kind == "video" and "pixel_values" in noted:  # the argument's name in some releases
                noted["pixel_values_videos"] = noted.pop("pixel_values")
            self.visuals[kind] = noted
            self.tower.kind = kind
            try:
                return encode(*args, **kwargs)
            finally:
                self.tower.kind = None

        return noting

    def unhook(self) -> None:
        self.tower.unhook()
        for handle in self.handles:
            handle.remove()
        for owner, name, own in reversed(self.covered):
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    # The model's own call -----------------------------------------------------------------------------------

    def _named(self, args: tuple, kwargs: Arguments) -> Arguments:
        given = self.signature.bind_partial(*args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))  # names that this release accepts but does not list
        return given

    def _begin(self, args: tuple, kwargs: Arguments) -> Arguments:
        """The keyword arguments to call the model with, in place of `kwargs`."""
        given = self._named(args, kwargs)
        cache, ids = cache_in(given), given.get("input_ids")
        if getattr(cache, "is_compileable", False):
            self._check_static(given.get("attention_mask"))
        if given.get("labels") is not None:
            raise ValueError(
                "labels do not line up with a shortened sequence: compute the loss from the last logits"
            )
        if ids is None:
            raise ValueError(
                "give input_ids and pixel_values: inputs_embeds do not say which tokens are visual"
            )
        self._check_layers()
        if cache is None or cache.get_seq_length() == 0:
            if given.get("use_cache") is False and given.get("mm_encoder_outputs"):
                raise ValueError(
                    "use_cache=False: generate would read the whole prompt, and a method choose, again for "
                    "every token; leave use_cache at True"
                )
            self._check_videos(ids, given)
            self.prefill = self._prefill(ids, given)
            self.phase = "prefill"
            return kwargs
        self.prefill, before = self._known(cache, len(ids))
        count = ids.shape[1]
        if count != 1 and not self.turns:
            raise ValueError(
                "a compressed cache grows by one token at a time: no chunked prefill, no assisted decoding; "
                "for another turn of a conversation, turns=True"
            )
        if count != 1:  # a single token may be any that the model generated
            self._check_videos(ids, given)
            self._check_turn(ids, given.get("attention_mask"))
        if given.get("position_ids") is None:
            # The model would use the length of the first layer's cache, which may be shorter.
            positions = self.prefill.next_positions(before, count)
            kwargs = {**kwargs, "position_ids": positions.to(ids)}
        self.prefill.next_step(before + count)
        self.phase = "decode"
        return kwargs

    def _known(self, cache: Any, batch: int) -> tuple[Prefill, int]:
        """The prefill of a cache, for the cache's rows, and the number of tokens cached after it."""
        own = mark_of(cache)
        prefill = None if own is None else self.prefills.get(own.key)
        if own is None or prefill is None:
            raise ValueError(
                "this cache was not filled inside this `with` block: give the whole prompt and an empty "
                "cache, or continue inside the block that filled it"
            )
        rows = [0] * batch if own.rows is None else own.rows.tolist()
        if len(rows) != batch:
            raise ValueError(f"input_ids have {batch} rows, and the cache has {len(rows)}: give one for each")
        before, prefill = grown(cache, own), prefill.of_rows(rows)
        if -before > prefill.untouched.behind:
            raise ValueError(
                f"the cache was cropped by {-before} tokens of the prompt, of which only the last "
                f"{prefill.untouched.behind} come after all images: give the whole prompt again"
            )
        return prefill, before

    def _check_layers(self) -> None:
        shortened = [] if self.before_decoder else list(self.mllm.decoder.layers)
        shortened += self.tower.merging_layers
        if any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in shortened):
            raise ValueError(
                f"gradient checkpointing runs layers again when the choice of {type(self.selector).__name__} "
                f"is over: call model.gradient_checkpointing_disable() first"
            )

    def _check_videos(self, ids: Tensor, given: Arguments) -> None:
        if self.mllm.video_arguments:
            return
        video, kinds = getattr(self.mllm.model.config, "video_token_id", None), given.get("mm_token_type_ids")
        named = [] if video is None else [(ids == video).any()]
        named += [] if kinds is None else [(kinds == 2).any()]  # frames may use the placeholder of images
        if given.get("pixel_values_videos") is not None or any(named):
            raise ValueError(
                f"videos of {self.mllm.name} ({type(self.mllm).__name__}) are not compressed: give their "
                f"frames as images, or no method"
            )

    def _check_turn(self, ids: Tensor, mask: Tensor | None) -> None:
        if self.mllm.placeholders(ids).any():
            raise ValueError(
                "another turn on a compressed cache is text only: for a new image give the whole conversation"
            )
        if mask is not None and not mask[:, -ids.shape[1] :].all():
            raise ValueError("another turn on a compressed cache has no padding: give turns of one length")

    def _check_static(self, mask: Any) -> None:
        if not self.before_decoder:
            raise ValueError(
                f"a static cache has one length for all layers, and {type(self.selector).__name__} drops "
                f"tokens between them: use the default, a dynamic cache"
            )
        if mask is not None and getattr(mask, "ndim", 0) != 2:
            raise ValueError(
                "generate has made masks of the untouched length for a static cache: call the model itself, "
                "or use the default, a dynamic cache"
            )

    def _prefill(self, ids: Tensor, given: Arguments) -> Prefill:
        mllm = self.mllm
        host = ids.cpu().numpy()  # to synchronise with the device once, not for every number
        visual = mllm.placeholders(host)
        placeholders = visual.sum(1).tolist()
        noted = {name: value for kind in self.visuals.values() for name, value in kind.items()}
        pictures = mllm.visuals({**noted, **given, "input_ids": ids}, host) if any(placeholders) else []
        self.visuals = {}
        known = mllm.processor is not None and not all(picture.video for picture in pictures)
        if known and self.most > mllm.visual_tokens:  # the error gives the limit
            plan(self.selector, mllm.visual_tokens, self.keep, mllm.layers, "tokens")
        tokens = sum(map(len, pictures))
        if sum(placeholders) < tokens:
            raise ValueError(
                f"input_ids hold {sum(placeholders)} of the {tokens} visual tokens of the images: give "
                f"every image that the prompt names, once, and the whole prompt in one call, without "
                f"prefill_chunk_size{MISCOUNTED}"
            )
        beams = sum(placeholders) // max(1, tokens)
        shown = given.get("pixel_values") is not None or given.get("pixel_values_videos") is not None
        if beams > 1 and shown:  # beams only share images that were encoded earlier
            raise ValueError(
                f"input_ids hold {sum(placeholders)} visual tokens, and the images have {tokens}: give every "
                f"image that the prompts name, once{MISCOUNTED}"
            )
        shared = _for_beams(pictures, placeholders[::beams], beams) if beams else []
        runs = [picture.runs or (len(picture),) for picture in shared]
        layout = read_layout(visual, given.get("attention_mask"), runs, ids.device)
        found = dict(zip(layout.places, shared, strict=True))
        schedules = {place: self.plan(len(picture), self.match) for place, picture in found.items()}
        return Prefill(
            mllm, self.selector, self.positions, ids, layout, found, schedules, self.count_flops,
            aside=self.tower.chooses,
        )  # fmt: skip

    def _encoding(self, prefill: Prefill) -> Encoding | None:
        """The tower's encoding of the images and videos of these prompts."""
        videos = {picture.video for picture in prefill.selections.pictures.values()}
        kinds: dict[Modality, bool] = {"image": False, "video": True}
        return self.tower.encoding_of(*(kind for kind, video in kinds.items() if video in videos))

    def _decoder(self, module: nn.Module, args: tuple, kwargs: Arguments) -> tuple[tuple, Arguments] | None:
        prefill = self.prefill
        if not self.phase or prefill is None:
            return None
        if self.phase == "decode":
            return args, prefill.decode_all(kwargs)
        prefill.selections.signals.receive(self._encoding(prefill))
        prefill.take_residuals(kwargs)
        return args, prefill.enter_all(kwargs)

    def _take_residuals(
        self, module: nn.Module, args: tuple, kwargs: Arguments
    ) -> tuple[tuple, Arguments] | None:
        if self.phase != "prefill" or self.prefill is None:
            return None
        return args, self.prefill.take_residuals(kwargs)

    def _layer(
        self, number: int, layer: nn.Module, args: tuple, kwargs: Arguments
    ) -> tuple[tuple, Arguments] | None:
        prefill, (hidden, *others) = self.prefill, args
        if not self.phase or prefill is None:
            return None
        if self.phase == "decode":
            return args, prefill.decode(number, hidden, kwargs)
        if number == 0:
            prefill.selections.signals.receive(self._encoding(prefill))
        hidden, kwargs = prefill.enter(number, hidden, kwargs)
        return (hidden, *others), kwargs

    def _end(self, output: Any, given: Arguments) -> None:
        """Record the completed prefill in the trace, and mark its cache as filled by it."""
        prefill = self.prefill
        if self.phase != "prefill" or prefill is None:
            return
        prefill.check()
        first, cache = self.selector.cut_caches_from(self.mllm.layers), cache_in(output)
        if first is not None and cache is not None:
            prefill.cut_caches(cache, first)
        for sample in range(len(prefill.ids)):
            self.trace.samples += prefill.records(sample)
        prefill.finish(given)
        if cache is not None:
            key = Key()
            self.prefills[key] = prefill
            mark(cache, key, torch.arange(len(prefill.ids), device=prefill.ids.device))


def _for_beams(pictures: Iterable[Picture], placeholders: Sequence[int], beams: int) -> list[Picture]:
    """The images of every row: the beams of a prompt are adjacent and share its images.

    `placeholders` counts those of each prompt; the images of a prompt are contiguous.
    """
    left, shared = iter(pictures), list[Picture]()
    for count in placeholders:
        own: list[Picture] = []
        while sum(map(len, own)) < count and (picture := next(left, None)) is not None:
            own.append(picture)
        shared += own * beams
    return shared

"""Time labelling: seconds per sample, compared with the naive loop and with the peak of the device.

    python -m bench.speed.labelling                     # the micro model
    python -m bench.speed.labelling --shape llava-1.5-7b --device cuda --dtype bfloat16 --naive 8
    python -m bench.speed.labelling --shape llava-1.5-7b --depth-slice 1 -n 1 --rounds 1 --naive 2

The naive loop follows the paper's description literally: the whole model, image included, runs once per
candidate, with dropped tokens masked out; the image is prepared beforehand. A second loop runs the decoder
alone, with the image embedded once. Both are timed on a few candidates of the first sample. The times are
multiplied by the number of evaluations of the search plus one for all tokens. The sizes of --together take
turns in every round. The peak is the rate of a matrix product in the same run and precision, with the fastest
kernel that labelling uses. A second table shows the time per stage for the first size; on a GPU these stages
are synchronised, which they normally are not. On a CPU, seconds are processor time.

A sample of --shape has embeddings near random words, between random words, after a chat prefix that is the
same for all samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.console import model_options, option, progress, show_table, whole_numbers
from bench.evaluation.history import put_json
from bench.evaluation.opening import load_model, shaped
from bench.latency.clock import Clock, clock_of
from bench.latency.measure import roof
from bench.tasks.mixture import training_samples
from compress.attach.flops import FlopCount
from compress.keep import count_of
from compress.labels import Label, LabelConfig, Labeller, forward
from compress.labels.fitness import AnswerLosses
from compress.labels.kinds import Problem
from compress.memory import keep_freed
from compress.models.loading import MLLM, Embedded
from compress.samples import Sample

if TYPE_CHECKING:
    from compress.models.loading import Anyres

SYSTEM, QUESTION, RESPONSE = 35, 20, 12  # text tokens: start of a chat, question, answer
THINGS = 100  # words near which visual tokens are generated, so that there are groups
STAGES = {
    "embed image and text": (MLLM, "embed"),
    "group": (Problem, "groups"),
    "prefix, and all tokens": (AnswerLosses, "__init__"),
    "candidates": (AnswerLosses, "launch"),
}


@dataclass(frozen=True)
class LabellingTimes:
    """Seconds of one round."""

    packed: dict[int, float]  # samples together -> seconds per sample
    decoder: float | None  # naive loop over the decoder, seconds per candidate
    model: float | None  # the same over the whole model


@torch.inference_mode()
def decoder_loop(mllm: MLLM, embedded: Embedded, kept: np.ndarray[Any, Any]) -> None:
    """Run the whole sequence through the decoder per candidate, with dropped tokens masked and all logits."""
    for indices in kept:
        mask = _mask(embedded, indices)
        positions = embedded.positions[..., None, :]
        hidden = mllm.decoder(
            inputs_embeds=embedded.embeds[None], attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        answers = len(embedded.response)
        logits = mllm.head(hidden)[0, -answers - 1 : -1]
        F.cross_entropy(logits.float(), embedded.response).item()


@torch.inference_mode()
def model_loop(mllm: MLLM, inputs: Any, embedded: Embedded, kept: np.ndarray[Any, Any]) -> None:
    """Do the same with the whole model, image included, as `model(**inputs, labels=...)` computes it."""
    ids = torch.cat([inputs["input_ids"][0], embedded.response])
    labels = torch.full_like(ids, -100)
    labels[embedded.prompt :] = embedded.response
    images = {name: inputs[name] for name in mllm.image_arguments}
    for indices in kept:
        mask = _mask(embedded, indices)
        mllm.model(input_ids=ids[None], attention_mask=mask, labels=labels[None], **images).loss.item()


def _mask(embedded: Embedded, indices: np.ndarray[Any, Any]) -> Tensor:
    mask = torch.ones(len(embedded.embeds), dtype=torch.long, device=embedded.embeds.device)
    mask[embedded.visual] = 0
    mask[embedded.visual[torch.from_numpy(indices).to(mask.device)]] = 1
    return mask[None]


@click.command()
@option("--shape", help="Published architecture to build with random weights, instead of --model.")
@option("--depth-slice", type=int, help="With --shape: number of decoder layers to build. Default: all.")
@option("-n", "count", default=16, type=click.IntRange(1), help="Number of samples.")
@option(
    "--together",
    "packs",
    default="1,16",
    callback=whole_numbers,
    help="Numbers of samples whose candidates share batches, separated by commas.",
)
@option("--rows", type=click.IntRange(1), help="Decoder rows per batch. Default: chosen for the device.")
@option("--keep", type=click.IntRange(1), help="Visual tokens in a label. Default: a ninth of them.")
@option("--evaluations", default=408, type=click.IntRange(1), help="Candidates evaluated per sample.")
@option("--naive", default=12, type=click.IntRange(0), help="Candidates timed in the naive loops.")
@option("--without-onednn", is_flag=True, help="Use torch's own choice of CPU kernels.")
@option("--rounds", default=3, type=click.IntRange(1), help="Timed rounds.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
@model_options
def main(
    shape: str | None, depth_slice: int | None, count: int, packs: list[int], rows: int | None,
    keep: int | None, evaluations: int, naive: int, without_onednn: bool, rounds: int, out: Path | None,
    model: str, device: str, dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Time labelling; medians over the rounds."""
    torch.set_num_threads(1)  # as in every worker, like the next line
    keep_freed()
    if without_onednn:
        click.get_current_context().with_resource(patch.object(forward, "ONEDNN", None))
    mllm = shaped(shape, device, dtype, depth_slice) if shape else load_model(model, device, dtype, anyres)
    samples = [  # rendered now, as if read from files
        replace(one, picture=one.image_at(mllm.image_side)) for one in training_samples(count)
    ]
    if shape:
        _embed_noise(mllm, samples)
    clock = clock_of(mllm.model.device, "processor" if mllm.model.device.type == "cpu" else "wall")
    config = LabelConfig(keep=keep, evaluations=evaluations)
    labeller = Labeller(mllm, config, rows=rows)
    few = samples[: max(1, min(count, 4))]
    made = sum(one.evaluations for one in _labelled(labeller, few, len(few))) / len(few)
    flops = _by_stage(_operations, lambda: _labelled(labeller, few, packs[0]))
    spent = sum(flops.values()) / len(few)
    found: list[LabellingTimes] = []
    with progress("measure", "rounds") as report:
        for number in range(rounds):
            found.append(_round(mllm, labeller, samples, packs, naive, shape is None, clock))
            report(number + 1, rounds)
    fastest = max(_peaks(mllm.model.device, mllm.model.dtype, clock))
    seconds = _by_stage(lambda work: _clocked(work, clock), lambda: _labelled(labeller, few, packs[0]))
    table, figures = _summary(found, packs, made, spent, fastest)
    show_table(
        ["labelling", "s/sample", "against naive: model", "naive: decoder", "GFLOP/s", "of peak, %"],
        table,
        f"{mllm.name}, {count} samples, {made:.0f} evaluations each, {spent / 1e9:.1f} GFLOP a sample, "
        f"peak {fastest / 1e9:.0f} GFLOP/s, {device}, {dtype}",
    )
    show_table(
        ["stage", "ms", "share, %", "GFLOP", "GFLOP/s", "of peak, %"],
        [
            [
                stage, f"{1000 * taken / len(few):.1f}", f"{100 * taken / sum(seconds.values()):.0f}",
                f"{flops[stage] / 1e9 / len(few):.2f}", f"{flops[stage] / taken / 1e9:.1f}",
                f"{100 * flops[stage] / taken / fastest:.0f}",
            ]
            for stage, taken in seconds.items()
        ],
        f"of a sample, {packs[0]} together",
    )  # fmt: skip
    figures["stages"] = {
        stage: {"seconds": taken / len(few), "flops": flops[stage] / len(few)}
        for stage, taken in seconds.items()
    }
    if device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        figures["memory_gib"] = memory
        click.echo(f"most memory at once: {memory:.1f} GiB")
    if out:
        put_json(out, figures)


def _round(
    mllm: MLLM, labeller: Labeller, samples: Sequence[Sample], packs: list[int], naive: int, whole: bool,
    clock: Clock,
) -> LabellingTimes:  # fmt: skip
    def labelling(size: int) -> float:
        return _seconds(lambda: _labelled(labeller, samples, size), clock) / len(samples)

    packed = {size: labelling(size) for size in packs}
    if not naive:
        return LabellingTimes(packed, None, None)
    sample = samples[0]
    embedded = mllm.embed(sample.image, sample.question, sample.answers[0])
    rng = np.random.default_rng(0)
    keep = count_of(labeller.about["keep"], len(embedded.visual))
    kept = np.stack([np.sort(rng.choice(len(embedded.visual), keep, replace=False)) for _ in range(naive)])
    decoder = _seconds(lambda: decoder_loop(mllm, embedded, kept), clock) / naive
    if not whole:  # generated samples have no image
        return LabellingTimes(packed, decoder, None)
    inputs = mllm.prepare([sample.image], [sample.question])
    return LabellingTimes(
        packed, decoder, _seconds(lambda: model_loop(mllm, inputs, embedded, kept), clock) / naive
    )


def _labelled(labeller: Labeller, samples: Sequence[Sample], size: int) -> list[Label]:
    labels: list[Label] = []
    for start in range(0, len(samples), size):
        for made in labeller.many(samples[start : start + size]):
            if isinstance(made, ValueError):
                raise made
            labels.append(made)
    return labels


def _summary(
    found: Sequence[LabellingTimes], packs: list[int], made: float, spent: float, fastest: float
) -> tuple[list[list[str]], dict[str, Any]]:
    rows: list[list[str]] = []
    figures: dict[str, Any] = {"evaluations": made, "flops_per_sample": spent, "peak": fastest}
    loops = {
        "naive, whole model": [one.model and (made + 1) * one.model for one in found],
        "naive, decoder": [one.decoder and (made + 1) * one.decoder for one in found],
    }
    for name, taken in loops.items():
        if None not in taken:
            rows.append([name, f"{median(filter(None, taken)):.2f}", "", "", "", ""])
            figures[name] = taken
    for size in packs:
        each_took = [one.packed[size] for one in found]
        ratios = [
            [loop / ours for loop, ours in zip(loops[name], each_took, strict=True) if loop is not None]
            for name in loops
        ]
        speed = spent / median(each_took)
        rows.append(
            [
                f"{size} together", f"{median(each_took):.3f}",
                *(f"{median(each):.1f}" if each else "" for each in ratios),
                f"{speed / 1e9:.1f}", f"{100 * speed / fastest:.0f}",
            ]
        )  # fmt: skip
        figures[f"{size} together"] = {"seconds": each_took, "ratios": ratios}
    return rows, figures


def _peaks(device: torch.device, dtype: torch.dtype, clock: Clock) -> Iterator[float]:
    """Operations per second of a matrix product, with each kernel that labelling may use."""
    kernels: list[Callable[[Tensor, Tensor], Tensor]] = [torch.matmul]
    if forward.ONEDNN is not None and device.type == "cpu" and dtype == torch.float32:
        kernels.append(lambda left, right: forward.ONEDNN(left, right, None, "none", [], ""))
    for kernel in kernels:
        found = roof(device, dtype, clock, kernel)
        if found is None:
            raise click.ClickException("there is not enough memory for a matrix product that shows the peak")
        yield found


def _embed_noise(mllm: MLLM, samples: Sequence[Sample]) -> None:
    """Make a model with random weights embed each of `samples` as different noise."""
    numbers = {sample.image_at(mllm.image_side).tobytes(): number for number, sample in enumerate(samples)}

    def embed(image: Any, question: str, response: str | None = None) -> Embedded:
        return noise(mllm, numbers[image.tobytes()])

    setattr(mllm, "embed", embed)  # noqa: B010


def noise(mllm: MLLM, number: int) -> Embedded:
    """Random words around the model's visual tokens, each of which is near one of THINGS words.

    Questions differ in length.
    """
    weights, visual = mllm.decoder.embed_tokens.weight.detach(), mllm.visual_tokens
    draw = torch.Generator().manual_seed(number)
    prompt = SYSTEM + visual + QUESTION - 8 + number * 5 % 17
    ids = torch.randint(weights.shape[0], (prompt + RESPONSE,), generator=draw)
    ids[:SYSTEM] = torch.arange(SYSTEM)  # all have the same beginning
    rows = weights[ids.to(weights.device)].clone()
    things = torch.randperm(weights.shape[0], generator=draw)[:THINGS]
    shown = weights[things[torch.randint(len(things), (visual,), generator=draw)].to(weights.device)]
    blur = torch.randn(shown.shape, generator=draw) * float(weights.float().std()) / 2
    rows[SYSTEM : SYSTEM + visual] = shown + blur.to(rows)
    positions = torch.arange(len(ids), device=rows.device)
    return Embedded(
        embeds=rows,
        visual=positions[SYSTEM : SYSTEM + visual],
        prompt=prompt,
        response=ids[-RESPONSE:].to(rows.device),
        grid=mllm.grid,
        positions=positions.expand(3, -1) if mllm.mrope else positions,
    )


def _by_stage(
    meter: Callable[[Callable[[], Any]], tuple[Any, float]], work: Callable[[], Any]
) -> dict[str, float]:
    """The amount that `meter` measures for each stage of `work`, and for the rest of it."""
    spent: dict[str, float] = defaultdict(float)

    def metered(stage: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def part(*args: Any, **kwargs: Any) -> Any:
            result, amount = meter(lambda: whole(*args, **kwargs))
            spent[stage] += amount
            return result

        return part

    with ExitStack() as stages:
        for stage, (owner, name) in STAGES.items():
            stages.enter_context(patch.object(owner, name, metered(stage, getattr(owner, name))))
        _, total = meter(work)
    spent["search, and the rest"] = total - sum(spent.values())
    return spent


def _operations(work: Callable[[], Any]) -> tuple[Any, float]:
    with FlopCount() as flops:
        result = work()
    return result, flops.total


def _clocked(work: Callable[[], Any], clock: Clock) -> tuple[Any, float]:
    result: list[Any] = []
    taken = _seconds(lambda: result.append(work()), clock)
    return result[0], taken


def _seconds(work: Callable[[], Any], clock: Clock) -> float:
    clock.wait()
    start = clock.mark()
    work()
    end = clock.mark()
    clock.wait()
    return clock.seconds(start, end)


if __name__ == "__main__":
    main()

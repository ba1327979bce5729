"""Samples for display: small pictures, and the position of each visual token on them.

    folder/samples/gqa.parquet

A report is made from these files and the cells, without model and benchmark.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from statistics import pvariance
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from pydantic import Field, TypeAdapter, ValidationError

from bench.evaluation.comparison import Comparison
from compress.documents import Positive, StoredCount, regular_file, said
from compress.files import replacing
from compress.images import before_padding, open_rgb
from compress.models.loading import MLLM, Picture
from compress.samples import Sample
from compress.video import Video
from evosearch.registry import cut

LIMIT = 200  # samples per task
PIXELS = 288  # the longest side of their pictures
FILM = 144  # the longest side of a frame of a video
PANEL = ("start", "rows", "columns", "stride")
CELL = pa.int32()


def _schema(panel: Sequence[str]) -> pa.Schema:
    return pa.schema(
        [
            pa.field("sample", pa.string(), nullable=False),
            pa.field("family", pa.string(), nullable=False),
            pa.field("question", pa.string(), nullable=False),
            pa.field("answers", pa.list_(pa.string()), nullable=False),
            pa.field("picture", pa.binary(), nullable=False),  # JPEG
            pa.field("panels", pa.list_(pa.struct([(name, CELL) for name in panel])), nullable=False),
        ]
    )


ROW, BEFORE_VIDEOS = _schema((*PANEL, "frames", "across")), _schema(PANEL)


@dataclass(frozen=True)
class Panel:
    """Tokens in rows and columns over the picture; `stride` is `columns`, or one more with newline tokens.

    A video has one such grid for each of its `frames`, with `across` frames per line of the picture.
    """

    start: StoredCount
    rows: Positive
    columns: Positive
    stride: Positive
    frames: Positive = 1
    across: Positive = 1

    @property
    def stop(self) -> int:
        return self.start + self.frames * self.rows * self.stride

    @property
    def grid(self) -> tuple[int, int]:
        """Rows x columns of cells in the picture."""
        return self.rows * -(-self.frames // self.across), self.columns * self.across

    def places(self, tokens: Collection[int]) -> list[int]:
        """Cells of this panel, row by row, covered by the tokens; skips newlines and other panels' tokens."""
        inside = (
            divmod(token - self.start, self.stride) for token in tokens if self.start <= token < self.stop
        )
        found = []
        for line, column in inside:
            frame, row = divmod(line, self.rows)
            if column < self.columns:
                below, beside = divmod(frame, self.across)
                wide = self.columns * self.across
                found.append((below * self.rows + row) * wide + beside * self.columns + column)
        return found


@dataclass(frozen=True)
class SampleImage:
    """A sample with the picture that its tokens cover; the picture of a video is a film strip."""

    sample: str
    family: str
    question: str
    answers: tuple[str, ...]
    picture: bytes  # JPEG
    # An image in tiles has two panels: the thumbnail, and the crops stitched together.
    panels: Annotated[tuple[Panel, ...], Field(min_length=1, max_length=2)]

    @property
    def image(self) -> Image.Image:
        return Image.open(BytesIO(self.picture)).convert("RGB")

    @property
    def tokens(self) -> int:
        """Number of visual tokens of the untouched image."""
        return self.panels[-1].stop


SHOWN = TypeAdapter[SampleImage](SampleImage)
Gallery = Mapping[str, Mapping[str, SampleImage]]  # task -> id -> sample, in the benchmark's order


def gallery(comparison: Comparison, mllm: MLLM, limit: int = LIMIT) -> Gallery:
    """The samples of each task on which the runs differ most."""
    found = {}
    for task in comparison.tasks:
        samples = comparison.samples[task]
        credits = [one.correct for (_, _, name), one in comparison.outcomes.items() if name == task]
        chosen = telling([one.picture_digest for one in samples], list(zip(*credits, strict=True)), limit)
        found[task] = {samples[place].id: show(samples[place], mllm) for place in chosen}
    return found


def telling(pictures: Sequence[Hashable], credits: Sequence[Sequence[float]], limit: int) -> list[int]:
    """Indices of the samples whose credit varies most; a picture is repeated only when no others are left."""
    ranked = sorted(range(len(pictures)), key=lambda place: -pvariance(credits[place]))
    seen: set[Hashable] = set()
    fresh: list[int] = []
    again: list[int] = []
    for place in ranked:
        (again if pictures[place] in seen else fresh).append(place)
        seen.add(pictures[place])
    return sorted([*fresh, *again][:limit])


def show(sample: Sample, mllm: MLLM) -> SampleImage:
    """The sample with the picture that the model's tokens cover."""
    visual = sample.visual_at(mllm.image_side)
    (picture,) = mllm.visuals(mllm.prepare([visual], [sample.question]))
    layout = panels(picture)
    if isinstance(visual, Video):
        cropped = bool(getattr(mllm.processor.image_processor, "do_center_crop", False))
        drawn = film_strip(visual, layout[0], cropped)
    else:
        drawn = covered(visual, layout)
    return SampleImage(sample.id, sample.family, sample.question, sample.answers, jpeg(drawn), layout)


def panels(picture: Picture) -> tuple[Panel, ...]:
    """The panels of an image: the positions of its tokens on the picture.

    A single tile is a grid, and so is each frame of a video. The first of several tiles is the whole image;
    the others are stitched together, row by row, with or without a newline after each row.
    """
    rows, columns = picture.grid
    if picture.video:
        return (Panel(0, rows, columns, columns, picture.tiles, 4 if picture.tiles <= 16 else 8),)
    first = Panel(0, rows, columns, columns)
    if picture.tiles == 1:
        return (first,)
    newlines = (picture.tile < 0).nonzero()[:, 0].tolist()
    if newlines:
        stride = newlines[0] - first.stop + 1
        return first, Panel(first.stop, len(newlines), stride - 1, stride)
    side = round((picture.tiles - 1) ** 0.5)
    return first, Panel(first.stop, rows * side, columns * side, columns * side)


def covered(image: Image.Image, layout: Sequence[Panel]) -> Image.Image:
    """The part of the image that the tokens cover; its longer side is at most PIXELS.

    A single tile is a centre crop to the grid's shape, as in CLIP's processors. An image in tiles is shown
    whole, padded to a square if no newlines end its rows (`LlavaNext.fix_grid`).
    """
    last, whole = layout[-1], image.convert("RGB")
    longest = min(PIXELS, max(image.size))
    cell = longest / max(last.rows, last.columns)
    size = max(1, round(last.columns * cell)), max(1, round(last.rows * cell))
    if len(layout) == 1:
        return ImageOps.fit(whole, size, Image.Resampling.LANCZOS)
    if last.stride == last.columns:
        whole = before_padding(whole)
        whole = ImageOps.pad(whole, (max(whole.size), max(whole.size)))
    return whole.resize(size, Image.Resampling.LANCZOS)


def film_strip(video: Video, panel: Panel, cropped: bool = False) -> Image.Image:
    """The frames in lines of `across`, as their tokens cover them; the first of several frames per token.

    A processor resizes a frame to its grid, or crops it (`cropped`).
    """
    each = -(-len(video.frames) // panel.frames)
    cell = min(FILM, max(video.size)) / max(panel.rows, panel.columns)
    width, height = max(1, round(panel.columns * cell)), max(1, round(panel.rows * cell))
    lines = -(-panel.frames // panel.across)
    strip = Image.new("RGB", (width * panel.across, height * lines), "white")
    for number in range(panel.frames):
        frame = video.frames[min(number * each, len(video.frames) - 1)]
        fit = ImageOps.fit if cropped else Image.Image.resize
        below, beside = divmod(number, panel.across)
        strip.paste(fit(frame, (width, height), Image.Resampling.LANCZOS), (beside * width, below * height))
    return strip


def jpeg(image: Image.Image) -> bytes:
    """The image as a JPEG file; small images get a higher quality."""
    small = max(image.size) <= PIXELS // 2
    file = BytesIO()
    image.save(file, "JPEG", quality=92 if small else 78, subsampling=0 if small else 2, optimize=True)
    return file.getvalue()


def save_gallery(shown: Gallery, folder: Path) -> None:
    """Write one file per task into a comparison's folder."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    for task, samples in shown.items():
        rows = [asdict(one) for one in samples.values()]
        with replacing(folder / "samples" / f"{task}.parquet") as part, part.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(rows, ROW), file)


def read_gallery(folder: Path) -> Gallery:
    """The gallery in a comparison's folder, empty if there are no files; ValueError for other files."""
    found = {}
    for path in sorted((folder / "samples").glob("*.parquet")):
        try:
            table = pq.read_table(regular_file(path), partitioning=None)
        except (OSError, pa.ArrowException) as problem:
            why = cut(problem, 200)
            raise ValueError(
                f"{path}: unreadable ({why}); delete it, and compare again: no cell is computed twice"
            ) from problem
        if not any(table.schema.equals(form) for form in (ROW, BEFORE_VIDEOS)):
            raise ValueError(f"{path}: no samples of a comparison; results need a folder of their own")
        shown = [_shown(row, f"{path}, row {place}") for place, row in enumerate(table.to_pylist())]
        found[path.stem] = {one.sample: one for one in shown}
    return found


def _shown(row: dict[str, Any], where: str) -> SampleImage:
    try:
        shown = SHOWN.validate_python(row)
    except ValidationError as problem:
        raise ValueError(f"{where}: {said(problem)}") from problem
    open_rgb(shown.picture, f"{where}: picture")
    return shown


def joined(galleries: Sequence[Gallery]) -> Gallery:
    """All samples of several galleries; the first gallery has priority."""
    found: dict[str, dict[str, SampleImage]] = {}
    for one in galleries:
        for task, samples in one.items():
            found[task] = {**samples, **found.get(task, {})}
    return found

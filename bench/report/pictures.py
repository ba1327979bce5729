"""Pictures of kept tokens, groups, searches and comparisons, for `save` to write."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from colorsys import hsv_to_rgb
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps

from compress.files import replacing
from compress.keep import Ratio, count_of
from evosearch import Grouping

if TYPE_CHECKING:
    from deap.tools import Logbook
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.evaluation.comparison import Comparison
    from bench.evaluation.evaluate import Stage
    from bench.report.gallery import Panel, SampleImage

GridShape = tuple[int, int]  # rows x columns
Box = tuple[int, int, int, int]

INK, MUTED, HAIR = "#1c1b19", "#6b6860", "#dedbd2"
OUTLINE, MERGED, SHADE = (255, 255, 255), (255, 176, 0), (20, 20, 22)
LINES = (
    "#0b6e5f",
    "#d55e00",
    "#0072b2",
    "#cc79a7",
    "#8a6d00",
    "#56b4e9",
    "#6b6860",
    "#7b3294",
    "#a6761d",
    "#1b9e3e",
)
MARKS = "osD^vPX<>*"
FILES = (".png", ".pdf", ".svg")  # of figures
DPI = 160  # of figures


def seen(image: Image.Image, grid: GridShape, cell: int = 32) -> Image.Image:
    """The part of the image that the tokens cover, with `cell` pixels per token.

    It is a centre crop to the grid's shape, as in CLIP's processors; crop images of other processors first.
    """
    rows, columns = grid
    size = (columns * cell, rows * cell)
    return ImageOps.fit(image.convert("RGB"), size, _kernel(image.width, size[0]))


def kept_tokens(
    image: Image.Image, grid: GridShape, kept: Collection[int], *, merged: Collection[int] = (),
    cell: int = 32,
) -> Image.Image:  # fmt: skip
    """The image with kept tokens bright and outlined, dropped tokens grey and dark (paper Figures 5 and 6).

    `kept` are indices into the untouched grid, row by row. An index of -1 is a token for the whole image; a
    badge in the corner shows their number. `merged` are the tokens of `kept` that have the value of several
    tokens; they get a coloured corner. `cell` is the side of a token in pixels.
    """
    _check(kept, grid)
    bright = seen(image, grid, cell)
    picture = _shaded(bright)
    placed = [index for index in kept if index >= 0]
    for index in placed:
        box = _box(index, grid, cell)
        picture.paste(bright.crop(box), box)
    draw = ImageDraw.Draw(picture)
    for index in placed:
        left, top, right, bottom = _box(index, grid, cell)
        color = MERGED if index in merged else OUTLINE
        draw.rectangle((left, top, right - 1, bottom - 1), outline=color, width=max(1, cell // 24))
        if index in merged:
            draw.polygon([(left, top), (left + cell // 3, top), (left, top + cell // 3)], fill=color)
    if len(placed) < len(kept):
        _badge(picture, f"+{len(kept) - len(placed)} whole image")
    return picture


def overlay(shown: SampleImage, stage: Stage | None, size: int = 384) -> Image.Image:
    """The sample's picture with the tokens that a stage kept, `size` pixels long; None: untouched.

    An image in tiles is drawn twice: with its thumbnail's tokens and with those of its crops. A video is a
    film strip, twice as long.
    """
    drawn = []
    for number, panel in enumerate(shown.panels):
        grid = panel.grid
        cell = max(2, size * min(2, panel.frames) // max(grid))
        image = shown.image.resize((grid[1] * cell, grid[0] * cell), _kernel(shown.image.width, size))
        if stage:
            kept = panel.places(stage.kept)
            whole = [-1] * (stage.kept.count(-1) if number == 0 else 0)
            image = kept_tokens(image, grid, [*kept, *whole], merged=panel.places(stage.merged), cell=cell)
        if panel.frames > 1:
            _cut_frames(image, panel, cell)
        drawn.append(image)
    if len(drawn) == 1:
        return drawn[0]
    gap = size // 24
    width = sum(one.width for one in drawn) + gap * (len(drawn) - 1)
    sheet = Image.new("RGB", (width, max(one.height for one in drawn)), "white")
    left = 0
    for one in drawn:
        sheet.paste(one, (left, 0))
        left += one.width + gap
    return sheet


def _cut_frames(strip: Image.Image, panel: Panel, cell: int) -> None:
    """Draw white lines between the frames of a film strip, and blank the positions after the last frame."""
    draw = ImageDraw.Draw(strip)
    width, height = panel.columns * cell, panel.rows * cell
    for left in range(width, strip.width, width):
        draw.line((left, 0, left, strip.height), fill=OUTLINE, width=3)
    for top in range(height, strip.height, height):
        draw.line((0, top, strip.width, top), fill=OUTLINE, width=3)
    if last := panel.frames % panel.across:
        draw.rectangle((last * width, strip.height - height, *strip.size), fill=OUTLINE)


def groups(
    image: Image.Image, grid: GridShape, grouping: Grouping, kept: Collection[int] | None = None, *,
    cell: int = 32,
) -> Image.Image:  # fmt: skip
    """The tokens of each group in one colour over the image (paper Figure 2); ungrouped tokens are dark.

    `kept` tokens get a dot, for instance the one that a search kept of each group.
    """
    rows, columns = grid
    if grouping.items != rows * columns:
        raise ValueError(f"groups of {grouping.items} items do not fit a grid of {rows} x {columns} tokens")
    marked = [] if kept is None else list(kept)
    _check(marked, grid)
    plain = ImageOps.grayscale(seen(image, grid, cell)).convert("RGB")
    picture = _shaded(plain)
    owner = {index: number for number, group in enumerate(grouping.groups) for index in group}
    for index, number in owner.items():
        box = _box(index, grid, cell)
        tint = Image.new("RGB", (cell, cell), color(number))
        picture.paste(Image.blend(plain.crop(box), tint, 0.62), box)
    draw = ImageDraw.Draw(picture)
    for index in range(rows * columns):
        left, top, right, bottom = _box(index, grid, cell)
        if (index + 1) % columns and owner.get(index) != owner.get(index + 1):
            draw.line((right, top, right, bottom), fill=SHADE)
        if index + columns < rows * columns and owner.get(index) != owner.get(index + columns):
            draw.line((left, bottom, right, bottom), fill=SHADE)
    radius = max(2, cell // 5)
    for index in marked:
        left, top, right, bottom = _box(index, grid, cell)
        x, y = (left + right) // 2, (top + bottom) // 2
        dot = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(dot, fill=OUTLINE, outline=SHADE, width=max(1, cell // 16))
    return picture


def grouping(
    shown: SampleImage, space: Grouping, kept: Collection[int] | None = None, size: int = 384
) -> Image.Image:
    """The groups of a sample's tokens on its picture, `size` pixels long; `kept` tokens have a dot.

    An image in tiles is drawn once, with the tokens of its crops. A video is a film strip, twice as long.
    """
    panel = shown.panels[-1]
    grid = panel.grid
    cell = max(2, size * min(2, panel.frames) // max(grid))
    placed = (tuple(panel.places(group)) for group in space.groups)
    inside = Grouping(tuple(group for group in placed if group), grid[0] * grid[1])
    image = shown.image.resize((grid[1] * cell, grid[0] * cell))
    drawn = groups(image, grid, inside, None if kept is None else panel.places(kept), cell=cell)
    if panel.frames > 1:
        _cut_frames(drawn, panel, cell)
    return drawn


def color(number: int) -> tuple[int, int, int]:
    """The colour of a group; consecutive numbers differ strongly in hue, saturation and value."""
    saturation, value = ((0.80, 1.0), (0.50, 0.95), (0.95, 0.70))[number % 3]
    red, green, blue = hsv_to_rgb(number * 0.618034 % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def trace(logbook: Logbook, title: str = "") -> Figure:
    """Best loss so far and mean loss of each batch over evaluations, from a search's logbook."""
    if not logbook:
        raise ValueError("the logbook is empty: there is no search to draw")
    figure, axes = _axes("evaluations", "loss", title)
    spent, best, mean = logbook.select("evaluations", "best", "mean")
    axes.plot(spent, mean, color=MUTED, marker="o", markersize=3.5, linewidth=1, label="mean of the batch")
    axes.step(
        spent,
        best,
        where="post",
        color=LINES[0],
        marker="o",
        markersize=3.5,
        linewidth=2,
        label="best so far",
    )
    axes.set_xlim(left=0)
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def fronts(comparison: Comparison, title: str = "") -> Figure:
    """Mean share of vanilla over measured visual tokens per layer: a line per method, the best first."""
    whole, *others = comparison.rows
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in others:
        if row.tokens is not None and row.average is not None:
            lines.setdefault(row.method, []).append((row.tokens, row.average))
    figure, axes = _axes("visual tokens per layer", "mean share of vanilla, %", title)
    untouched = f"{whole.method}, {whole.keep} tokens"
    axes.axhline(100, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=untouched)
    ranked = sorted(lines.items(), key=lambda line: -sum(y for _, y in line[1]) / len(line[1]))
    leads = {comparison.reference}
    fixed = sorted(lines, key=lambda method: (method not in leads, method))  # colours depend on names
    for method, points in ranked:
        x, y = zip(*sorted(points), strict=True)
        number = fixed.index(method)
        turn = number // len(LINES)  # a repeated colour gets another mark
        axes.plot(
            x, y, color=LINES[number % len(LINES)], marker=MARKS[(number + turn) % len(MARKS)],
            markersize=5.5, linewidth=2.6 if method in leads else 1.3, label="\n".join(wrap(method, 32)),
        )  # fmt: skip
    ticks = {round(row.tokens or 0) if isinstance(row.keep, Ratio) else row.keep for row in others}
    axes.set_xticks(sorted(ticks) or [count_of(whole.keep, 0)])
    _legend_beside(figure, axes, 1 + len(lines))
    return figure


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, title: str = "", *,
    levels: Mapping[str, float] = MappingProxyType({}),
) -> Figure:  # fmt: skip
    """Points (x, y) of each name, joined from left to right; `levels` are horizontal dashed lines."""
    figure, axes = _axes(x, y, title)
    for name, level in levels.items():
        axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="\n".join(wrap(name, 32)))
    for number, name in enumerate(sorted(lines)):  # colours depend on names
        across, up = zip(*sorted(lines[name]), strict=True)
        turn = number // len(LINES)  # a repeated colour gets another mark
        axes.plot(
            across, up, color=LINES[number % len(LINES)], marker=MARKS[(number + turn) % len(MARKS)],
            markersize=5.5, linewidth=1.3, label="\n".join(wrap(name, 32)),
        )  # fmt: skip
    _legend_beside(figure, axes, len(lines) + len(levels))
    return figure


def _legend_beside(figure: Figure, axes: Axes, entries: int) -> None:
    columns = 1 + (entries - 1) // 12  # at most 12 entries per column, which fit the height of the axes
    axes.legend(frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1.02, 0.5), ncols=columns)
    if columns > 1:
        figure.set_figwidth(6.4 + 1.7 * (columns - 1))


def png(picture: Image.Image | Figure) -> bytes:
    """The picture or figure as a PNG file."""
    return _file(picture, ".png")


def _file(picture: Image.Image | Figure, suffix: str) -> bytes:
    buffer = BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.savefig(buffer, format=suffix[1:], dpi=DPI, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def save(picture: Image.Image | Figure, path: Path) -> Path:
    """Write a picture as PNG, or a figure also as PDF or SVG, atomically; return the path.

    ValueError for another suffix.
    """
    suffix = path.suffix.lower()
    if suffix != ".png" and (isinstance(picture, Image.Image) or suffix not in FILES):
        raise ValueError(f"{path}: pictures are written as PNG; give a name that ends in .png")
    content = _file(picture, suffix)
    with replacing(path) as part:
        part.write_bytes(content)
    return path


def _axes(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    # Imported late: takes half a second. Without pyplot, there is no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = styled(figure.add_subplot(), x, y)
    if title:
        axes.set_title(title, loc="left", color=INK)
    return figure, axes


def styled(axes: Axes, x: str, y: str) -> Axes:
    """Apply the common style to the axes of a plot; return the axes."""
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)
    axes.tick_params(colors=MUTED, length=0)
    axes.grid(axis="y", color=HAIR, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(HAIR)
    return axes


def _kernel(width: int, drawn: int) -> Image.Resampling:
    """The resampling filter; enlarged images show their pixels instead of blur."""
    return Image.Resampling.NEAREST if width < drawn else Image.Resampling.LANCZOS


def _check(indices: Collection[int], grid: GridShape) -> None:
    rows, columns = grid
    wrong = [index for index in indices if not -1 <= index < rows * columns]
    if wrong:
        last = rows * columns - 1
        raise ValueError(
            f"token {wrong[0]} is outside the grid of {rows} x {columns}: indices are 0 to {last}"
        )


def _box(index: int, grid: GridShape, cell: int) -> Box:
    row, column = divmod(index, grid[1])
    return column * cell, row * cell, (column + 1) * cell, (row + 1) * cell


def _shaded(image: Image.Image) -> Image.Image:
    plain = ImageOps.grayscale(image).convert("RGB")
    return Image.blend(plain, Image.new("RGB", image.size, SHADE), 0.72)


def _badge(picture: Image.Image, text: str) -> None:
    font = ImageFont.load_default(max(10, picture.height // 26))
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.textbbox((10, 8), text, font=font)
    draw.rounded_rectangle((left - 6, top - 4, right + 6, bottom + 4), 5, fill=MERGED)
    draw.text((10, 8), text, fill=SHADE, font=font)

"""Templates of self-contained pages, which request nothing."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.table import one

if TYPE_CHECKING:
    from jinja2 import Template

PNG = b"\x89PNG\r\n\x1a\n"


@cache
def template(name: str) -> Template:
    """A template of this folder, by its name without `.html.j2`; it escapes its arguments."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # imported late: only pages need it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["one"] = one
    environment.filters["signed"] = lambda gap: str(gap).replace("-", "−")
    return environment.get_template(f"{name}.html.j2")


def embedded(plots: Mapping[str, bytes]) -> dict[str, str]:
    """PNGs as data URLs, by caption; ValueError for another format."""
    for name, picture in plots.items():
        if not picture.startswith(PNG):
            raise ValueError(f"the plot '{name}' is not a PNG: give a PNG file")
    return {name: data_uri("image/png", picture) for name, picture in plots.items()}


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"

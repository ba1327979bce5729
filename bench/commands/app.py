"""`evocomp app`: a page on which one tries methods on images of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bench.console import model_options, say
from bench.evaluation.opening import load_model
from evosearch.registry import specs

if TYPE_CHECKING:
    from compress.models.loading import Anyres


@click.command()
@click.option(
    "--methods", help="NAME or NAME:option=value,... with commas; all that the model runs by default."
)
@click.option("--compressor", help="Folder or hub name of a trained compressor; the shipped one by default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets others in.")
@click.option("--port", type=click.IntRange(1, 65535), help="The first free one from 7860 by default.")
@model_options
def app(
    methods: str | None, compressor: str | None, host: str, port: int | None, model: str, device: str,
    dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Ask about images of your own in the browser: what is kept, the answer, the time.

    Runs until Ctrl-C and requests nothing from outside; needs gradio (pip install 'evocomp[app]').

    \b
    Example:
      evocomp app --port 7860
    """
    from bench.app import Desk, build
    from bench.evaluation.compressors import buildable, selector_for, takes_compressor

    listed = specs(methods) if methods else buildable(model, compressor)
    for spec in listed:
        selector_for(spec, model, compressor if takes_compressor(spec) else None)
    page = build(Desk(load_model(model, device, dtype, anyres), compressor), listed)
    _, address, _ = page.launch(
        server_name=host, server_port=port, ssr_mode=False, quiet=True, footer_links=[],
        prevent_thread_lock=True,
    )  # fmt: skip
    say(f"open {address} in a browser; Ctrl-C ends it")
    page.block_thread()


COMMANDS = {"app": app}

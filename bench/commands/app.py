"""`evocomp app`: a browser page that runs methods on the user's own images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bench.console import model_options, option, say
from bench.evaluation.opening import load_model
from evosearch.registry import specs

if TYPE_CHECKING:
    from compress.models.loading import Anyres


@click.command()
@option(
    "--methods",
    help="Methods, separated by commas: NAME or NAME:option=value,... (evocomp list methods). "
    "Default: all that the model can run.",
)
@option("--compressor", help="Folder or hub name of a trained compressor. Default: the shipped one.")
@option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 accepts other machines.")
@option(
    "--port", type=click.IntRange(1, 65535), help="Port to listen on. Default: the first free one from 7860."
)
@model_options
def app(
    methods: str | None, compressor: str | None, host: str, port: int | None, model: str, device: str,
    dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Try methods on your own images in the browser: kept tokens, answers and times.

    The app runs until Ctrl-C, requests nothing from the network, and needs gradio (pip install
    'evocomp[app]').

    \b
    Example:
      evocomp app --port 7860
    """
    from bench.app import Desk, build
    from bench.evaluation.compressors import buildable, selectors_for

    listed = specs(methods) if methods else buildable(model, compressor)
    selectors_for(listed, model, compressor)
    page = build(Desk(load_model(model, device, dtype, anyres), compressor), listed)
    _, address, _ = page.launch(
        server_name=host, server_port=port, ssr_mode=False, quiet=True, footer_links=[],
        prevent_thread_lock=True,
    )  # fmt: skip
    say(f"open {address} in a browser; Ctrl-C ends it")
    page.block_thread()


COMMANDS = {"app": app}

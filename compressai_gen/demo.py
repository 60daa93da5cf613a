"""A page to try the codecs in a browser: ``compressai-gen demo``.

The page asks nothing of other hosts, and answers this machine alone unless it is told another address.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from compressai_gen.coding import DEFAULT_QUALITY, decode, describe, encode, load_picture
from compressai_gen.data.images import rgb_tensor, to_pil
from compressai_gen.errors import BitstreamError, CompressaiGenError
from compressai_gen.extras import extra
from compressai_gen.metrics import DEFAULT_METRICS, METRICS, ReferenceMetrics
from compressai_gen.models.capabilities import TakesRegions
from compressai_gen.parsers.common import make
from compressai_gen.parsers.demo import demo as arguments
from compressai_gen.programs import exit_status, prepare_torch
from compressai_gen.specs import find_spec, specs

# Gradio would report that it is used, and look for a newer version.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
with extra("demo"):
    import gradio as gr

__all__ = ["Coder", "build_page", "main"]

MAX_PIXELS = 2**24
"""Of pictures that the page takes; larger ones take minutes on a CPU."""

OUTSIDE = 0.05
"""How much a place outside a painted region weighs, relative to one inside."""

_FILES_KEPT = 3600
# Seconds that pictures of visitors stay on disk.

_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
# Gradio's own themes have the browser fetch fonts from Google.


class Coder:
    """Encodes and decodes what a visitor gives; the models and metrics are loaded once.

    Args:
        device: of models and metrics.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.folder = tempfile.TemporaryDirectory(prefix="compressai-gen-demo-")
        self.missing: list[str] = []
        self.metrics = ReferenceMetrics(
            DEFAULT_METRICS, device, on_missing=lambda error: self.missing.append(str(error))
        )

    def encode(
        self, path: str | None, model: str, quality: float, region: dict[str, Any] | None
    ) -> tuple[tuple[Image.Image, Image.Image], str, str]:
        """Encode a picture and decode the file again.

        Args:
            path: of the picture.
            model: name of the codec.
            quality: any number from its lowest to its highest quality.
            region: what the editor holds; its painted layers are the region of interest.

        Returns:
            Original and decoded picture, the path of the file, and a table of its figures.

        Raises:
            gr.Error: with the message of an error of ours.
        """
        with _told():
            if path is None:
                raise CompressaiGenError("drop a picture first")
            picture = load_picture(path)
            if picture[0].numel() > MAX_PIXELS:
                raise CompressaiGenError(f"the page takes pictures of up to {MAX_PIXELS / 1e6:.0f} megapixels")
            roi = _importance(region, tuple(picture.shape[1:])) if _takes_regions(model) else None
            started = time.perf_counter()
            data = encode(picture, model, quality, roi=roi, device=self.device)
            encoded = time.perf_counter()
            decoded = decode(data, device=self.device)
            times = {"encoding": encoded - started, "decoding": time.perf_counter() - encoded}
            file = Path(tempfile.mkdtemp(dir=self.folder.name)) / f"{Path(path).stem}.cgen"
            file.write_bytes(data)
            figures = describe(data) | self._measure(picture, rgb_tensor(decoded)) | times
            return (to_pil(picture), decoded), str(file), self._table(figures)

    def open(self, path: str | None) -> tuple[Image.Image | None, str]:
        """Decode a file; returns the picture and a table of what the file says."""
        if path is None:
            return None, ""
        with _told():
            data = Path(path).read_bytes()
            said = describe(data)
            if said["width"] * said["height"] > MAX_PIXELS:
                raise BitstreamError(f"the page opens pictures of up to {MAX_PIXELS / 1e6:.0f} megapixels")
            return decode(data, device=self.device, max_pixels=MAX_PIXELS), self._table(said)

    def _measure(self, original: torch.Tensor, decoded: torch.Tensor) -> dict[str, float]:
        self.metrics.set_original(original)
        return self.metrics.measure(decoded)

    def _table(self, figures: dict[str, Any]) -> str:
        rows = [
            ("codec", f"{figures['model']}, quality {figures['quality']:g}"),
            ("picture", f"{figures['width']} x {figures['height']} pixels"),
            ("file", f"{figures['bytes']} bytes, {figures['bpp']:.4f} bits per pixel"),
            *((name, f"{figures[name]:.4g}") for name in METRICS if name in figures and np.isfinite(figures[name])),
            *((name, f"{figures[name]:.2f} s") for name in ("encoding", "decoding") if name in figures),
        ]
        missing = [f"\n\nNot measured: {text}" for text in self.missing]
        return "| | |\n| --- | --- |\n" + "\n".join(f"| {a} | {b} |" for a, b in rows) + "".join(missing)


class _told:  # noqa: N801
    """Turns errors of ours into messages on the page."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, CompressaiGenError):
            raise gr.Error(str(error), duration=None, print_exception=False) from error


def _takes_regions(model: str) -> bool:
    return issubclass(find_spec(model).load(), TakesRegions)


def _importance(region: dict[str, Any] | None, size: tuple[int, int]) -> torch.Tensor | None:
    """Returns the weights (H, W) of a region that was painted; None if nothing was."""
    layers = [] if region is None else region["layers"]
    painted = np.zeros(size, dtype=bool)
    for layer in layers:
        alpha = layer.getchannel("A").resize(size[::-1], Image.Resampling.NEAREST)
        painted |= np.asarray(alpha) > 0
    if not painted.any():
        return None
    return torch.from_numpy(np.where(painted, 1.0, OUTSIDE))


def build_page(coder: Coder) -> gr.Blocks:
    """Return the page."""
    names = list(specs())

    def of_model(name: str) -> tuple[Any, Any]:
        qualities = find_spec(name).qualities
        slider = gr.Slider(qualities[0], qualities[-1], label=f"Quality ({qualities[0]}: fewest bits)")
        return slider, gr.Accordion(visible=_takes_regions(name))

    with gr.Blocks(title="compressai-gen", delete_cache=(_FILES_KEPT, _FILES_KEPT)) as page:
        gr.Markdown("# compressai-gen\nTwo codecs that decode by diffusion. At low rates they invent texture.")
        with gr.Tab("Encode"), gr.Row():
            with gr.Column():
                picture = gr.Image(label="Picture", type="filepath", sources=["upload"], elem_id="picture")
                model = gr.Radio(names, value=names[0], label="Codec", elem_id="model")
                low, *_, high = find_spec(names[0]).qualities
                quality = gr.Slider(low, high, DEFAULT_QUALITY, step=1 / 16, label=f"Quality ({low}: fewest bits)")
                with gr.Accordion(
                    "Region of interest", open=True, visible=_takes_regions(names[0]), elem_id="region"
                ) as area:
                    gr.Markdown("Paint where bits matter most. The size of the file stays the same.")
                    region = gr.ImageEditor(
                        show_label=False,
                        type="pil",
                        sources=[],
                        transforms=[],
                        layers=False,
                        brush=gr.Brush(colors=["#ff7a00"], color_mode="fixed", default_size=40),
                        elem_id="editor",
                    )
                button = gr.Button("Encode and decode", variant="primary", elem_id="encode")
            with gr.Column():
                slider = gr.ImageSlider(label="Original and decoded", type="pil", format="png", elem_id="compared")
                figures = gr.Markdown(elem_id="figures")
                file = gr.DownloadButton("Download the .cgen file", elem_id="download")
        with gr.Tab("Open a file"), gr.Row():
            opened = gr.File(label=".cgen file", type="filepath", elem_id="file")
            with gr.Column():
                decoded = gr.Image(label="Decoded", type="pil", format="png", interactive=False, elem_id="decoded")
                said = gr.Markdown(elem_id="said")
        model.change(of_model, model, [quality, area], show_progress="hidden")
        picture.change(_background, picture, region, show_progress="hidden")
        button.click(coder.encode, [picture, model, quality, region], [slider, file, figures])
        opened.change(coder.open, opened, [decoded, said])
    return page


def _background(path: str | None) -> Any:
    """Returns what the editor shows of a picture: itself, upright and without transparency, to be painted on."""
    if path is None:
        return None
    with _told():
        return {"background": to_pil(load_picture(path)), "layers": [], "composite": None}


def main(argv: Sequence[str] | None = None, prog: str = "python -m compressai_gen.demo") -> int:
    """Serve the page until it is interrupted; returns the exit status."""
    args = make(arguments, prog).parse_args(argv)
    return exit_status(lambda: _serve(args), "stopped")


def _serve(args: argparse.Namespace) -> None:
    coder = Coder(prepare_torch(args.device, args.threads))
    try:
        _, url, _ = build_page(coder).launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size="100mb",
            footer_links=[],
            theme=gr.themes.Default(**_FONTS),
            ssr_mode=False,
        )
    except OSError as error:
        raise CompressaiGenError(
            f"no page can be served at {args.host}:{args.port} ({error}): take another --port"
        ) from error
    print(f"serving {url}; Ctrl-C ends it", flush=True)
    while True:
        time.sleep(3600)

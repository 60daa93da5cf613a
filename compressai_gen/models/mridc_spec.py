"""What programs know of MRIDC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressai_gen.errors import CodecError
from compressai_gen.options import DecoderOptions, EncoderOptions, check_switch, option
from compressai_gen.specs import CodecSpec, Variant

__all__ = ["MASKINGS", "SPEC", "CentralRegion", "MRIDCDecoderOptions", "MRIDCEncoderOptions"]

MASKINGS = ("map", "random", "grid")
"""Where tokens go: by importance or, for comparison at the same budget, at random or evenly."""


@dataclass(frozen=True)
class MRIDCEncoderOptions(EncoderOptions):
    """Of the encoder."""

    masking: str = option("map", "where tokens go: map, by importance, or random or grid, to compare with")
    importance: Any = option(  # noqa: RUF009  (a field, as those above)
        None,
        "region of interest (H, W) or (N, H, W): numbers from 0 up by which each pixel's own importance is multiplied",
        word=False,
    )

    def __post_init__(self) -> None:
        if self.masking not in MASKINGS:
            raise CodecError(f"masking is one of {', '.join(MASKINGS)}, not {self.masking!r}")


@dataclass(frozen=True)
class MRIDCDecoderOptions(DecoderOptions):
    """Of the decoder."""

    consistency: bool = option(True, "whether the consistency branch guides the denoiser")
    prediction: bool = option(True, "whether unsent tokens are predicted, or else filled from their neighbours")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_switch("consistency", self.consistency)
        check_switch("prediction", self.prediction)


@dataclass(frozen=True)
class CentralRegion:
    """A region of interest for any picture: its central quarter, so many times as important as the rest."""

    weight: float

    def __call__(self, height: int, width: int) -> Any:
        """Returns the importance (H, W)."""
        import torch

        from compressai_gen.metrics.full_reference import central_quarter

        importance = torch.ones(height, width)
        importance[central_quarter(height, width)] = self.weight
        return importance


SPEC = CodecSpec(
    name="mridc",
    byte=0xD4,
    retired_bytes=(0xD3,),
    model="compressai_gen.models.mridc:MRIDC",
    summary="masked tokens and diffusion, 0.007 to 0.055 bpp",
    encoder_options=MRIDCEncoderOptions,
    decoder_options=MRIDCDecoderOptions,
    objectives={
        "codec": "compressai_gen.train.objectives:TokenObjective",
        "diffusion": "compressai_gen.train.objectives:DiffusionObjective",
    },
    variants={
        "tokens, plain decoder": Variant({}, {"steps": 0, "prediction": False}),
        "+ prediction of unsent tokens": Variant({}, {"steps": 0}),
        "+ diffusion": Variant({}, {}),
        "region of interest": Variant({"importance": CentralRegion(20.0)}, {}),
        "random mask": Variant({"masking": "random"}, {}),
        "grid mask": Variant({"masking": "grid"}, {}),
    },
    ablation_metrics=("lpips_complex", "psnr_central", "lpips_central"),
    limits="Pictures look painted: fine structure becomes strokes, and smooth parts have flecks at low rates.",
)

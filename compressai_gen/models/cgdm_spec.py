"""What programs know of CGDM."""

from __future__ import annotations

from dataclasses import dataclass

from compressai_gen.options import DecoderOptions, EncoderOptions, check_switch, check_whole, option
from compressai_gen.specs import CodecSpec, Variant

__all__ = ["SPEC", "CGDMDecoderOptions", "CGDMEncoderOptions"]


@dataclass(frozen=True)
class CGDMEncoderOptions(EncoderOptions):
    """Of the encoder."""

    online_steps: int = option(
        0, "gradient steps spent on each picture's latent, for fewer bits and less distortion, at seconds a step"
    )

    def __post_init__(self) -> None:
        check_whole("online_steps", self.online_steps, 0)


@dataclass(frozen=True)
class CGDMDecoderOptions(DecoderOptions):
    """Of the decoder."""

    consistency: bool = option(True, "whether the consistency branch guides the denoiser")
    syntax: bool = option(True, "whether the syntax in the stream is used")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_switch("consistency", self.consistency)
        check_switch("syntax", self.syntax)


SPEC = CodecSpec(
    name="cgdm",
    byte=0xC2,
    retired_bytes=(0xC1,),
    model="compressai_gen.models.cgdm:CGDM",
    summary="consistency guided diffusion, 0.05 to 0.4 bpp",
    encoder_options=CGDMEncoderOptions,
    decoder_options=CGDMDecoderOptions,
    objectives={
        "codec": "compressai_gen.train.objectives:RateObjective",
        "diffusion": "compressai_gen.train.objectives:DiffusionObjective",
    },
    variants={
        "base": Variant({}, {"steps": 0}),
        "+ diffusion": Variant({}, {"consistency": False, "syntax": False}),
        "+ consistency branch": Variant({}, {"syntax": False}),
        "+ SFF": Variant({}, {}),
        "+ online optimization": Variant({"online_steps": 50}, {}),
    },
    timed=("steps=0", "steps=4"),
    limits="At low rates, fine texture becomes smooth, breaks into fragments or turns into a fine mesh.",
)

"""What programs know of the codec; importing this takes no PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from compressai_gen.options import DecoderOptions, check_switch, option
from compressai_gen.specs import CodecSpec, Variant


@dataclass(frozen=True)
class BlockDCTDecoderOptions(DecoderOptions):
    """Of the decoder."""

    smooth: bool = option(False, "whether borders of blocks are smoothed")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_switch("smooth", self.smooth)


SPEC = CodecSpec(
    name="blockdct",
    byte=0xB1,
    model="blockdct.model:BlockDCT",
    summary="a discrete cosine transform of 8x8 blocks with a trained prior, as an example",
    decoder_options=BlockDCTDecoderOptions,
    objectives={"codec": "blockdct.objective:BlockDCTObjective"},
    variants={"plain": Variant({}, {}), "+ smoothing": Variant({}, {"smooth": True})},
    limits="An example: other codecs are far better.",
    zoo=Path(__file__).with_name("zoo"),
)

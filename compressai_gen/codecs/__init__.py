"""Everything evaluation can run or quote: our models, classical and learned baselines, plugins, published curves."""

from compressai_gen.codecs.base import Codec, Encoded, trained_metrics
from compressai_gen.codecs.baselines import PUBLISHED_MODELS, checkpoint_codec
from compressai_gen.codecs.classical import CLASSICAL_CODECS, PillowCodec
from compressai_gen.codecs.learned import LearnedCodec
from compressai_gen.codecs.published import (
    base_name,
    family_ranks,
    newest_of_families,
    published_curves,
    published_training,
)
from compressai_gen.codecs.registry import (
    available_codecs,
    check_qualities,
    decoder_reference,
    find_codec,
    find_decoder,
)

__all__ = [
    "CLASSICAL_CODECS",
    "PUBLISHED_MODELS",
    "Codec",
    "Encoded",
    "LearnedCodec",
    "PillowCodec",
    "available_codecs",
    "base_name",
    "check_qualities",
    "checkpoint_codec",
    "decoder_reference",
    "family_ranks",
    "find_codec",
    "find_decoder",
    "newest_of_families",
    "published_curves",
    "published_training",
    "trained_metrics",
]

"""Codecs by name."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from compressai_gen.codecs.base import Codec
from compressai_gen.codecs.baselines import PUBLISHED_MODELS, published_codec
from compressai_gen.codecs.classical import CLASSICAL_CODECS
from compressai_gen.codecs.learned import LearnedCodec
from compressai_gen.codecs.plugins import PluginCodec, load_plugin, plugin_names
from compressai_gen.errors import CodecError

__all__ = ["available_codecs", "check_qualities", "decoder_reference", "find_codec", "our_models"]

_ENCODER_OPTIONS = {"online_steps": int, "masking": str}
"""Of our models' ``compress``, those that can be written as a word, and what turns the word into a value."""


def our_models() -> dict[str, tuple[int, ...]]:
    """Names of the models of the zoo and the qualities of each."""
    # Imported here, because only these names need the models.
    from compressai_gen import zoo

    return {name: tuple(zoo.QUALITIES[name]) for name in zoo.MODELS}


def available_codecs() -> list[str]:
    """Names that :func:`find_codec` knows: our models, classical codecs, learned baselines, other packages'."""
    return list(dict.fromkeys([*our_models(), *CLASSICAL_CODECS, *PUBLISHED_MODELS, *plugin_names()]))


def find_codec(name: str, device: str | torch.device = "cpu") -> Codec:
    """Return a codec by name, one of our models also with options: ``cgdm:steps=0``, ``cgdm:online_steps=50,steps=4``.

    A name of ours wins over a plugin of the same name. Classical codecs and plugins choose their own device.

    Raises:
        CodecError: the name or an option is unknown, or the package that offers the codec is broken or not installed.
    """
    plain, colon, settings = name.partition(":")
    if colon:
        codec = find_codec(plain, device)
        if plain not in our_models():
            raise CodecError(f"{plain} has no options; only the models of this package have: {', '.join(our_models())}")
        return codec.variant(name, _options(plain, settings))
    if name in CLASSICAL_CODECS:
        CLASSICAL_CODECS[name].require()
        return CLASSICAL_CODECS[name]
    models = our_models()
    if name in models:
        return _zoo_codec(name, models[name], device)
    if name in PUBLISHED_MODELS:
        return published_codec(name, device)
    if name in plugin_names():
        return load_plugin(name)
    available = available_codecs()
    close = difflib.get_close_matches(name.lower(), available, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise CodecError(f"unknown codec '{name}'.{hint} Available: {', '.join(available)}")


def _options(name: str, settings: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the encoder's and the decoder's options of ``option=value,…``."""
    from compressai_gen.models.base import DecoderOptions

    of_decoder = [field.name for field in fields(DecoderOptions)]
    encode, decode = {}, {}
    try:
        for setting in settings.split(","):
            option, value = setting.split("=")
            if option in _ENCODER_OPTIONS:
                encode[option] = _ENCODER_OPTIONS[option](value)
            else:
                decode[option] = ast.literal_eval(value)
        DecoderOptions(**decode)
    except (SyntaxError, TypeError, ValueError) as error:
        known = ", ".join([*_ENCODER_OPTIONS, *of_decoder])
        raise CodecError(f"'{name}:{settings}' has no such options: {name}:option=value,… takes {known}") from error
    return encode, decode


def _zoo_codec(name: str, qualities: tuple[int, ...], device: str | torch.device) -> LearnedCodec:
    from compressai_gen import zoo
    from compressai_gen.zoo.manifest import output_version

    load = zoo.MODELS[name]
    return LearnedCodec(name, qualities, lambda q: load(q, pretrained=True), device, output_version(name))


def decoder_reference(codec: Codec) -> dict[str, str]:
    """Return what must agree where streams of a codec are decoded.

    Beside the name, which has the options, that is, for our models, the fingerprint of the weights' coding part, and
    for a third-party codec its package with version. Classical formats are standards, which every decoder follows.
    """
    reference = {"name": codec.name}
    if isinstance(codec, PluginCodec):
        reference["package"] = codec.package
    elif (model := codec.name.partition(":")[0]) in our_models():
        from compressai_gen.zoo.manifest import entry_of

        reference["weights"] = entry_of(model)["fingerprint"]
    return reference


def check_qualities(codec: Codec, qualities: Sequence[int]) -> tuple[int, ...]:
    """Return the qualities in the codec's own order.

    Raises:
        CodecError: the codec does not have one of them.
    """
    unknown = sorted(set(qualities) - set(codec.qualities))
    if unknown:
        raise CodecError(
            f"{codec.name} has no quality {', '.join(map(str, unknown))}; it has {', '.join(map(str, codec.qualities))}"
        )
    return tuple(quality for quality in codec.qualities if quality in qualities)

"""Codecs by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from compressai_gen.codecs.base import Codec
from compressai_gen.codecs.baselines import PUBLISHED_MODELS, published_codec
from compressai_gen.codecs.classical import CLASSICAL_CODECS
from compressai_gen.codecs.learned import LearnedCodec
from compressai_gen.codecs.plugins import PluginCodec, load_plugin, plugin_names
from compressai_gen.errors import CodecError, ZooError
from compressai_gen.qualities import check_quality, plain
from compressai_gen.specs import CodecSpec, problems, specs

__all__ = ["available_codecs", "check_qualities", "decoder_reference", "find_codec", "find_decoder", "our_models"]


def our_models() -> dict[str, CodecSpec]:
    """Codecs by name whose models are in the zoo, this package's and those of others."""
    return specs()


def available_codecs() -> list[str]:
    """Names that :func:`find_codec` knows: our models, classical codecs, learned baselines, other packages'."""
    return list(dict.fromkeys([*our_models(), *CLASSICAL_CODECS, *PUBLISHED_MODELS, *plugin_names()]))


def find_codec(name: str, device: str | torch.device = "cpu") -> Codec:
    """Return a codec by name.

    A name of a model may state which weights (``cgdm.v0``) and options (``cgdm:steps=0``,
    ``cgdm.v0:online_steps=50,steps=4``). A name of ours wins over a plugin of the same name. Classical codecs and
    plugins choose their own device.

    Raises:
        CodecError: the name or an option is unknown, or the package that offers the codec is broken or not installed.
        ZooError: there are no such weights.
    """
    plain, colon, settings = name.partition(":")
    models = our_models()
    model = plain.partition(".")[0]
    if model in models and model not in CLASSICAL_CODECS:
        codec = _zoo_codec(models[model], plain, device)
        return codec.variant(name, models[model].parse(settings)) if colon else codec
    if colon:
        find_codec(plain, device)
        raise CodecError(f"{plain} has no options; only these models have: {', '.join(models)}")
    if name in CLASSICAL_CODECS:
        CLASSICAL_CODECS[name].require()
        return CLASSICAL_CODECS[name]
    if name in PUBLISHED_MODELS:
        return published_codec(name, device)
    if name in plugin_names():
        return load_plugin(name)
    if name in problems():
        raise CodecError(problems()[name])
    available = available_codecs()
    close = difflib.get_close_matches(name.lower(), available, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise CodecError(f"unknown codec '{name}'.{hint} Available: {', '.join(available)}")


def _zoo_codec(spec: CodecSpec, name: str, device: str | torch.device) -> LearnedCodec:
    # Imported here, because only these names need the models.
    from compressai_gen import zoo
    from compressai_gen.manifest import entry_of
    from compressai_gen.zoo.files import output_version

    weights = name if "." in name else None
    entry = entry_of(spec.name, weights)

    def load(quality: float) -> nn.Module:
        return zoo.load(spec.name, quality, weights=weights)

    trained, version = frozenset(entry["trained_on"]), output_version(spec.name, weights)
    codec = LearnedCodec(name, spec.qualities, load, device, version, trained_metrics=trained, variable_rate=True)
    codec.coding = entry["fingerprint"]
    return codec


def find_decoder(reference: Mapping[str, str], device: str | torch.device = "cpu") -> Codec:
    """Return the codec that decodes what another with this :func:`decoder_reference` encoded.

    Of a model, any weights with the same coding part do: the newest that this version has are taken, and the newest of
    all where it has none.

    Raises:
        CodecError, ZooError: as :func:`find_codec`.
    """
    codec = find_codec(reference["name"], device)
    coding = getattr(codec, "coding", None)
    if coding is None or "weights" not in reference or reference["weights"] == coding:
        return codec
    from compressai_gen.manifest import find_fingerprint

    plain, colon, settings = reference["name"].partition(":")
    try:
        weights = find_fingerprint(plain.partition(".")[0], reference["weights"])
    except ZooError:
        return codec
    codec = find_codec(weights + colon + settings, device)
    codec.name = reference["name"]
    return codec


def decoder_reference(codec: Codec) -> dict[str, str]:
    """Return what must agree where streams of a codec are decoded.

    Beside the name, which has the options, that is, for our models, the fingerprint of the weights' coding part, and
    for a third-party codec its package with version. Classical formats are standards, which every decoder follows.
    """
    reference = {"name": codec.name}
    if isinstance(codec, PluginCodec):
        reference["package"] = codec.package
    elif coding := getattr(codec, "coding", None):
        reference["weights"] = coding
    return reference


def check_qualities(codec: Codec, qualities: Sequence[float]) -> tuple[float, ...]:
    """Return the qualities in the codec's own order; of our models, those between its whole ones are qualities, too.

    Raises:
        CodecError: the codec does not have one of them.
    """
    if isinstance(codec, LearnedCodec) and codec.variable_rate:
        return tuple(plain(check_quality(codec.name, q, codec.qualities[-1])) for q in sorted(set(qualities)))
    unknown = sorted(set(qualities) - set(codec.qualities))
    if unknown:
        raise CodecError(
            f"{codec.name} has no quality {', '.join(map(str, unknown))}; it has {', '.join(map(str, codec.qualities))}"
        )
    return tuple(quality for quality in codec.qualities if quality in qualities)

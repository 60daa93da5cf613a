"""Very narrow networks."""

NARROW = {
    "g_a": {"width": 8, "blocks": 1, "expansion": 2},
    "g_s": {"width": 8, "blocks": 1, "expansion": 2, "renderer_width": 8, "renderer_blocks": 1},
}
CGDM_PARTS = {"latent_codec": {"channels": 16, "hyper_channels": 8, "width": 16}, "syntax": {"channels": 2}}
MRIDC_PARTS = {"quantizer": {"channels": 16, "entries": 16}, "predictor": {"width": 24, "depth": 1, "heads": 2}}
RESTORER = {"denoiser": {"width": 16, "blocks": 1, "expansion": 2, "renderer_width": 8, "renderer_blocks": 1}}
TINY_CGDM = NARROW | CGDM_PARTS | {"restorer": RESTORER}


def _lines(config, table=""):
    """Dotted keys, which may stand anywhere in a table and hold no braces."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{table}{key}.")
        else:
            yield f"{table}{key} = {value}\n"


def toml(*configs):
    """Returns configurations as lines of a recipe's ``[config]``."""
    return "".join(line for config in configs for line in _lines(config))

"""Training from recipes: ``python -m compressai_gen.train <recipe>``."""

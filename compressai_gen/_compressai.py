"""CompressAI's dictionaries of models, imported without the warnings of its imports, which no user of ours can heed.

This is imported before anything else that imports CompressAI.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from compressai.zoo import image_models
    from compressai.zoo.image import model_architectures

__all__ = ["image_models", "model_architectures"]

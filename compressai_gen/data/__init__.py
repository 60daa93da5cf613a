"""Images and datasets: what evaluation and training read pictures with."""

from compressai_gen.data.datasets import ImageDataset, known_datasets, load_dataset
from compressai_gen.data.images import list_images, pixel_hash, read_image, write_image

__all__ = ["ImageDataset", "known_datasets", "list_images", "load_dataset", "pixel_hash", "read_image", "write_image"]

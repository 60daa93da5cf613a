"""Pictures that are coded at once."""

import pytest

from compressai_gen.data import load_dataset, write_image
from compressai_gen.eval.compare import detailed_crop


@pytest.fixture(scope="session")
def small_pictures(tmp_path_factory):
    """A folder of four crops of photographs, 128x128 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, image in load_dataset("samples"):
        left, top = detailed_crop(image, 128)
        write_image(image[:, top : top + 128, left : left + 128], folder / f"{name}.png")
    return folder

"""A part of what ``fuzz.py`` does, with its own seed."""

import random

import pytest
from fuzz import check_damaged, check_forged, damaged, forged, valid_files


@pytest.fixture(scope="module")
def files():
    return valid_files()


def test_damaged_files_are_refused(files):
    rng = random.Random(1)
    for _ in range(5000):
        check_damaged(damaged(files, rng))


def test_forged_files_give_some_picture_or_are_refused(files):
    rng = random.Random(1)
    given = [check_forged(forged(files, rng)) for _ in range(40)]
    assert any(given)
    assert not all(given)

"""One model serves many threads: the bytes and the pictures are those of one thread, and the model stays as it was."""

from concurrent.futures import ThreadPoolExecutor

import torch


def test_threads_get_what_one_thread_gets(random_model, photograph):
    jobs = [(photograph(64, 64, top, 100), quality) for top, quality in ((20, 1), (160, 4), (300, 4))]
    before = {name: tensor.clone() for name, tensor in random_model.state_dict().items()}
    coded = [random_model.compress(*job) for job in jobs]
    decoded = [random_model.decompress(**out, steps=0)["x_hat"] for out in coded]
    with ThreadPoolExecutor(3) as pool:
        others = pool.map(lambda job: random_model.compress(*job), 2 * jobs)
        pictures = pool.map(lambda out: random_model.decompress(**out, steps=0)["x_hat"], 2 * coded)
        assert [out["strings"] for out in others] == [out["strings"] for out in 2 * coded]
        assert all(torch.equal(a, b) for a, b in zip(pictures, 2 * decoded, strict=True))
    after = random_model.state_dict()
    assert all(
        tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]) for name, tensor in before.items()
    )

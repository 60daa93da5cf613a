"""The same bytes give the same symbols, whatever the machine does; the pictures may differ in the last digits."""

import copy
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from symbols import WITHOUT_AVX, decoded_symbols, digest, sent_symbols

import compressai_gen
from compressai_gen.entropy import exact
from compressai_gen.layers.precision import bfloat16_autocast
from compressai_gen.models import CGDM

QUALITIES = (2, 5)
SIZE = (96, 160)

DECODE_ELSEWHERE = """
import sys, torch
from symbols import decoded_symbols, digest
from compressai_gen.zoo import ARCHITECTURES

for job in torch.load(sys.argv[1]):
    model = ARCHITECTURES[job["codec"]].from_state_dict(job["state"]).eval()
    print(digest(decoded_symbols(model, [job["string"]], job["shape"])[0]))
"""


@contextmanager
def _threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def _channels_last(model):
    return copy.deepcopy(model).float().to(memory_format=torch.channels_last)


def _same(model):
    return model


CONDITIONS = {
    "one thread": (lambda: _threads(1), _same),
    "three threads": (lambda: _threads(3), _same),
    "bfloat16 autocast": (lambda: torch.autocast("cpu", dtype=torch.bfloat16), _same),
    "without oneDNN": (lambda: torch.backends.mkldnn.flags(enabled=False), _same),
    "channels last": (nullcontext, _channels_last),
}


def _compress(model, x, quality):
    out = model.compress(x, quality)
    return out["strings"][0], out["shape"]


@torch.no_grad()
def _assert_half_a_step_off(model, decoded, x, quality):
    index = torch.tensor([quality - 1])
    with bfloat16_autocast(x.device):
        y = model.analyze(model.pad(x), index)
    y_hat = decoded[:, : y.numel()].reshape(y.shape)
    error = (y_hat - y) * model.latent_codec.log_gain[index].exp()[..., None, None]
    assert error.abs().max() < 0.5 + 1e-4


@pytest.fixture(scope="module")
def three(photograph):
    return torch.cat([photograph(*SIZE, top, left) for top, left in ((40, 150), (200, 100), (340, 40))])


@pytest.mark.parametrize("encode_condition", CONDITIONS)
def test_symbols_survive_a_change_of_machine_settings(random_model, three, encode_condition):
    context, convert = CONDITIONS[encode_condition]
    x = three[:1]
    for quality in QUALITIES:
        with context():
            encoder = convert(random_model)
            strings, shape = _compress(encoder, x, quality)
            sent = sent_symbols(encoder, x, quality)
        for context_there, convert_there in CONDITIONS.values():
            with context_there():
                assert torch.equal(decoded_symbols(convert_there(random_model), strings, shape), sent)


def test_symbols_of_a_batch_are_those_of_its_images(random_model, three):
    for quality in QUALITIES:
        strings, shape = _compress(random_model, three, quality)
        together = decoded_symbols(random_model, strings, shape)
        assert torch.equal(together, sent_symbols(random_model, three, quality))
        for i, string in enumerate(strings):
            assert torch.equal(decoded_symbols(random_model, [string], shape)[0], together[i])


def test_single_images_are_decoded_in_a_batch(random_model, three):
    singles = [_compress(random_model, x[None], 3) for x in three]
    together = decoded_symbols(random_model, [strings[0] for strings, _ in singles], SIZE)
    for i, (strings, shape) in enumerate(singles):
        assert torch.equal(decoded_symbols(random_model, strings, shape)[0], together[i])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("there", "here"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_symbols_survive_the_way_between_cpu_and_gpu(random_model, three, there, here):
    encoder, decoder = (copy.deepcopy(random_model).to(device) for device in (there, here))
    for quality in QUALITIES:
        strings, shape = _compress(encoder, three.to(there), quality)
        assert torch.equal(decoded_symbols(decoder, strings, shape), decoded_symbols(encoder, strings, shape))


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "2"},
        WITHOUT_AVX | {"OMP_NUM_THREADS": "1"},
    ],
    ids=["two threads", "old processor"],
)
def test_symbols_are_the_same_in_another_process(random_models, three, tmp_path, environment):
    jobs, expected = [], []
    for codec, model in random_models.items():
        strings, shape = _compress(model, three[:1], 4)
        jobs.append({"codec": codec, "state": model.state_dict(), "string": strings[0], "shape": tuple(shape)})
        expected.append(digest(decoded_symbols(model, strings, shape)[0]))
    torch.save(jobs, tmp_path / "jobs.pt")
    folders = Path(compressai_gen.__file__).parents[1], Path(__file__).parent
    path = os.pathsep.join(filter(None, (*map(str, folders), os.environ.get("PYTHONPATH"))))
    output = subprocess.run(
        [sys.executable, "-c", DECODE_ELSEWHERE, tmp_path / "jobs.pt"],
        env=os.environ | environment | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output.split() == expected


@pytest.mark.parametrize("phase", [1, 8, 15, exact.BLIND])
def test_parts_of_any_phase_are_decoded(random_model, three, phase, monkeypatch):
    sent = sent_symbols(random_model, three[:1], 4)
    with monkeypatch.context() as patch:
        patch.setattr(exact, "safe_phase", lambda values: phase)
        strings, shape = _compress(random_model, three[:1], 4)
    decoded = decoded_symbols(random_model, strings, shape)
    if isinstance(random_model, CGDM):  # means are rounded at other places, so y_hat moves; it stays within half a step
        _assert_half_a_step_off(random_model, decoded, three[:1], 4)
    else:
        assert torch.equal(decoded, sent)


def test_each_part_chooses_its_own_phase(random_model, three, monkeypatch):
    chosen = []

    def one_after_another(values):
        chosen.append(len(chosen) % (exact.BLIND + 1))
        return chosen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(exact, "safe_phase", one_after_another)
        strings, shape = _compress(random_model, three[:1], 4)
    assert len(set(chosen)) >= 8
    decoded = decoded_symbols(random_model, strings, shape)
    if isinstance(random_model, CGDM):
        _assert_half_a_step_off(random_model, decoded, three[:1], 4)
    else:
        assert torch.equal(decoded, sent_symbols(random_model, three[:1], 4))


def _outputs_on_boundaries(model, everywhere):
    """Has the networks predict constants on rounding boundaries: of phase 0 or, in one part, of all phases."""
    steps = torch.arange(exact.PHASES) / exact.PHASES if everywhere else torch.full((exact.PHASES,), 0.5)
    with torch.no_grad():
        if isinstance(model, CGDM):
            codec = model.latent_codec
            codec.log_gain.zero_()
            codec.log_std.zero_()
            # A part has every other channel.
            of_channels = steps.repeat_interleave(2).repeat(codec.channels // exact.PHASES + 1)[: 2 * codec.channels]
            for parameters in (codec.prior.first, codec.prior.second):
                parameters.out.weight.zero_()
                parameters.out.bias.copy_(of_channels / 32)
            return
        for head in (*model.predictor.heads, model.mask_predictor.head):
            head.weight.zero_()
            head.bias.copy_(steps.repeat(len(head.bias) // exact.PHASES + 1)[: len(head.bias)] / 16)


@pytest.mark.parametrize("everywhere", [False, True], ids=["of one phase", "of all phases"])
def test_encoding_never_fails_for_want_of_a_safe_phase(random_model, three, everywhere, monkeypatch):
    model, phases = copy.deepcopy(random_model), []
    _outputs_on_boundaries(model, everywhere)
    choose = exact.safe_phase

    def watched(values):
        phases.append(choose(values))
        return phases[-1]

    with monkeypatch.context() as patch:
        patch.setattr(exact, "safe_phase", watched)
        strings, shape = _compress(model, three[:1], 3)
    if everywhere:
        assert exact.BLIND in phases
    else:
        assert 1 in phases
        assert exact.BLIND not in phases
    decoded = decoded_symbols(model, strings, shape)
    if isinstance(model, CGDM):
        _assert_half_a_step_off(model, decoded, three[:1], 3)
    else:
        assert torch.equal(decoded, sent_symbols(model, three[:1], 3))

"""Parameter sets fitted to pairs: made with known sets, and found again as far as the pairs determine them."""

import numpy as np
import pytest
import torch
from helpers import seeded

from semiisp_plugin.data.pairs import match_pairs
from semiisp_plugin.io.image_io import to_uint8, to_uint16, write_image
from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.pseudo.fitted_sets import fit_parameter_sets


@pytest.fixture(params=[False, True], ids=["raw", "image enhancement"])
def isp(request) -> InvertibleISP:
    return InvertibleISP(ISPSpec(inverse_tone_mapping=request.param, gamma_start=1.0 if request.param else 2.2))


def bank_of(isp: InvertibleISP, n: int, spread: float, seed: int = 0) -> ParameterBank:
    bank = ParameterBank(isp.spec, n)
    bank.append(isp.spec.squash(spread * torch.randn(n, isp.spec.n_parameters, 1, 1, generator=seeded(seed))))
    return bank


def make_pairs(isp: InvertibleISP, sets: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    coarse = torch.rand(len(sets), 3, 6, 8, generator=seeded(1))
    inputs = torch.nn.functional.interpolate(coarse, size=(24, 32), mode="bilinear") * 0.5 + 0.02
    targets = isp.forward(inputs, sets)
    return [(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(inputs, targets, strict=True)]


def test_what_made_the_pairs_is_found_again(isp):
    """From a bank that has shrunk to the mean, the fitted sets explain the pairs far better than any of its sets."""
    true = bank_of(isp, 5, 0.6, seed=2).sets
    pairs = make_pairs(isp, true)
    shrunk = bank_of(isp, 12, 0.1, seed=3)
    fitted = fit_parameter_sets(isp, shrunk, pairs)
    assert len(fitted) == 5
    for (image, target), found in zip(pairs, fitted.sets, strict=True):
        x, y = (torch.from_numpy(a).permute(2, 0, 1)[None] for a in (image, target))
        before = min(float(((isp.forward(x, one[None]) - y) ** 2).mean()) for one in shrunk.sets)
        after = float(((isp.forward(x, found[None]) - y) ** 2).mean())
        assert after < before / 10
    spread = [isp.spec.unsquash(sets).std(0).mean() for sets in (shrunk.sets, fitted.sets)]
    assert spread[1] > 1.5 * spread[0]


def test_each_pair_is_fitted_as_if_alone(isp):
    pairs = make_pairs(isp, bank_of(isp, 3, 0.5, seed=4).sets)
    bank = bank_of(isp, 4, 0.1, seed=5)
    together = fit_parameter_sets(isp, bank, pairs, steps=20).sets
    alone = torch.cat([fit_parameter_sets(isp, bank, [pair], steps=20).sets for pair in pairs])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_the_pull_holds_what_nothing_determines(isp):
    grey = np.full((24, 32, 3), 0.2, np.float32)
    bank = bank_of(isp, 1, 0.1, seed=6)
    free, held = (fit_parameter_sets(isp, bank, [(grey, 2 * grey)], pull=pull).sets for pull in (0.0, 1e3))
    start = isp.spec.unsquash(bank.sets)
    assert (isp.spec.unsquash(held) - start).abs().max() < 0.05
    assert (isp.spec.unsquash(free) - start).abs().max() > 0.2


def test_unsquash_is_the_inverse_of_squash(isp):
    z = torch.randn(50, isp.spec.n_parameters, 1, 2, generator=seeded(7), dtype=torch.float64)
    back = isp.spec.unsquash(isp.spec.squash(z))
    inside = (back - z).abs() < 1e-6
    # Beyond 1e-4 of a domain's end the free number is that of the end.
    assert inside.double().mean() > 0.97
    ends = isp.spec.unsquash(isp.spec.squash(torch.full_like(z, 50.0)))
    assert ends.isfinite().all()


def test_errors(isp):
    bank = bank_of(isp, 2, 0.1)
    pair = (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="no pairs"):
        fit_parameter_sets(isp, bank, [])
    for wrong in (ParameterBank(isp.spec, 2), ParameterBank(isp.spec, 2, (2, 2))):
        with pytest.raises(ValueError, match="empty or local"):
            fit_parameter_sets(isp, wrong, [pair])


def test_pairs_of_any_sizes_and_depths(tmp_path, isp):
    from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
    from semiisp_plugin.pseudo.f_isp import make_generator, save_f_isp

    options = {"type": "PQDynamicISP", "inverse_tone_mapping": isp.spec.inverse_tone_mapping, "thumbnail": 32}
    network = PQDynamicISP(**{k: v for k, v in options.items() if k != "type"})
    spec = network.spec
    bank = ParameterBank(spec, 6)
    bank.append(spec.squash(0.1 * torch.randn(6, spec.n_parameters, 1, 1, generator=seeded(8))))
    save_f_isp(tmp_path / "f.pth", options, network.state_dict(), {"global": bank, "local": bank}, 2)
    rng = np.random.default_rng(0)
    for i, size in enumerate(((40, 50), (60, 30))):
        target = rng.uniform(0.2, 0.9, (*size, 3))
        for kind, picture in (("input", to_uint16(target**2)), ("target", to_uint8(target))):
            write_image(tmp_path / kind / f"{i}.png", picture)
    pairs = match_pairs(tmp_path / "input", tmp_path / "target")
    generator = make_generator(str(tmp_path / "f.pth"), source="fitted", pairs=pairs)
    assert len(generator.second.bank) == 2
    assert len(generator.first.bank) == 6
    photo = torch.randint(0, 256, (1, 3, 40, 48), dtype=torch.uint8, generator=seeded(9))
    pair = generator.generate(photo, seeded(10))
    assert pair.input.isfinite().all()
    with pytest.raises(ValueError, match="needs the labelled pairs"):
        make_generator(str(tmp_path / "f.pth"), source="fitted")

"""The reference-guided inverse: whose parameters, which references, what training sees."""

import pytest
import torch
from helpers import seeded

from semiisp_plugin.archs.srisp_arch import SRISP
from semiisp_plugin.isp import InvertibleISP

SMALL = {"thumbnail": 32, "entries": 4, "num_feat": 8, "references": 3}


@pytest.fixture(params=[False, True], ids=["raw", "image enhancement"])
def net(request) -> SRISP:
    return SRISP(request.param, **SMALL)


def images(n: int = 2, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(n, 3, 4, 5, generator=seeded(seed))
    return torch.nn.functional.interpolate(coarse, (24, 30), mode="bilinear")


def trained_on(net: SRISP, *seeds: int) -> SRISP:
    net.train()
    for seed in seeds:
        net(images(seed=seed), images(seed=seed).square(), seeded(seed)).mean().backward()
    return net.eval()


def test_the_result_is_the_inverse_with_a_mixture_of_entries(net):
    """Of each function's entries, in shares of its own."""
    net.dictionary.data[:] = torch.linspace(-1, 1, 4)[:, None]
    image, reference = images(), net.of_reference(images(seed=1))
    sets = net.parameters_for(image, reference)
    shares = net.selector(torch.cat([net.of_image(image), reference], 1).flatten(1)).unflatten(1, (-1, 4)).softmax(2)
    for k, part in enumerate(net.spec.slices().values()):
        mixed = (shares[:, k] * torch.linspace(-1, 1, 4)).sum(1)
        free = torch.zeros(2, net.spec.n_parameters, 1, 1)
        free[:, part] = mixed[:, None, None, None]
        torch.testing.assert_close(sets[:, part], net.spec.squash(free)[:, part])
    net.spec.check_domains(sets)
    net.references[0], net.seen[()] = images(1, seed=1).new_full((3, 32, 32), 0.3), 1
    made = net(image)
    expected = net.parameters_for(image, net.of_reference(net.references[:1]).expand(2, -1, -1, -1))
    torch.testing.assert_close(InvertibleISP(net.spec).inverse(image, expected).image, made)


@torch.no_grad()
def test_draws_are_of_the_references_that_were_kept(net):
    with pytest.raises(ValueError, match="no reference yet: train it"):
        net.draw(images(), seeded())
    with torch.enable_grad():
        trained_on(net, 1, 2)  # four, of which three are kept
    assert int(net.seen) == 4
    image = images(1, seed=5)
    each = [net._inverted(image, net.of_reference(reference[None])) for reference in net.references]
    assert not torch.allclose(each[0], each[1])
    drawn = [net.draw(image, seeded(seed)) for seed in range(12)]
    found = {min(range(3), key=lambda k, d=d: float((each[k] - d).abs().max())) for d in drawn}
    assert found == {0, 1, 2}
    assert all(min(float((e - d).abs().max()) for e in each) < 1e-6 for d in drawn)
    assert torch.equal(net.draw(image, seeded(3)), drawn[3])
    several = net.draw(images(2, seed=5), [seeded(3), seeded(4)])
    torch.testing.assert_close(several[:1], net.draw(images(2, seed=5)[:1], seeded(3)))
    with pytest.raises(ValueError, match="3 generators for 2 images"):
        net.draw(images(), [seeded()] * 3)


def test_references_are_parts_of_the_wanted_images(net):
    raw = torch.zeros(1, 3, 40, 60)
    raw[:, :, 20:, 30:] = torch.linspace(0.2, 0.8, 30)
    for seed in range(8):
        (part,) = net._parts(raw, seeded(seed))
        assert part.shape == (3, 32, 32)
        assert torch.equal(part[0], part[1])
    black = trained_on(net, 1)
    before = int(black.seen)
    black.train()(images(), torch.zeros(2, 3, 24, 30), seeded())
    assert int(black.seen) == before, "a black picture tells nothing"
    with torch.no_grad():
        black(images(), images(), seeded())
    assert int(black.seen) == before, "pairs that are not trained on leave nothing"


def test_the_loss_is_a_number_a_sample_with_finite_gradients(net):
    image, raw = images(3), images(3, seed=1)
    image[1], raw[1], image[2], raw[2] = 0, 0, 1, 1
    losses = net.train()(image, raw, seeded(2))
    assert losses.shape == (3,)
    made = net._inverted(image, net.of_reference(net._parts(raw, seeded(2))))
    bright = made.clamp_min(1e-4) ** (1 / 2.2) - raw.clamp_min(1e-4) ** (1 / 2.2)
    torch.testing.assert_close(losses, ((made - raw).abs() + bright.abs()).flatten(1).mean(1))
    losses.sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in net.parameters())


def test_it_learns_what_made_the_images():
    """RAW images of two exposures, which the references show."""
    torch.manual_seed(1)
    net = SRISP(**SMALL).train()
    raw = images(4) * torch.tensor([1.0, 0.3, 1.0, 0.3]).view(4, 1, 1, 1)
    image = (images(4) * 0.9).sqrt()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for step in range(80):
        losses.append(net(image, raw, seeded(step)).mean())
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"), [({"thumbnail": 16}, "thumbnail is 16; use 32"), ({"entries": 0}, "entries is 0; use 1")]
)
def test_options_that_make_no_network(options, message):
    with pytest.raises(ValueError, match=message):
        SRISP(**options)

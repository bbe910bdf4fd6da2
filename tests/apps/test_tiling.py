"""Tiles: cover, weights, sameness with the whole image; memory; what is done when it runs out."""

from __future__ import annotations

import pytest
import torch
from helpers import load_script
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.matching import disagreement, match_tone, reduce, reduction_for
from semiisp_plugin.apps.tiling import run_in_tiles, spans, weights_of
from semiisp_plugin.archs.nafnet_arch import NAFNet
from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.archs.seplut_arch import SepLUT


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 9, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth + 0.1 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 1)


class Convolutions(nn.Module):
    """A correction that sees ``depth`` pixels in each direction."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(depth)
        layers = [nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(depth - 1)]
        self.layers = nn.Sequential(*(m for layer in layers for m in (layer, nn.GELU())), nn.Conv2d(8, 3, 3, padding=1))
        for layer in (m for m in self.layers if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)  # so that the pixels furthest away count, too

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = 0.4 + 0.2 * image + 0.02 * self.layers(image)
        return out


class Halving(nn.Module):
    """Shrinks by 8 and enlarges again: what a pixel becomes depends on where it lies in its 8x8 cell."""

    multiple = 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(3, 12, 8, 8), nn.ConvTranspose2d(12, 3, 8, 8)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        x = nn.functional.pad(image, (0, -width % 8, 0, -height % 8))
        return image + self.up(self.down(x))[..., :height, :width]


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data())
def test_spans_cover_and_weights_add_up_to_one(data):
    multiple = data.draw(st.sampled_from([1, 4, 8, 16, 32]))
    tile = data.draw(st.integers(2, 30)) * multiple + data.draw(st.integers(0, multiple - 1))
    overlap = data.draw(st.integers(0, (tile - tile % multiple) // 2))
    length = data.draw(st.integers(1, 700))
    total = torch.zeros(length)
    found = spans(length, tile, overlap, multiple)
    for span in found:
        weights = weights_of(span)
        assert span.start % multiple == 0
        assert span.stop - span.start <= tile
        assert float(weights.min()) >= -1e-6
        total[span.start : span.stop] += weights
    assert all(span.before >= overlap for span in found[1:])
    torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("tile", "overlap"), [(10, 6), (10, -1), (7, 0)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="tile"):
        spans(100, tile, overlap, 4)


def test_what_lies_outside_the_middle_of_an_overlap_is_not_used():
    """Border effects reach as far as the network sees; a quarter of the overlap is cut off for them."""
    first, second = spans(100, 64, 28)
    assert (first, second) == ((0, 64, 0, 28), (36, 100, 28, 0))
    assert weights_of(first)[-7:].abs().max() == 0
    assert weights_of(second)[:7].abs().max() == 0
    assert weights_of(second)[-1] == 1


@pytest.mark.parametrize(("height", "width"), [(200, 150), (97, 211)])
def test_a_convolutional_network_gives_the_same_in_tiles(height, width):
    image = picture(height, width)
    network = Convolutions(8)
    whole = Enhancer(network, device="cpu", tile=0).enhance_tensor(image)
    enhancer = Enhancer(network, device="cpu", tile=64, overlap=32)  # it sees 8 pixels, a quarter of 32
    assert enhancer.plan(height, width).tiles > 8
    torch.testing.assert_close(enhancer.enhance_tensor(image), whole, atol=1e-6, rtol=0)


def test_a_tile_that_sees_too_little_is_found_out():
    """The test above can fail."""
    image, network = picture(200, 150), Convolutions(8)
    whole = Enhancer(network, device="cpu", tile=0).enhance_tensor(image)
    tiled = Enhancer(network, device="cpu", tile=64, overlap=8).enhance_tensor(image)
    assert float((tiled - whole).abs().max()) > 2e-5


@pytest.mark.parametrize(("height", "width"), [(200, 150), (97, 211)])
def test_tiles_keep_to_the_grid_of_a_network_that_shrinks(height, width):
    image, network = picture(height, width), Halving()
    whole = Enhancer(network, device="cpu", tile=0).enhance_tensor(image)
    for tile, overlap in ((64, 32), (100, 40)):
        tiled = Enhancer(network, device="cpu", tile=tile, overlap=overlap).enhance_tensor(image)
        torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=0)


def test_nafnet_with_small_windows_gives_the_same_in_tiles():
    """Its attention then looks at a neighbourhood."""
    torch.manual_seed(0)
    network = NAFNet(width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1], tlc_train_size=8)
    for name, parameter in network.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.3)
    image = picture(208, 240)
    whole = Enhancer(network, device="cpu", tile=0).enhance_tensor(image)
    tiled = Enhancer(network, device="cpu", tile=144, overlap=72).enhance_tensor(image)
    torch.testing.assert_close(tiled, whole, atol=2e-6, rtol=0)


@pytest.mark.parametrize("grid", [None, (1, 1), (4, 4)])
def test_networks_that_decide_by_the_whole_image_do_so_in_tiles(grid):
    """SepLUT's tables and PQDynamicISP's parameters are those of the whole image."""
    torch.manual_seed(3)
    network: nn.Module
    if grid is None:
        network = SepLUT(n_vertices_3d=5, n_vertices_1d=5, thumbnail=64)
    else:
        network = PQDynamicISP(inverse_tone_mapping=True, grid=grid, thumbnail=64)
        nn.init.normal_(network.encoder.head.weight, std=0.1)
    image = picture(157, 203)
    whole = network.eval()(image).clamp(0, 1)
    enhancer = Enhancer(network, device="cpu", tile=64)
    plan = enhancer.plan(157, 203)
    assert (plan.tiles, plan.overlap) == (12, 0)
    torch.testing.assert_close(enhancer.enhance_tensor(image), whole.detach(), atol=2e-6, rtol=0)
    part = picture(157, 203, seed=5)[..., :64, :64]
    alone = network(part)
    context = network.prepare(image)
    other = network.apply_prepared(part, context, (0, 0), (157, 203))
    assert float((alone - other).abs().max()) > 1e-3, "the tile is treated as an image of its own"


def test_blending_hides_what_tiles_disagree_about():
    """Each tile becomes brighter by its own number: a cut has a step of the difference, a blend none to speak of."""
    image = torch.full((1, 3, 64, 256), 0.5)

    def brighter(tile: Tensor, box: object) -> Tensor:
        return tile + box.columns.start / 2560  # type: ignore[attr-defined]

    steps = {}
    for overlap in (0, 32):
        out = run_in_tiles(image, brighter, 64, overlap, 8)
        steps[overlap] = float(out.diff(dim=-1).abs().max())
        assert float(out[..., 0].max()) == 0.5
    assert steps[0] == pytest.approx(64 / 2560, abs=1e-6)
    assert steps[32] < steps[0] / 8


def test_seams_are_measured_where_tiles_meet():
    whole = picture(64, 256)
    tiled = whole.clone()
    tiled[..., 64:] += 10 / 255
    seams = load_script("benchmarks/tile_seams").compare(tiled, whole, 64, 0, 1)
    assert seams.largest == pytest.approx(10, abs=1e-3)
    assert seams.step == pytest.approx(10 / 3, rel=1e-3)  # at one of the three borders
    assert seams.elsewhere < 1e-4


class Exposure(nn.Module):
    """Brings each image to one mean, and sharpens: the tone depends on all pixels, the detail on neighbours."""

    def forward(self, image: Tensor) -> Tensor:
        detail = image - nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
        return image * (0.35 / image.mean((1, 2, 3), keepdim=True)) + 0.5 * detail


def test_tiles_are_brought_to_the_tone_of_the_whole_image():
    image = picture(400, 500) * torch.linspace(0.1, 1, 500)
    whole = Enhancer(Exposure(), device="cpu", tile=0).enhance_tensor(image)
    errors = {}
    for match in (False, "auto"):
        enhancer = Enhancer(Exposure(), device="cpu", tile=128, match=match)
        plan = enhancer.plan(400, 500)
        assert plan.reduction == (4 if match else None)
        errors[match] = float((enhancer.enhance_tensor(image) - whole).abs().mean())
    assert errors[False] > 0.1
    assert errors["auto"] < 0.003


def test_tiles_that_agree_are_left_alone():
    """Matching would make this network's result worse: near a tile's border it treats reduced images differently."""

    class Detail(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            detail = image - nn.functional.avg_pool2d(image, 9, 1, 4, count_include_pad=False)
            return (image + 2 * detail.abs() + 0.002 * image.mean()).clamp(0, 1)

    image = picture(300, 300)
    whole = Enhancer(Detail(), device="cpu", tile=0).enhance_tensor(image)
    errors = {
        match: float(
            (Enhancer(Detail(), device="cpu", tile=128, match=match).enhance_tensor(image) - whole).abs().mean()
        )
        for match in (True, "auto")
    }
    assert errors["auto"] < 0.001
    assert errors["auto"] < errors[True] / 3


def test_matching_does_no_harm_to_texture_that_is_gone_in_the_reduced_image():
    """Reduced, the noise is grey, which this network makes white; the tile's own result must not become that."""

    class Saturating(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (3 * image + 0.3 * image.mean((1, 2, 3), keepdim=True)).clamp(0, 1)

    noise = torch.rand(1, 3, 300, 400, generator=torch.Generator().manual_seed(0))
    image = torch.where(torch.arange(400) < 200, torch.zeros(()), noise)
    whole = Enhancer(Saturating(), device="cpu", tile=0).enhance_tensor(image)
    errors = {}
    for match in (False, True, "auto"):
        tiled = Enhancer(Saturating(), device="cpu", tile=128, match=match).enhance_tensor(image)
        errors[match] = float((tiled - whole).abs().mean())
    assert errors[True] == errors["auto"] < errors[False] / 3


def test_disagreement_is_that_of_the_middle_of_the_worst_tile():
    whole = picture(32, 48)
    border = whole.clone()
    border[..., :8, :] = 1
    assert disagreement([(whole, whole), (border, whole)]) == 0
    assert disagreement([(whole, whole), (whole + 0.125, whole)]) == pytest.approx(0.125)


def test_which_networks_are_matched_is_found_out():
    for network, matched in ((Convolutions(4), False), (Halving(), False), (Exposure(), True)):
        assert (Enhancer(network, device="cpu", tile=128).plan(300, 300).reduction is not None) is matched
        assert Enhancer(network, device="cpu", tile=128, match=not matched).plan(300, 300).reduction != (
            2 if matched else None
        )


def test_matching_leaves_agreement_and_detail_alone():
    tile = picture(96, 100)
    small = reduce(tile, 4)
    torch.testing.assert_close(match_tone(tile, small, small, 4, 4), tile, atol=1e-5, rtol=0)
    tone = torch.tensor([1.5, 0.8, 1.0]).view(1, 3, 1, 1)
    matched = match_tone(tile, small, small * tone + 0.1, 4, 4)
    torch.testing.assert_close(matched, tile * tone + 0.1, atol=0.02, rtol=0)
    flat = 0.5 + 0.002 * (torch.rand(1, 3, 96, 100, generator=torch.Generator().manual_seed(0)) - 0.5)
    matched = match_tone(
        flat, reduce(flat, 4), reduce(flat, 4) * 0 + 0.7, 4, 4
    )  # the small image shows nothing of the texture
    torch.testing.assert_close(matched, flat + 0.2, atol=2e-4, rtol=0)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_large_images_go_through_in_tiles():
    enhancer = Enhancer(Convolutions(4), device="cpu")
    assert enhancer.plan(1000, 2000).tile is None
    assert enhancer.plan(2000, 1500).tile == 1024
    assert enhancer.plan(17, 9000).tile == 1024
    assert Enhancer(Convolutions(4), device="cpu", tile=0).plan(2000, 1500).tile is None


class Greedy(Convolutions):
    """Has memory for so many pixels."""

    def __init__(self, limit: int, message: str = "CUDA out of memory.") -> None:
        super().__init__(2)
        self.limit, self.message = limit, message
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape[-2:]))
        if image.shape[-1] * image.shape[-2] > self.limit:
            raise torch.OutOfMemoryError(self.message) if "CUDA" in self.message else RuntimeError(self.message)
        return super().forward(image)


@pytest.mark.parametrize("message", ["CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_tiles_are_halved_when_memory_runs_out(message):
    image = picture(300, 400)
    network = Greedy(150 * 150, message)
    enhancer = Enhancer(network, device="cpu", tile=0)
    whole = Enhancer(Convolutions(2), device="cpu", tile=0).enhance_tensor(image)
    torch.testing.assert_close(enhancer.enhance_tensor(image), whole, atol=1e-6, rtol=0)
    tried = list(dict.fromkeys(max(shape) for shape in network.seen))
    assert tried[0] == 400
    assert max(network.seen[-1]) <= 150
    network.seen.clear()
    enhancer.enhance_tensor(image)  # the next image of this size begins with what fitted
    assert max(max(shape) for shape in network.seen) <= 150


def test_the_reduced_image_is_no_larger_than_memory_bears():
    for size, factor in (((2829, 4243), 8), ((512, 512), 1), ((17, 9000), 16), ((512, 2048), 2)):
        assert reduction_for(*size, 512) == factor


def test_an_image_is_not_changed_by_a_network_that_returns_it():
    image = picture(150, 170) * 2 - 0.5
    before = image.clone()
    for tile in (0, 64):
        out = Enhancer(nn.Identity(), device="cpu", tile=tile, overlap=32 if tile else None).enhance_tensor(image)
        torch.testing.assert_close(out, before.clamp(0, 1), atol=1e-6, rtol=0)
        assert torch.equal(image, before)


class Windows(nn.Module):
    """Takes whole windows only, as BasicSR's SwinIR does, and keeps their size in its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Identity()
        self.block.window_size = 7

    def forward(self, image: Tensor) -> Tensor:
        rows, columns = image.shape[-2] // 7, image.shape[-1] // 7
        return image.view(1, 3, rows, 7, columns, 7).reshape(image.shape) * 0.5


@pytest.mark.parametrize("size", [(1, 1), (17, 90), (150, 200)])
def test_images_are_padded_to_whole_windows(size):
    image = picture(*size)
    for tile in (0, 224):
        out = Enhancer(Windows(), device="cpu", tile=tile).enhance_tensor(image)
        torch.testing.assert_close(out, image / 2, atol=1e-6, rtol=0)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="wrong in it"):
        Enhancer(Greedy(0, "something is wrong in it"), device="cpu").enhance_tensor(picture(40, 40))


def test_memory_that_suffices_for_nothing_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        Enhancer(Greedy(0), device="cpu").enhance_tensor(picture(200, 200))

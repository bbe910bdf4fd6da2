"""The paper's lookup table: Algorithm 1 to the bit, its errors, and its files."""

import contextlib
import functools
import importlib.util
import sys
import types

import numpy as np
import pytest
import scipy.interpolate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiisp_plugin.isp import paper_lut as module
from semiisp_plugin.isp.functions import gamma_tone_map, inverse_tone_map
from semiisp_plugin.isp.paper_lut import PAPER_SIZES, PaperLUT, paper_lut

# Where the figures that the paper gives for its table are met; it does not say which ranges it used.
PAPER_BOX = ((1.0, 2.0), (0.9, 1.1), (0.2, 0.8))
MODERATE = ((1.0, 3.0), (0.5, 1.0), (0.0, 1.0))
ISP_GAMMA = ((0.25, 4.0), (0.2, 2.0), (0.0, 1.0))
ISP_TONE = ((1 / 3, 3.5), (0.0, 3.0), (0.0, 1.0))
SMALL = (3, 4, 5, 37, 23)

FUNCTIONS = {
    ("gamma_tone_map", 1): gamma_tone_map,
    ("inverse_tone_map", 1): inverse_tone_map,
    ("inverse_tone_map", -1): functools.partial(inverse_tone_map, sign=-1),
}


def algorithm_1(f, r_g1, r_g2, r_k, d_g1, d_g2, d_k, d_i, d_o):
    """Part (1) of the paper's pseudo-code, line by line, up to the table."""
    g1s = np.linspace(r_g1[0], r_g1[1], d_g1)
    g2s = np.linspace(r_g2[0], r_g2[1], d_g2)
    ks = np.linspace(r_k[0], r_k[1], d_k)
    inps = np.linspace(0, 1, d_i)
    outs = np.linspace(0, 1, d_o)
    g1_grid, g2_grid, k_grid, inp_grid = np.meshgrid(g1s, g2s, ks, inps, indexing="ij", sparse=True)
    out_grid = f(*map(torch.from_numpy, (inp_grid, g1_grid, g2_grid, k_grid))).numpy()
    lut_values = []
    for i in range(d_o):
        nearest_indices = np.argmin(np.abs(out_grid - outs[i]), axis=-1)
        nearest_inp_values = np.take_along_axis(inp_grid, np.expand_dims(nearest_indices, axis=-1), axis=-1)
        lut_values.append(nearest_inp_values)
    return np.concatenate(lut_values, axis=-1)


def samples(ranges, n, seed, dtype=torch.float64):
    """``n`` images and parameter sets, uniform."""
    image, *u = torch.rand(4, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return image, [low + (high - low) * v for v, (low, high) in zip(u, ranges, strict=True)]


def errors(lut, f, ranges, seed, n=300_000):
    """|f^-1(f(I; P); P) - I|, the measure of Sec. A.2."""
    image, parameters = samples(ranges, n, seed)
    return (lut(f(image, *parameters), *parameters) - image).abs()


@pytest.fixture(scope="module")
def full():
    """The table in the paper's sizes."""
    return PaperLUT("gamma_tone_map", PAPER_BOX)


@pytest.fixture(scope="module")
def small():
    return PaperLUT("gamma_tone_map", ISP_GAMMA, SMALL)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ranges",
    [PAPER_BOX, MODERATE, ISP_GAMMA, ISP_TONE, ((0.25, 0.3), (0.2, 0.25), (0.9, 1.0)), ((3, 3.5), (0, 3), (0, 1))],
)
# With 11 inputs and 21 outputs every other output of the identity lies halfway between two inputs.
@pytest.mark.parametrize(
    "sizes", [SMALL, (2, 2, 2, 2, 2), (3, 3, 3, 11, 21), (4, 3, 7, 1000, 64), (2, 2, 13, 10_000, 50)]
)
@pytest.mark.parametrize(("function", "sign"), list(FUNCTIONS))
def test_table_is_that_of_algorithm_1(function, sign, ranges, sizes):
    if function == "gamma_tone_map" and ranges[1][0] == 0:
        ranges = (ranges[0], (1e-3, ranges[1][1]), ranges[2])  # g2 > 0
    lut = PaperLUT(function, ranges, sizes, sign=sign)
    assert lut.table.shape == (*sizes[:3], sizes[4])
    assert lut.table.dtype == np.float64
    assert np.array_equal(lut.table, algorithm_1(FUNCTIONS[function, sign], *ranges, *sizes))


def interval(low, high):
    return (
        st.tuples(st.floats(low, high), st.floats(low, high))
        .map(sorted)
        .filter(lambda r: r[1] - r[0] > 1e-6)
        .map(tuple)
    )


sizes_drawn = st.tuples(*[st.integers(2, 4)] * 3, st.integers(2, 300), st.integers(2, 70))


@pytest.mark.slow
@settings(max_examples=150)
@given(interval(0.02, 20), interval(0.01, 8), interval(0, 1), sizes_drawn)
def test_table_is_that_of_algorithm_1_far_beyond_the_ranges(g1, g2, k, sizes):
    """Down to g1 = 0.02, where much of the map underflows."""
    lut = PaperLUT("gamma_tone_map", (g1, g2, k), sizes)
    assert np.array_equal(lut.table, algorithm_1(gamma_tone_map, g1, g2, k, *sizes))


@pytest.mark.slow
@settings(max_examples=150)
@given(interval(0.05, 3.59), interval(0, 10), interval(0, 1), sizes_drawn, st.sampled_from([1, -1]))
def test_inverse_tone_table_is_that_of_algorithm_1(g3, g4, k2, sizes, sign):
    lut = PaperLUT("inverse_tone_map", (g3, g4, k2), sizes, sign=sign)
    assert np.array_equal(lut.table, algorithm_1(FUNCTIONS["inverse_tone_map", sign], g3, g4, k2, *sizes))


def test_first_of_equally_near_inputs():
    """As numpy's argmin has it, where the map underflows and where its value is lost beside the output's."""
    ranges, sizes = ((0.02, 0.03), (0.05, 0.06), (0.9, 1.0)), (2, 2, 2, 1001, 9)
    values = gamma_tone_map(torch.linspace(0, 1, 1001).double(), *torch.tensor([0.02, 0.05, 1.0]).double())
    assert (values[1:450].diff() == 0).all()
    lut = PaperLUT("gamma_tone_map", ranges, sizes)
    assert np.array_equal(lut.table, algorithm_1(gamma_tone_map, *ranges, *sizes))
    assert (lut.table[..., 0] == 0).all()
    # i^200 at 0, 1/4, 1/2, 3/4, 1: 3/4 is nearest to the output 1/4, but in float64 the first four are equally near.
    ranges, sizes = ((0.005, 0.03), (1.0, 1.1), (0.0, 1.0)), (2, 2, 2, 5, 5)
    values = gamma_tone_map(torch.linspace(0, 1, 5).double(), *torch.tensor([0.005, 1, 0]).double()).numpy()
    assert (np.diff(values) > 0).all()
    assert np.argmin(np.abs(values - 0.25)) == 0
    lut = PaperLUT("gamma_tone_map", ranges, sizes)
    assert lut.table[0, 0, 0, 1] == 0
    assert np.array_equal(lut.table, algorithm_1(gamma_tone_map, *ranges, *sizes))


@pytest.mark.parametrize("seed", range(3))
def test_nearest_equals_argmin(seed):
    """Rows of every kind: plateaus, tiny values, jumps, ties."""
    random = np.random.default_rng(seed)
    n, outputs = 40, np.linspace(0, 1, 17)
    smooth = np.sort(random.random((50, n)), axis=1)
    steps = np.sort(random.integers(0, 33, (50, n)), axis=1) / 32
    tiny = np.sort(random.random((50, n)) ** random.integers(1, 400, (50, 1)), axis=1)
    zeros = np.where(np.arange(n) < random.integers(0, n, (50, 1)), 0, smooth)
    rows = np.concatenate((smooth, steps, tiny, zeros))
    rows[:, 0] = 0
    expected = np.abs(rows[:, None, :] - outputs[:, None]).argmin(-1)
    assert np.array_equal(module._nearest(rows, outputs), expected)


@pytest.mark.slow
def test_full_table_where_sampled(full):
    assert full.sizes == PAPER_SIZES
    assert full.ranges == PAPER_BOX
    inputs, outputs = np.linspace(0, 1, 10_000), np.linspace(0, 1, 512)
    axes = [np.linspace(*r, n) for r, n in zip(PAPER_BOX, PAPER_SIZES, strict=False)]
    random = np.random.default_rng(0)
    for i, j, k in random.integers(0, PAPER_SIZES[:3], (6, 3)):
        values = gamma_tone_map(*map(torch.tensor, (inputs, axes[0][i], axes[1][j], axes[2][k]))).numpy()
        assert np.array_equal(full.table[i, j, k], inputs[np.abs(values - outputs[:, None]).argmin(-1)])


def test_nodes_by_brute_force(small):
    """Plain Python and eq. 20 as printed; nearest up to rounding, since its powers are other ones."""
    inputs = [n / 36 for n in range(37)]
    g1s, g2s, ks = (np.linspace(*r, n).tolist() for r, n in zip(ISP_GAMMA, SMALL, strict=False))

    def f(i, g1, g2, k):
        return i ** ((1 / g1) * (1 - (1 - g2) * i ** (1 / g1)) / (1 - (1 - g2) * k ** (1 / g1)))

    for a, b, c, d in np.ndindex(small.table.shape):
        distances = [abs(f(i, g1s[a], g2s[b], ks[c]) - d / 22) for i in inputs]
        chosen = round(float(small.table[a, b, c, d]) * 36)
        assert small.table[a, b, c, d] == pytest.approx(inputs[chosen], abs=1e-15)
        assert distances[chosen] <= min(distances) + 1e-14


# --- the paper's figures ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_errors_of_the_paper(full):
    """1.1e-5 on average, 6.5e-5 at most (Sec. A.2). A maximum depends on the sample: the median of five."""
    found = [errors(full, gamma_tone_map, PAPER_BOX, seed) for seed in range(5)]
    assert 1.0e-5 <= torch.cat(found).mean() <= 1.2e-5
    assert 4e-5 <= torch.stack([e.max() for e in found]).median() <= 7e-5


@pytest.mark.slow
def test_errors_beyond_the_narrow_box():
    """Why the exact inverse is the default. With the paper's sizes: smaller ones would say little."""
    lut = PaperLUT("gamma_tone_map", MODERATE)
    assert errors(lut, gamma_tone_map, MODERATE, 0).max() > 1e-3


# --- looking up -------------------------------------------------------------------------------------------------------


def scipy_lookup(lut, image, parameters):
    """Part (2) of the pseudo-code."""
    axes = [np.linspace(*r, n) for r, n in zip(lut.ranges, lut.sizes, strict=False)]
    f_inv = scipy.interpolate.RegularGridInterpolator(
        (*axes, np.linspace(0, 1, lut.sizes[4])), lut.table, method="linear"
    )
    ones = np.ones(tuple(image.shape))
    columns = [*(ones * p.double().numpy() for p in parameters), image.double().numpy()]
    return torch.from_numpy(f_inv(np.stack([c.reshape(-1) for c in columns], axis=-1)).reshape(image.shape))


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 120, 90), (1, 3, 1, 1), ()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_lookup_is_that_of_algorithm_1(small, dtype, shape):
    """Global and local parameters, more values than are looked up at a time."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 120, 90, generator=generator).to(dtype)
    assert image.numel() > module._LOOKUP_BLOCK
    # Off the ends, where rounding to bfloat16 would leave the range.
    parameters = [
        (low + (high - low) * (0.05 + 0.9 * torch.rand(shape, generator=generator))).to(dtype)
        for low, high in ISP_GAMMA
    ]
    before = image.clone()
    out = small(image, *parameters)
    assert out.shape == image.shape
    assert out.dtype == dtype
    assert torch.equal(image, before)
    assert torch.equal(out, scipy_lookup(small, image, parameters).clamp(0, 1).to(dtype))


@pytest.mark.parametrize(("function", "sign"), list(FUNCTIONS))
def test_it_is_the_inverse(function, sign):
    """At the nodes, within half an input step; the ends of the image exactly."""
    ranges, sizes = ((0.8, 1.2), (0.8, 1.2), (0.3, 0.7)), (3, 3, 3, 2000, 40)
    lut = PaperLUT(function, ranges, sizes, sign=sign)
    outs = torch.linspace(0, 1, 40, dtype=torch.float64).view(1, 1, 1, 40).expand(1, 3, 2, 40)
    parameters = [torch.tensor([0.8, 1.0, 1.2]), torch.tensor([1.2, 0.8, 1.0]), torch.tensor([0.3, 0.5, 0.7])]
    parameters = [p.double().view(1, 3, 1, 1) for p in parameters]
    inverse = lut(outs, *parameters)
    assert (inverse[..., 0] == 0).all()
    assert (inverse[..., -1] == 1).all()
    forward = FUNCTIONS[function, sign]
    # float32's 0.8 is not the node: 4e-8 away, times the parameters' slopes.
    assert (forward((inverse - 0.5 / 1999).clamp_min(0), *parameters) <= outs + 1e-6).all()
    assert (forward((inverse + 0.5 / 1999).clamp_max(1), *parameters) >= outs - 1e-6).all()


def test_shapes_other_than_images(small):
    one = torch.ones(())
    assert small(torch.tensor(1.0), one, one, one).item() == 1
    assert small(torch.zeros(0, 3, 4, 4), *[torch.ones(1, 3, 1, 1)] * 3).shape == (0, 3, 4, 4)
    image = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(2))
    strided = image.transpose(2, 3)
    assert torch.equal(small(strided, one, one, one), small(image, one, one, one).transpose(2, 3))


def test_rounded_ends_of_the_ranges_are_accepted():
    ranges = ((0.1, 0.9), (0.2, 0.9), (0.0, 0.7))
    lut = PaperLUT("gamma_tone_map", ranges, SMALL)
    image = torch.tensor([0.5, 1 + 1e-7, -1e-9])
    ends = [torch.tensor([r[0] for r in ranges]), torch.tensor([r[1] for r in ranges])]
    assert ends[1][0].item() < 0.9 < ends[1][2].item() + 0.3  # rounded inwards and outwards
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):  # float64 that was float32 before
        for end, exact in zip(ends, zip(*ranges, strict=True), strict=True):
            got = lut(image.double(), *end.to(dtype))
            expected = lut(torch.tensor([0.5, 1, 0]).double(), *torch.tensor(exact, dtype=torch.float64))
            # Rounding moves a parameter by half a unit, and the slope in g1 = 0.1 is up to 1/g1.
            assert (got - expected).abs().max() <= 20 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_than_rounding_is_not_accepted(small, dtype):
    inside = [torch.ones((), dtype=dtype) for _ in range(3)]
    with pytest.raises(ValueError, match=r"image holds 1\.0000"):
        small(torch.tensor(1 + 1e-5, dtype=dtype), *inside)
    with pytest.raises(ValueError, match=r"g1 holds 4\.0000"):
        small(torch.tensor(0.5, dtype=dtype), torch.tensor(4 + 1e-5, dtype=dtype), *inside[1:])


def test_result_stays_in_the_unit_interval(small):
    """The sixteen weights sum to 1 but for rounding."""
    _, parameters = samples(ISP_GAMMA, 20_000, 7)
    white = torch.ones(20_000, dtype=torch.float64)
    assert small._on_cpu([*parameters, white]).max() > 1
    assert small(white, *parameters).max() == 1


@pytest.mark.parametrize("which", range(4))
def test_nan_gives_nan(small, which):
    image = torch.full((1, 3, 2, 2), 0.5)
    tensors = [image, *(torch.full((1, 3, 2, 2), v) for v in (1.0, 1.0, 0.5))]
    tensors[which][0, 1, 1, 0] = float("nan")
    out = small(*tensors)
    assert out.isnan().nonzero().tolist() == [[0, 1, 1, 0]]
    everywhere = [torch.full((1, 1, 1, 1), float("nan")) if n == which and n else t for n, t in enumerate(tensors)]
    assert small(*everywhere).isnan().any()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 5.0, -1.0])
def test_nan_does_not_hide_a_value_outside(small, value):
    g1 = torch.tensor([float("nan"), value, 1.0])
    with pytest.raises(ValueError, match="g1 holds"):
        small(torch.rand(3), g1, torch.ones(3), torch.ones(3))


@pytest.mark.parametrize(
    ("function", "names", "inside"),
    [("gamma_tone_map", ("g1", "g2", "k"), (1.0, 1.0, 0.5)), ("inverse_tone_map", ("g3", "g4", "k2"), (1.0, 1.0, 0.5))],
)
@pytest.mark.parametrize("which", range(4))
def test_values_outside_the_ranges(function, names, inside, which):
    ranges = ((0.5, 2.0), (0.5, 2.0), (0.0, 1.0))
    lut = PaperLUT(function, ranges, SMALL)
    values = [torch.full((1, 3, 1, 1), v) for v in (*inside, 0.5)]
    for bad in (2.25, -0.125):
        values[which][0, 1] = bad
        *parameters, image = values
        pattern = (
            rf"^{names[which]} holds {bad}, .* \[{ranges[which][0]:g}, {ranges[which][1]:g}\]: build .*'exact'"
            if which < 3
            else rf"^image holds {bad}, .* \[0, 1\]: clamp"
        )
        with pytest.raises(ValueError, match=pattern):
            lut(image, *parameters)


def test_no_gradient(small):
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    for which in range(4):
        tensors = [image, *[torch.ones(1, 3, 1, 1)] * 3]
        tensors[which] = tensors[which].clone().requires_grad_()
        with pytest.raises(RuntimeError, match="'exact'"):
            small(*tensors)
        with torch.no_grad():
            assert not small(*tensors).requires_grad


def test_wrong_arguments(small):
    one = torch.ones(1, 3, 1, 1)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        small(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), one, one, one)
    for shape in ((1, 4, 1, 1), (1, 1, 3, 1, 1), (2, 3, 1, 1)):
        with pytest.raises(ValueError, match=r"g2 has the shape .* broadcast to the image's \(1, 3, 4, 4\)"):
            small(torch.rand(1, 3, 4, 4), one, torch.ones(shape), one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gamma", ISP_GAMMA), "'gamma'; it must be one of gamma_tone_map, inverse_tone_map"),
        (("gamma_tone_map", ISP_GAMMA[:2]), "2 ranges given.*g1, g2, k"),
        (("gamma_tone_map", ((1, 2), (1, 1), (0, 1))), r"range of g2 is \(1.0, 1.0\).*low < high.*\(1.0, 1.01\)"),
        (("inverse_tone_map", ((1, 2), (1, 2), (1, 0))), r"range of k2 is \(1.0, 0.0\)"),
        (("gamma_tone_map", ((1, float("inf")), (1, 2), (0, 1))), "range of g1.*finite"),
        (("gamma_tone_map", ((1, float("nan")), (1, 2), (0, 1))), "range of g1.*finite"),
        (("gamma_tone_map", ISP_GAMMA, (60, 1, 30, 100, 100)), "2 or more.*two points"),
        (("gamma_tone_map", ISP_GAMMA, (60, 30, 100, 100)), "d_g1, d_g2, d_k, d_i, d_o"),
        # Where the curve turns down again, and where it divides by zero.
        (("gamma_tone_map", ((1, 2), (1, 12), (0, 1)), SMALL), r"no inverse at g1 = 1, g2 = 12, k = 0, .* narrow"),
        (("gamma_tone_map", ((0, 1), (0.5, 1), (0, 1)), SMALL), "no inverse at g1 = 0"),
        (("inverse_tone_map", ((1, 8), (0, 3), (0, 1)), SMALL), "no inverse at g3 = 4.5, g4 = 2, k2 = 0"),
    ],
)
def test_what_makes_no_table(arguments, message):
    with pytest.raises(ValueError, match=message):
        PaperLUT(*arguments)


def test_sign_and_whole_sizes():
    with pytest.raises(ValueError, match="sign must be 1 or -1, not 0"):
        PaperLUT("inverse_tone_map", ISP_TONE, SMALL, sign=0)
    with pytest.raises(TypeError):
        PaperLUT("inverse_tone_map", ISP_TONE, (3, 3, 3, 10.0, 10))


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def test_missing_cupy_names_the_fix(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"pip install -e '\.\[cupy\]'"):
        small._on_gpu([torch.rand(5)] * 4)


def test_cupy_path_with_numpy_in_its_place(small, monkeypatch):
    """What the path asks of CuPy has NumPy's names and meaning."""
    devices = []

    def device(index):
        devices.append(index)
        return contextlib.nullcontext()

    cupy = types.ModuleType("cupy")
    cupy.asarray, cupy.from_dlpack = np.asarray, np.from_dlpack
    cupy.cuda = types.SimpleNamespace(Device=device)
    interpolate = types.ModuleType("cupyx.scipy.interpolate")
    interpolate.RegularGridInterpolator = scipy.interpolate.RegularGridInterpolator
    for name, stand_in in (("cupy", cupy), ("cupyx.scipy.interpolate", interpolate)):
        monkeypatch.setitem(sys.modules, name, stand_in)
    for name in ("cupyx", "cupyx.scipy"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    image, parameters = samples(ISP_GAMMA, 1000, 4, torch.float32)
    image[7] = float("nan")
    flat = [*parameters, image]
    monkeypatch.setattr(small, "_interpolators", {})
    for _ in range(2):
        assert torch.equal(small._on_gpu(flat).nan_to_num(-1), small._on_cpu(flat).nan_to_num(-1))
    assert len(devices) == 2
    assert len(small._interpolators) == 2  # built once on either side


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and importlib.util.find_spec("cupy")), reason="needs a CUDA GPU and CuPy"
)
def test_gpu_agrees_with_cpu(small):
    image, parameters = samples(ISP_GAMMA, 100_000, 5, torch.float32)
    image[7] = float("nan")
    with torch.cuda.stream(torch.cuda.Stream()):
        out = small(image.cuda(), *(p.cuda() for p in parameters))
    torch.cuda.synchronize()
    assert out.is_cuda
    # The same sum of 16 products in float64, in another order, rounded to float32.
    torch.testing.assert_close(out.cpu(), small(image, *parameters), rtol=0, atol=1.2e-7, equal_nan=True)


# --- cache ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def builds(monkeypatch):
    """A list that grows by one whenever a table is built."""
    built = []
    build = PaperLUT._build

    def counted(self):
        built.append(self)
        return build(self)

    monkeypatch.setattr(PaperLUT, "_build", counted)
    return built


def test_cache_in_the_process(builds):
    paper_lut.cache_clear()
    first = paper_lut("inverse_tone_map", ISP_TONE, SMALL, -1)
    assert paper_lut("inverse_tone_map", ISP_TONE, SMALL, -1) is first
    assert first.sign == -1
    assert paper_lut("inverse_tone_map", ISP_TONE, SMALL, 1) is not first
    assert len(builds) == 2
    assert paper_lut.cache_info().maxsize <= 8  # 211 MiB each
    paper_lut.cache_clear()


def test_the_table_cannot_be_written_to(small):
    with pytest.raises(ValueError, match="read-only"):
        small.table[0] = 0

"""The file between phase 1 and the pseudo-data."""

import inspect

import msgspec
import numpy as np
import pytest
import torch

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.archs.srisp_arch import SRISP
from semiisp_plugin.io.checkpoint import CheckpointError, save_atomically
from semiisp_plugin.io.image_io import write_image
from semiisp_plugin.io.lmdb_io import close_all, read_meta
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import run
from semiisp_plugin.pseudo.f_isp import MANY_PAIRS, load_f_isp, make_generator, save_f_isp
from semiisp_plugin.pseudo.manifest import DRAWN_WITH, MADE_WITH, BuildFolder
from semiisp_plugin.pseudo.online import COPIES, OnlineDraw
from semiisp_plugin.pseudo.sources import UPI, DeterministicInverse, MixtureInverse, NetworkInverse

OPTIONS = {"type": "PQDynamicISP", "inverse_tone_mapping": True, "grid": [2, 3], "thumbnail": 32, "gamma_start": 1.5}


@pytest.fixture
def parts() -> tuple[PQDynamicISP, dict[str, ParameterBank]]:
    torch.manual_seed(0)
    network = PQDynamicISP(**{k: v for k, v in OPTIONS.items() if k != "type"})
    torch.nn.init.normal_(network.encoder.head.weight, std=0.05)
    banks = {"global": ParameterBank(network.spec, 4), "local": ParameterBank(network.spec, 4, (2, 3))}
    for bank in banks.values():
        for _ in range(3):  # six sets: the first two have left
            bank.append(network.spec.squash(torch.randn(2, 45, *bank.grid)))
    return network, banks


@pytest.fixture
def save(parts, tmp_path):
    network, banks = parts

    def write(n_pairs: int = 485) -> str:
        path = tmp_path / "f_isp_latest.pth"
        save_f_isp(path, OPTIONS, network.state_dict(), banks, n_pairs)
        return str(path)

    return write


def test_options_of_drawing_are_arguments_of_the_generator():
    parameters = inspect.signature(make_generator).parameters.items()
    arguments = {name: p.default for name, p in parameters if name not in COPIES}
    defaults = {field.name: field.default for field in msgspec.structs.fields(PseudoOptions)}
    assert arguments == {name: defaults[name] for name in DRAWN_WITH}
    assert set(DRAWN_WITH) < set(MADE_WITH)


def test_banks_of_free_numbers_are_refused(parts, save):
    _, banks = parts
    banks["local"].append(torch.zeros(1, 45, 2, 3))
    with pytest.raises(CheckpointError, match=r"f_isp_latest.pth: its bank 'local' .* g3 \(red\) of set 3 is 0,"):
        load_f_isp(save())


def test_round_trip(parts, save):
    network, banks = parts
    loaded, loaded_banks, n_pairs = load_f_isp(save())
    image = torch.rand(1, 3, 24, 30)
    with torch.no_grad():
        assert torch.equal(loaded(image), network(image))
    assert loaded.spec == network.spec
    assert loaded.spec.gamma_start == 1.5
    assert n_pairs == 485
    assert loaded_banks.keys() == banks.keys()
    for label, bank in banks.items():
        assert torch.equal(loaded_banks[label].sets, bank.sets)
        assert loaded_banks[label].capacity == 4
        assert loaded_banks[label].spec == bank.spec


@pytest.mark.parametrize(
    ("sets", "n_pairs", "local"),
    [
        ("auto", MANY_PAIRS - 1, False),
        ("auto", MANY_PAIRS, True),
        ("global", 4500, False),
        ("local", 100, True),
    ],
)
def test_choice_of_the_sets_for_step_3(save, sets, n_pairs, local):
    generator = make_generator(save(n_pairs), sets=sets)
    assert generator.first.bank.grid == (1, 1)
    assert not generator.first.per_function
    assert generator.second.bank.grid == ((2, 3) if local else (1, 1))
    assert generator.second.per_function is local
    assert MANY_PAIRS == 1000  # Sec. 4.2


@pytest.mark.slow
def test_tables_of_the_paper_span_what_the_banks_hold(save, parts):
    """A pair by tables next to the same pair by the exact inverse."""
    _, banks = parts
    path = save(MANY_PAIRS)
    table, exact = (make_generator(path, inverse=inverse) for inverse in ("paper_lut", "exact"))
    assert table.first.isp is table.second.isp, "the tables are those of both steps"
    ranges = table.first.isp.lut.gamma_ranges
    for bank in banks.values():
        gm = bank.spec.split(bank.sets)["gm"]
        for (low, high), name in zip(ranges, ("g1", "g2", "k"), strict=True):
            assert low < gm[name].min()
            assert gm[name].max() < high
    photograph = torch.randint(0, 256, (1, 3, 40, 48), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    pairs = [g.generate_input(photograph, torch.Generator().manual_seed(1)) for g in (table, exact)]
    difference = (pairs[0].input - pairs[1].input).abs()
    assert 1e-6 < difference.mean() < 1e-2


@pytest.mark.parametrize(("source", "kind"), [("upi", UPI), ("deterministic", DeterministicInverse)])
@pytest.mark.parametrize("sets", ["auto", "global"])
def test_other_sources_take_both_steps_whatever_the_number_of_pairs(save, parts, source, kind, sets):
    generator = make_generator(save(MANY_PAIRS), sets=sets, source=source)
    assert type(generator.first) is kind
    assert generator.second is generator.first
    if source == "upi":
        assert generator.first.image_enhancement  # as the f_ISP is
    else:
        mean = parts[1]["global"].sets.mean(0, keepdim=True)
        torch.testing.assert_close(generator.first.bank.sets, mean)
    photograph = torch.randint(0, 256, (1, 3, 40, 48), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    pair = generator.generate(photograph, torch.Generator().manual_seed(1))
    assert not torch.equal(pair.target, photograph), "step 2 is left out"


@pytest.mark.parametrize(("n_pairs", "local"), [(MANY_PAIRS - 1, False), (MANY_PAIRS, True)])
def test_mixtures_are_of_the_sets_that_the_paper_draws_from(save, n_pairs, local):
    generator = make_generator(save(n_pairs), source="mixture")
    assert type(generator.first) is type(generator.second) is MixtureInverse
    assert generator.first.bank.grid == (1, 1)
    assert generator.second.bank.grid == ((2, 3) if local else (1, 1))
    assert generator.second.per_function is local


def test_a_source_that_is_unknown(save):
    """What goes together is checked where option files are."""
    with pytest.raises(ValueError, match=r"source: 'upl' is none of bank, .*upi"):
        make_generator(save(), source="upl")


@pytest.fixture
def run_pseudo(save, tmp_path):
    """``basicsr pseudo`` on two photographs; returns the report and what the build says it was made with."""
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        write_image(tmp_path / "photos" / f"{i}.png", pixels)
    path = save()

    def build(out: str, **changes):
        close_all()
        folder = tmp_path / out
        options = PseudoOptions(name=out, photographs=str(tmp_path / "photos"), f_isp=path, out=str(folder), num_gpu=0)
        report = run(msgspec.structs.replace(options, **changes), progress=False)
        return report, BuildFolder(folder).settings, read_meta(folder / "lq.lmdb")

    yield build
    close_all()


def test_source_and_draws_belong_to_a_build(run_pseudo):
    report, made_with, meta = run_pseudo("bank")
    assert report.written == len(meta) == 2
    assert (made_with["source"], made_with["draws"], made_with["sets"]) == ("bank", 1, "auto")
    report, made_with, meta = run_pseudo("upi", source="upi", draws=3)
    assert (made_with["source"], made_with["draws"]) == ("upi", 3)
    assert [entry.key for entry in meta] == ["0", "0__draw1", "0__draw2", "1", "1__draw1", "1__draw2"]
    assert run_pseudo("upi", source="upi", draws=3)[0].kept == 6
    with pytest.raises(ValueError, match="source: upi then, deterministic now"):
        run_pseudo("upi", source="deterministic", draws=3)


@pytest.fixture
def source_network(tmp_path):
    """``net_g`` of a small network that was trained for a step."""
    torch.manual_seed(0)
    options = {"type": "SRISP", "inverse_tone_mapping": True, "thumbnail": 32, "entries": 4, "num_feat": 8}
    network = SRISP(**{key: value for key, value in options.items() if key != "type"}).train()
    image = torch.rand(2, 3, 40, 48)
    network(image, image.square(), torch.Generator().manual_seed(0))
    path = tmp_path / "net_g_latest.pth"
    torch.save({"params": network.state_dict(), "network": options}, path)
    return network.eval(), path


def test_a_trained_network_takes_both_steps(save, source_network):
    network, path = source_network
    generator = make_generator(save(MANY_PAIRS), source="network", source_network=path)
    assert type(generator.first) is NetworkInverse
    assert generator.second is generator.first
    photograph = torch.randint(0, 256, (2, 3, 40, 48), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    states = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    made = generator.generate_input(photograph, states)
    with torch.no_grad():
        expected = network.draw(photograph / 255, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    torch.testing.assert_close(made.input, expected)
    assert not made.input.requires_grad
    assert generator.to("cpu") is generator
    with pytest.raises(ValueError, match="source: network needs source_network"):
        make_generator(save(), source="network")
    mixed = {**torch.load(save()), "network": torch.load(path)["network"]}
    torch.save(mixed, path)
    with pytest.raises(CheckpointError, match="holds a SRISP; an f_ISP of phase 1 is a PQDynamicISP"):
        make_generator(path)
    with pytest.raises(CheckpointError, match=r"holds a PQDynamicISP; a network that makes RAW images .* SRISP"):
        make_generator(save(), source="network", source_network=save())


def test_a_build_remembers_its_network(run_pseudo, source_network):
    network, path = source_network
    learned = {"source": "network", "source_network": str(path)}
    report, made_with, _ = run_pseudo("learned", **learned)
    assert (report.written, made_with["source"]) == (2, "network")
    with torch.no_grad():
        network.dictionary += 0.1
    torch.save({**torch.load(path), "params": network.state_dict()}, path)
    with pytest.raises(ValueError, match=f"source_network_sha256: {made_with['source_network_sha256']} then"):
        run_pseudo("learned", **learned)


def test_pseudo_inputs_of_a_network_are_drawn_in_training(save, source_network, tmp_path):
    """By the copies in the build, whatever becomes of the files that it was made with."""
    network, path = source_network
    write_image(tmp_path / "photos" / "0.png", np.full((40, 48, 3), 99, np.uint8))
    options = PseudoOptions(
        name="online", photographs=str(tmp_path / "photos"), f_isp=save(), out=str(tmp_path / "out")
    )
    learned = {"source": "network", "source_network": str(path), "mode": "online", "num_gpu": 0}
    run(msgspec.structs.replace(options, **learned), progress=False)
    close_all()
    path.unlink()
    target = torch.randint(0, 256, (1, 3, 20, 24), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    drawn = OnlineDraw.open(tmp_path / "out").inputs(target, [torch.Generator().manual_seed(1)])
    with torch.no_grad():
        expected = network.draw(target / 255, [torch.Generator().manual_seed(1)])
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1 / 65535)
    (tmp_path / "out" / "source_network.pth").write_bytes(b"another")
    with pytest.raises(ValueError, match="is not the network that the build was made with"):
        OnlineDraw.open(tmp_path / "out")


def test_the_mean_set_lies_within_the_tables_of_the_paper(save):
    source = make_generator(save(), inverse="paper_lut", source="deterministic").first
    assert source.backend == "paper_lut"
    parameters = source.bank.spec.split(source.bank.sets)
    for ranges, function, names in (
        (source.isp.lut.gamma_ranges, "gm", ("g1", "g2", "k")),
        (source.isp.lut.tone_ranges, "it", ("g3", "g4", "k2")),
    ):
        for (low, high), name in zip(ranges, names, strict=True):
            assert low < parameters[function][name].min()
            assert parameters[function][name].max() < high


def test_other_checkpoints_are_refused(save, parts, tmp_path):
    network, _ = parts
    save_atomically({"params": network.state_dict()}, tmp_path / "net_g_latest.pth")
    with pytest.raises(CheckpointError, match=r"not an f_ISP of phase 1 \(it lacks banks, network\).*f_isp_latest"):
        load_f_isp(tmp_path / "net_g_latest.pth")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_f_isp(tmp_path / "missing.pth")
    state = torch.load(save(), weights_only=True)
    del state["params"]["encoder.head.bias"]
    save_atomically(state, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match=r"changed\.pth does not fit PQDynamicISP.*encoder\.head\.bias"):
        load_f_isp(tmp_path / "changed.pth")


def test_candidates_reach_the_generator(save, run_pseudo):
    assert make_generator(save(), candidates=4).candidates == 4
    one, several = (run_pseudo(name, candidates=n)[0].clipped for name, n in (("one", 1), ("four", 4)))
    assert one != several


def test_a_build_with_candidates_is_not_resumed_without_them(run_pseudo):
    run_pseudo("several", candidates=3)
    with pytest.raises(ValueError, match="candidates: 3 then, 1 now"):
        run_pseudo("several")


@pytest.mark.parametrize(
    ("sets", "per", "grid", "per_function"),
    [
        ("global", "auto", (1, 1), False),
        ("global", "isp", (1, 1), False),
        ("global", "function", (1, 1), True),
        ("local", "auto", (2, 3), True),
        ("local", "isp", (2, 3), False),
        ("local", "function", (2, 3), True),
    ],
)
def test_what_step_3_draws_can_be_chosen(save, sets, per, grid, per_function):
    """By Sec. 4.2 whole global sets below 1,000 pairs, local ones of each function from there on; or as one likes."""
    generator = make_generator(save(), sets=sets, draw_per=per)
    assert generator.second.per_function == per_function
    assert tuple(generator.second.bank.grid) == grid
    assert not generator.first.per_function
    assert tuple(generator.first.bank.grid) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(network=[1]), "holds a list"),
        (lambda s: s["network"].update(grid=[0, 1]), "the network's options in it: grid: expected a whole number from"),
        (
            lambda s: s["network"].update(grid=[4, 4], width=3),
            "the network's options in it: width: PQDynamicISP has no",
        ),
        (lambda s: s.update(params=3), "has no weights under 'params'"),
        (lambda s: s["params"].update({"encoder.head.bias": torch.ones(45, dtype=torch.int64)}), "of int64 numbers"),
        (lambda s: s["params"].update({"encoder.head.bias": torch.full((45,), torch.nan)}), "hold NaN or infinity"),
        (lambda s: s.update(banks=[]), "its banks"),
        (lambda s: s.update(n_pairs="many"), "its number of pairs"),
        (lambda s: s["banks"].update(local=3), "its bank 'local' holds no parameters of an ISP: .* of type int"),
        (lambda s: s["banks"]["local"].update(capacity=2**70), "bank 'local'"),
        (lambda s: s["banks"]["local"]["spec"].update(base_matrix=[[1e30] * 3] * 3), "bank 'local'"),
        (lambda s: s["banks"]["local"]["spec"].update(it_sign=-1), "are of another ISP than the network's"),
    ],
)
def test_damaged_files_are_named(save, change, message):
    path = save()
    state = torch.load(path, weights_only=True)
    change(state)
    save_atomically(state, path)
    with pytest.raises(CheckpointError, match=rf"f_isp_latest\.pth.*{message}"):
        load_f_isp(path)

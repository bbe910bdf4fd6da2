"""The file between phase 1 and the pseudo-data."""

import pytest
import torch

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.checkpoint import CheckpointError, save_atomically
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.pseudo.f_isp import load_f_isp, save_f_isp
from semiisp_plugin.pseudo.pipeline import MANY_PAIRS, make_generator

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
    generator = make_generator(save(n_pairs), sets)
    assert generator.bank.grid == (1, 1)
    assert generator.input_bank.grid == ((2, 3) if local else (1, 1))
    assert generator.per_function is local
    assert MANY_PAIRS == 1000  # Sec. 4.2


def test_tables_of_the_paper_span_what_the_banks_hold(save, parts):
    """A pair by tables next to the same pair by the exact inverse."""
    _, banks = parts
    path = save(MANY_PAIRS)
    table, exact = (make_generator(path, inverse=inverse) for inverse in ("paper_lut", "exact"))
    ranges = table.isp.lut.gamma_ranges
    for bank in banks.values():
        gm = bank.spec.split(bank.sets)["gm"]
        for (low, high), name in zip(ranges, ("g1", "g2", "k"), strict=True):
            assert low < gm[name].min()
            assert gm[name].max() < high
    photograph = torch.randint(0, 256, (1, 3, 40, 48), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    pairs = [g.generate_input(photograph, torch.Generator().manual_seed(1)) for g in (table, exact)]
    difference = (pairs[0].input - pairs[1].input).abs()
    assert 1e-6 < difference.mean() < 1e-2


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

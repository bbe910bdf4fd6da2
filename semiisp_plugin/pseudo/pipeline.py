"""``basicsr pseudo``: option file -> f_ISP -> LMDBs."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.data.pairs import Pair, match_pairs, read_pair, select_pairs
from semiisp_plugin.data.subsets import read_names
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import printable_path, to_float
from semiisp_plugin.isp import InvertibleISP, PaperLUTSettings, ParameterBank
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import BuildReport, build_pseudo_lmdb
from semiisp_plugin.pseudo.contact_sheet import SHEET_NAME, save_contact_sheet
from semiisp_plugin.pseudo.f_isp import load_f_isp
from semiisp_plugin.pseudo.fitted_sets import fit_parameter_sets
from semiisp_plugin.pseudo.generator import PseudoPairGenerator
from semiisp_plugin.pseudo.manifest import BuildFolder
from semiisp_plugin.pseudo.sources import UPI, BankInverse, DeterministicInverse, MixtureInverse, SRGBToRAW

SOURCES = ("bank", "mixture", "fitted", "upi", "deterministic")
MANY_PAIRS = 1000  # Sec. 4.2: below, global sets for the whole ISP; from there on, local ones per function


def make_generator(
    f_isp: str,
    sets: str = "auto",
    update_quality: bool = True,
    inverse: str = "exact",
    source: str = "bank",
    pairs: Sequence[Pair] | None = None,
    candidates: int = 1,
    per: str = "auto",
) -> PseudoPairGenerator:
    """The generator of a phase 1 checkpoint.

    Args:
        f_isp: ``f_isp_<iter>.pth``.
        sets: ``global``, ``local`` or ``auto`` (by the number of pairs).
        update_quality: See `PseudoPairGenerator`.
        inverse: ``exact`` or ``paper_lut``, whose tables span what the banks hold.
        source: sRGB-to-RAW of steps 1 and 3: ``bank`` (the paper's, `BankInverse`), ``mixture`` (`MixtureInverse`),
            ``upi`` (`UPI`) or ``deterministic`` (`DeterministicInverse` with the mean of the global sets). With the
            last two, ``sets: auto`` is ``global`` whatever the number of pairs. ``fitted``: step 3 draws from sets
            fitted to the pairs (`fit_parameter_sets`, ours), step 1 from the bank.
        pairs: The labelled pairs, for ``fitted``.
        candidates: See `PseudoPairGenerator`.
        per: What step 3 draws at a time: the set of the whole ``isp``, or one of each ``function``; ``auto``: per
            function with local sets (Sec. 3.2, 4.2).

    Raises:
        ValueError: The source is unknown or cannot do what the other arguments ask for.
        CheckpointError: See `load_f_isp`.
    """
    if source not in SOURCES:
        raise ValueError(f"source: '{source}' is none of {', '.join(SOURCES)}.")
    from_bank = source in ("bank", "mixture")
    if not from_bank and sets == "local":
        raise ValueError(f"source: {source} knows no local sets; leave sets at auto, or take source: bank.")
    if source == "upi" and inverse != "exact":
        raise ValueError(f"source: upi does not invert f_ISP, so that inverse: {inverse} says nothing; leave it out.")
    if source == "fitted" and inverse != "exact":
        raise ValueError(f"source: fitted inverts exactly; leave inverse: {inverse} out.")
    if source == "deterministic" and candidates > 1:
        raise ValueError(f"source: deterministic makes one input only; leave candidates: {candidates} out.")
    if source in ("upi", "deterministic") and per != "auto":
        raise ValueError(f"draw_per: source {source} draws no functions' sets; leave {per} out.")
    network, banks, n_pairs = load_f_isp(f_isp)
    first, second = _sources(network, banks, n_pairs, sets, inverse, source, pairs, per)
    return PseudoPairGenerator(network, first, second, update_quality=update_quality, candidates=candidates)


def _sources(
    network: PQDynamicISP,
    banks: Mapping[str, ParameterBank],
    n_pairs: int,
    sets: str,
    inverse: str,
    source: str,
    pairs: Sequence[Pair] | None,
    per: str,
) -> tuple[SRGBToRAW, SRGBToRAW | None]:
    """sRGB-to-RAW of steps 1 and 3, see `make_generator`; None: step 3 takes that of step 1."""
    if source == "upi":
        return UPI(image_enhancement=network.spec.inverse_tone_mapping), None
    from_bank = source in ("bank", "mixture")
    local = from_bank and (sets == "local" or (sets == "auto" and n_pairs >= MANY_PAIRS))
    lut = _tables_for(banks.values() if local else [banks["global"]]) if inverse == "paper_lut" else None
    isp = InvertibleISP(network.spec, lut)
    if source == "fitted":
        if not pairs:
            raise ValueError("source: fitted needs the labelled pairs: give dataroot_lq and dataroot_gt.")
        images = [tuple(to_float(image) for image in read_pair(pair)) for pair in pairs]
        fitted = fit_parameter_sets(isp, banks["global"], [(image[0], image[1]) for image in images])
        return BankInverse(isp, banks["global"]), MixtureInverse(isp, fitted, per_function=per == "function")
    backend = "auto" if inverse == "exact" else inverse
    if source == "deterministic":
        return DeterministicInverse(isp, banks["global"], backend), None
    inverse_of = MixtureInverse if source == "mixture" else BankInverse
    first = inverse_of(isp, banks["global"], backend=backend)
    per_function = local if per == "auto" else per == "function"
    if not local and not per_function:
        return first, None
    return first, inverse_of(isp, banks["local" if local else "global"], per_function=per_function, backend=backend)


def _tables_for(banks: Iterable[ParameterBank]) -> PaperLUTSettings:
    """Tables as narrow as the sets allow: their error grows with the ranges."""
    spans: dict[str, tuple[float, float]] = {}
    for bank in banks:
        if len(bank) == 0:
            continue
        for group in bank.spec.split(bank.sets).values():
            for name, values in group.items():
                low, high = float(values.min()), float(values.max())
                before = spans.get(name, (low, high))
                spans[name] = (min(low, before[0]), max(high, before[1]))
    if not spans:
        raise ValueError("The parameter banks are empty: train f_ISP first (phase 1).")

    def ranges(names: Sequence[str]) -> tuple[tuple[float, float], ...] | None:
        # A table has no range of zero width.
        return tuple((spans[n][0] - 1e-6, spans[n][1] + 1e-6) for n in names) if names[0] in spans else None

    return PaperLUTSettings(gamma_ranges=ranges(("g1", "g2", "k")), tone_ranges=ranges(("g3", "g4", "k2")))


def run(options: PseudoOptions, *, retry: bool = False, progress: bool = True) -> BuildReport:
    """Build the pseudo pairs that the options describe and print a summary; arguments as `build_pseudo_lmdb`."""
    pairs = _labelled_pairs(options)
    generator = make_generator(
        options.f_isp,
        options.sets,
        options.update_quality,
        options.inverse,
        options.source,
        pairs,
        options.candidates,
        options.draw_per,
    )
    f_isp = Path(options.f_isp).read_bytes()
    begun = time.monotonic()
    report = build_pseudo_lmdb(
        options.photographs,
        options.out,
        generator,
        mode=options.mode,
        seed=options.manual_seed,
        draws=options.draws,
        max_photographs=options.max_photographs,
        short_side=options.short_side,
        max_pixels=options.max_pixels,
        input_bits=options.input_bits,
        png_compression=options.png_compression,
        device="cuda" if options.num_gpu else "cpu",
        workers=_workers(options),
        shard_size=_or_none(options.shard_size),
        batch=_or_none(options.batch),
        own_shards_only=options.own_shards_only,
        retry=retry,
        progress=progress,
        settings={
            "f_isp_sha256": hashlib.sha256(f_isp).hexdigest()[:16],
            **{name: getattr(options, name) for name in ("sets", "draw_per", "update_quality", "inverse", "source")},
            "candidates": options.candidates,
            **({"pairs": _fingerprint(pairs)} if pairs else {}),
        },
    )
    copy = Path(options.out, "f_isp.pth")
    if options.mode != "stored" and not copy.exists():
        write_atomically(copy, f_isp)
    sheet = None
    if not report.unfinished and (report.written or not Path(options.out, SHEET_NAME).exists()):
        try:
            sheet = save_contact_sheet(BuildFolder(options.out), generator)
        except (OSError, ValueError) as error:  # photographs may have gone since
            print(f"No contact sheet could be drawn: {error}")
    _print_summary(report, options, time.monotonic() - begun, sheet)
    return report


def _labelled_pairs(options: PseudoOptions) -> list[Pair] | None:
    if not (options.dataroot_lq and options.dataroot_gt):
        return None
    pairs = match_pairs(options.dataroot_lq, options.dataroot_gt)
    if options.meta_info_file:
        where = f"meta_info_file '{options.meta_info_file}'"
        pairs = select_pairs(pairs, read_names(options.meta_info_file), source=where)
    return pairs


def _workers(options: PseudoOptions) -> int | None:
    """Processes; of the GPUs, those that ``torchrun`` has started on a machine share them."""
    if options.workers == "auto" and options.num_gpu:
        return max(1, int(options.num_gpu) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return _or_none(options.workers)


def _or_none(value: int | str) -> int | None:
    return value if isinstance(value, int) else None


def _fingerprint(pairs: Sequence[Pair]) -> str:
    """Of the labelled pairs' names: sets fitted to others are others."""
    return hashlib.sha256("\n".join(pair.key for pair in pairs).encode()).hexdigest()[:16]


def _print_summary(report: BuildReport, options: PseudoOptions, seconds: float, sheet: Path | None) -> None:
    made = {"stored": "pairs", "online": "pseudo ground truths", "keys": "photographs checked"}[options.mode]
    total = report.written + report.kept
    print(
        f"{total} {made} of {report.photographs} photographs in {options.out}, {report.written} of them by this run "
        f"({report.written / max(seconds, 1e-9):.1f} a second)"
        + (f"; {report.clipped:.2%} of the pseudo inputs' values clipped" if options.mode == "stored" else "")
        + "."
    )
    if report.bytes:
        print("Stored: " + ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in report.bytes.items()) + ".")
    if report.unfinished:
        print(
            f"{report.unfinished} of {report.shards} shards are being built by other processes; the last of them "
            f"writes the report."
        )
    if report.unsupported:
        others = ", ".join(f"{count} {extension}" for extension, count in report.unsupported.items())
        print(f"Not read, for their format: {others}. Convert them to JPEG or PNG if they are to be used.")
    if report.set_aside:
        where = os.path.join(options.out, "set_aside.txt")
        print(
            f"{len(report.set_aside)} photographs were set aside"
            + ("." if report.unfinished else f"; {where} says why, for example")
        )
        if not report.unfinished:
            print(f"  {printable_path(next(iter(report.set_aside.values())))}")
    if sheet:
        print(f"A random selection to look at: {sheet}")

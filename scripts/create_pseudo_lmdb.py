"""Photographs to pseudo pairs in LMDBs: ``basicsr pseudo`` with arguments in place of, or on top of, an option file.

    python scripts/create_pseudo_lmdb.py --photographs DIR --out DIR \\
        --f_isp experiments/fisp_lolv1/models/f_isp_latest.pth
    python scripts/create_pseudo_lmdb.py -opt options/pseudo_lolv1.yml --max_photographs 1000 --out DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from semiisp_plugin.options import Source, complete_pseudo_options, load_yaml
from semiisp_plugin.pseudo.pipeline import SOURCES, run


def gpu_count(text: str) -> int | str:
    return text if text == "auto" else int(text)


def build_parser() -> argparse.ArgumentParser:
    """Arguments that are not given stay out of the namespace: the option file or the defaults decide."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "-opt", metavar="FILE", default=None, help="option file of `basicsr pseudo`; arguments go first"
    )
    parser.add_argument("--resume", action="store_true", default=False, help="go on with an interrupted build")
    add = parser.add_argument_group("options, as in the option file").add_argument
    add("--name", help="of the run, for messages (default: pseudo)")
    add("--photographs", metavar="DIR", help="ordinary photographs, searched recursively")
    add("--f_isp", metavar="FILE", help="f_isp_<iter>.pth of a phase 1 run")
    add("--out", metavar="DIR", help="gets gt.lmdb, lq.lmdb, report.json and set_aside.txt")
    add("--manual_seed", type=int, metavar="N", help="of the random parameter sets (default: 0)")
    add("--max_photographs", type=int, metavar="N", help="take the first N by name (default: all)")
    add("--short_side", type=int, metavar="PIXELS", help="shrink longer short sides to this (default: keep)")
    add("--sets", choices=["auto", "global", "local"], help="sets of the last step (default: auto, by pairs)")
    add("--update_quality", action=argparse.BooleanOptionalAction, help="steps 1 and 2 (default: yes)")
    add("--inverse", choices=["exact", "paper_lut"], help="of the ISP (default: exact)")
    add("--source", choices=SOURCES, help="sRGB-to-RAW of steps 1 and 3 (default: bank, the paper's)")
    add("--dataroot_lq", metavar="DIR", help="inputs of the labelled pairs, for --source fitted")
    add("--dataroot_gt", metavar="DIR", help="their targets")
    add("--draws", type=int, metavar="N", help="pairs of each photograph (default: 1)")
    add("--candidates", type=int, metavar="N", help="inputs tried for each pair, the best kept (default: 1)")
    add("--png_compression", type=int, metavar="LEVEL", help="zlib level, 0 to 9 (default: 1)")
    add("--num_gpu", type=gpu_count, metavar="N", help="0 for the CPU, 1, or auto (default)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    option_file, resume = given.pop("opt"), given.pop("resume")
    try:
        values, source = load_yaml(option_file) if option_file else ({"name": "pseudo"}, Source("arguments"))
        run(complete_pseudo_options({**values, **given}, source), resume=resume, progress=sys.stderr.isatty())
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()

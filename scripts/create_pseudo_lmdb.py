"""Photographs to pseudo pairs in LMDBs: ``basicsr pseudo`` with arguments in place of, or on top of, an option file.

    python scripts/create_pseudo_lmdb.py --photographs DIR --out DIR \\
        --f_isp experiments/fisp_lolv1/models/f_isp_latest.pth
    python scripts/create_pseudo_lmdb.py -opt options/pseudo_lolv1.yml --max_photographs 1000 --out DIR

The same command resumes a build that was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from semiisp_plugin.options import Source, complete_pseudo_options, load_yaml
from semiisp_plugin.pseudo.builder import run
from semiisp_plugin.pseudo.f_isp import SOURCES


def word_or_int(text: str) -> int | str:
    """The option file's checks say which words are right."""
    return int(text) if text.lstrip("-").isdigit() else text


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
    parser.add_argument("--retry", action="store_true", default=False, help="try photographs again that were skipped")
    add = parser.add_argument_group("options, as in the option file").add_argument
    add("--name", help="of the run, for messages (default: pseudo)")
    add("--photographs", metavar="DIR", help="ordinary photographs, searched recursively")
    add("--f_isp", metavar="FILE", help="f_isp_<iter>.pth of a phase 1 run")
    add("--out", metavar="DIR", help="gets gt.lmdb, lq.lmdb and the report")
    add("--mode", choices=["stored", "online", "keys"], help="what is stored (default: stored, both images)")
    add("--manual_seed", type=int, metavar="N", help="of the random parameter sets (default: 0)")
    add("--max_photographs", type=int, metavar="N", help="take the first N by name (default: all)")
    add("--short_side", type=int, metavar="PIXELS", help="shrink longer short sides to this (default: keep)")
    add("--max_pixels", type=int, metavar="N", help="skip larger photographs")
    add("--draw_per", choices=["auto", "isp", "function"], help="what step 3 draws at a time (default: auto)")
    add("--sets", choices=["auto", "global", "local"], help="sets of the last step (default: auto, by pairs)")
    add("--update_quality", action=argparse.BooleanOptionalAction, help="steps 1 and 2 (default: yes)")
    add("--inverse", choices=["exact", "paper_lut"], help="of the ISP (default: exact)")
    add("--source", choices=SOURCES, help="sRGB-to-RAW of steps 1 and 3 (default: bank, the paper's)")
    add("--dataroot_lq", metavar="DIR", help="inputs of the labelled pairs, for --source fitted")
    add("--dataroot_gt", metavar="DIR", help="their targets")
    add("--meta_info_file", metavar="FILE", help="list of those of them that f_ISP was trained on (default: all)")
    add("--draws", type=int, metavar="N", help="pairs of each photograph (default: 1)")
    add("--candidates", type=int, metavar="N", help="inputs tried for each pair, the best kept (default: 1)")
    add("--input_bits", type=int, choices=[8, 16], help="of the pseudo inputs (default: 16)")
    add("--png_compression", type=word_or_int, metavar="LEVEL", help="fast (default), or a zlib level, 0 to 9")
    add("--num_gpu", type=word_or_int, metavar="N", help="0 for the CPU, 1, or auto (default)")
    add("--workers", type=word_or_int, metavar="N", help="processes, or auto (default: one a GPU or core)")
    add("--shard_size", type=word_or_int, metavar="N", help="photographs of a shard, or auto (default)")
    add("--batch", type=word_or_int, metavar="N", help="photographs through f_ISP at a time, or auto (default)")
    add("--own_shards_only", action="store_true", help="of several ranks, none helps another")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    option_file, retry = given.pop("opt"), given.pop("retry")
    try:
        values, source = load_yaml(option_file) if option_file else ({"name": "pseudo"}, Source("arguments"))
        run(complete_pseudo_options({**values, **given}, source), retry=retry, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the same command resumes it\n")
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()

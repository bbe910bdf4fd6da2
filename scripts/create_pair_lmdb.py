"""Pack pairs of images into lq.lmdb and gt.lmdb as BasicSR lays them out, with the 8 or 16 bits they have.

    python scripts/create_pair_lmdb.py datasets/LOLv1/our485 datasets/lolv1_lmdb

The first folder holds input/ and target/, low/ and high/, Low/ and Normal/, or lq/ and gt/; name other folders with
--input and --target. Images are matched by name, decoded, compared in size, and stored as PNG. In an option file:

    dataroot_lq: datasets/lolv1_lmdb/lq.lmdb
    dataroot_gt: datasets/lolv1_lmdb/gt.lmdb
    io_backend: {type: lmdb}
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

from tqdm import tqdm

from semiisp_plugin.data.pairs import find_pair_folders, match_pairs, read_pair
from semiisp_plugin.io.image_io import encode_png
from semiisp_plugin.io.lmdb_io import LmdbImageWriter


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pairs", nargs="?", metavar="DIR", help="folder of the pairs, unless --input and --target are given"
    )
    parser.add_argument("out", metavar="OUT", help="folder that gets lq.lmdb and gt.lmdb")
    parser.add_argument("--input", metavar="DIR", help="folder of the inputs")
    parser.add_argument("--target", metavar="DIR", help="folder of the targets")
    parser.add_argument(
        "--filename_tmpl", default="{}", help="name of an input, {} being its target's: '{}_low' (default: %(default)s)"
    )
    parser.add_argument(
        "--png_compression",
        type=lambda text: text if text == "fast" else int(text),
        choices=["fast", *range(10)],
        default="fast",
        metavar="LEVEL",
        help="fast (default), or a zlib level, 0 to 9",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    return parser


def pack(
    input_root: str, target_root: str, out: str, *, template: str, compression: int | Literal["fast"], resume: bool
) -> int:
    """Write both LMDBs; returns the number of pairs written in this run."""
    pairs = match_pairs(input_root, target_root, filename_template=template)
    written = 0
    with ExitStack() as stack:
        lq, gt = (
            stack.enter_context(LmdbImageWriter(os.path.join(out, name), resume=resume, compression=compression))
            for name in ("lq.lmdb", "gt.lmdb")
        )
        for pair in tqdm(pairs, desc="pairs", unit="pair", disable=not sys.stderr.isatty()):
            if pair.key in lq and pair.key in gt:
                continue
            for writer, image in zip((lq, gt), read_pair(pair), strict=True):
                if pair.key not in writer:
                    writer.put(pair.key, encode_png(image, compression), image.shape)
            written += 1
    return written


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    if bool(args.input) != bool(args.target) or bool(args.input) == bool(args.pairs):
        parser.error("give the folder of the pairs, or --input and --target")
    try:
        input_root, target_root = (args.input, args.target) if args.input else find_pair_folders(args.pairs)
        written = pack(
            input_root,
            target_root,
            args.out,
            template=args.filename_tmpl,
            compression=args.png_compression,
            resume=args.resume,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"{written} pairs written to {args.out}")


if __name__ == "__main__":
    main()

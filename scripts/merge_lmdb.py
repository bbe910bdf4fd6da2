"""Copy an LMDB in shards, as `basicsr pseudo` writes it, into one LMDB, as programs other than this plugin read it.

    python scripts/merge_lmdb.py datasets/pseudo_lolv1/gt.lmdb merged/gt.lmdb

Values are copied as they are. Not needed for training here: `basicsr train` reads shards, with data sets of BasicSR's
own, too. The same command resumes a copy that was interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tqdm import tqdm

from semiisp_plugin.io.lmdb_io import LmdbImageWriter, parts, read_meta, read_value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SHARDS.lmdb", help="folder of LMDB folders, or one LMDB folder")
    parser.add_argument("out", metavar="OUT.lmdb", help="the LMDB folder to write")
    return parser


def merge(source: str, out: str) -> int:
    """Copy all entries; returns how many this run has copied."""
    folders = parts(source)
    if not folders:
        raise FileNotFoundError(f"'{source}' is no LMDB folder and holds none. Give the gt.lmdb or lq.lmdb of a build.")
    entries = [(folder, entry) for folder in folders for entry in read_meta(folder)]
    levels = {entry.level for _, entry in entries}
    copied = 0
    with LmdbImageWriter(out, resume=os.path.exists(out), compression=min(levels, default=1)) as writer:
        for folder, entry in tqdm(entries, desc="entries", unit="image", disable=not sys.stderr.isatty()):
            if entry.key not in writer:
                writer.put(entry.key, read_value(folder, entry.key), entry.shape)
                copied += 1
    return copied


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        copied = merge(args.source, args.out)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"{copied} entries copied to {args.out}")


if __name__ == "__main__":
    main()

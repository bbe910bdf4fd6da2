"""The arguments of ``basicsr train`` and ``basicsr test``; nothing heavy is imported here."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser, training: bool = False) -> None:
    """Add BasicSR's training and test arguments to a parser; those of training alone if asked for."""
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="job launcher")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the run's latest checkpoint, if any")
    parser.add_argument("--debug", action="store_true", help="log every iteration, validate every 8")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options: train:ema_decay=0.999"
    )
    if training:
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="check the options, build everything, run a few batches, report sizes and times, and write nothing",
        )

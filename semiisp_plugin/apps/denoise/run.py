"""``basicsr denoise``: option file -> denoised images."""

from __future__ import annotations

import argparse

from semiisp_plugin.apps.denoise.folder import DenoiseReport, denoise_folder
from semiisp_plugin.apps.denoise.options import DenoiseOptions, load_denoise_options
from semiisp_plugin.io.folder_job import SKIPPED

_SHOWN = 5


def run_from_arguments(args: argparse.Namespace) -> DenoiseReport:
    """Run ``basicsr denoise``; see `denoise_folder` for what is raised."""
    return denoise_and_print(load_denoise_options(args.opt, args.force_yml))


def denoise_and_print(options: DenoiseOptions) -> DenoiseReport:
    """`denoise_folder`, and what it does in words."""
    if options.uses_network:
        print(f"{options.name}: denoising with {(options.network or {}).get('type')}, weights {options.weights}")
    else:
        why = "no weights are given, so " if options.method == "auto" else ""
        print(f"{options.name}: {why}OpenCV's non-local means denoises (ours; the paper uses KBNet)")
    report = denoise_folder(options)
    before = f", {report.kept} were there before" if report.kept else ""
    print(f"{report.written} images denoised into '{options.out}' in {report.seconds:.0f} s{before}.")
    if report.skipped:
        listed = list(report.skipped.items())[:_SHOWN]
        print(f"Warning: {len(report.skipped)} images skipped ({options.out}/{SKIPPED} has all):")
        for name, reason in listed:
            print(f"  {name}: {reason}")
    return report

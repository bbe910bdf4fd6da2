"""Run every input of ``../shared/cases`` on two commits of the project and say what each does with it.

    python scripts/run_cases.py [--before ffa69eb] [--after HEAD] [--only images/02 train/07 ...] [--log FOLDER]

The cases are small inputs that once failed (or looked right and were wrong). Each commit is unpacked into a scratch
folder beside a copy of the cases, so that nothing of the working tree is used or changed, and runs with the Python
that runs this script. The table has a row a case: what the commit before made of it, what the commit after makes of
it, and whether that is right; the exit status is 1 if any is not. ``--log`` keeps the whole output of each case.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared"
# The commit that the cases were made with: what they import by name is found where it stood then.
FIRST = "ffa69eb"
HANGS = "rc=none: not ended after"
MOVED = {
    "max(worst)": "max(worst, default=[0])",  # where none is read
    "semiisp_plugin.data.raw_io": "semiisp_plugin.io.raw_io",
    "from semiisp_plugin.data.photograph_io import decode_photograph": (
        "from semiisp_plugin.io.image_io import decode_image\n"
        "decode_photograph = lambda data, name: decode_image(data, name=name, bit_depth=8)"
    ),
}
NETWORK = "{type: NAFNet, width: 4, middle_blk_num: 1, enc_blk_nums: [1], dec_blk_nums: [1]}"
ENHANCE = 'basicsr enhance --weights $W --network "$NETWORK" --format png --device cpu'
PICTURES = """
import glob
from PIL import Image
for path in sorted(glob.glob("out/*.png")):
    image = Image.open(path)
    corners = [image.getpixel((x, y)) for x, y in ((0, 0), (image.width - 1, image.height - 1))]
    print("result", path[4:], image.mode, image.size, *corners, "EXIF tags", len(image.getexif()))
"""
# A scratch folder with pairs, f_ISP trained on them for ten iterations, and photographs to invert with it.
F_ISP = """
. $CASES/train/setup.sh
cat > fisp.yml <<'Y'
name: fisp
model_type: ISPModel
num_gpu: 0
datasets:
  train: {name: tr, type: PairedRestorationDataset, dataroot_gt: tr/high, dataroot_lq: tr/low,
          io_backend: {type: disk}, gt_size: 64, batch_size_per_gpu: 2}
network_g: {type: PQDynamicISP, inverse_tone_mapping: true, grid: [2, 2], thumbnail: 32}
network_global: {type: PQDynamicISP, inverse_tone_mapping: true, grid: [1, 1], thumbnail: 32}
train: {bank_size: 8, total_iter: 10, optim_g: {type: AdamW, lr: 1e-3},
        pixel_opt: {type: PooledL1Loss, kernel_sizes: [16]}}
logger: {print_freq: 5, save_checkpoint_freq: 10}
Y
echo '{name: p, photographs: photos, f_isp: experiments/fisp/models/f_isp_latest.pth, out: pseudo, num_gpu: 0}' > p.yml
basicsr train -opt fisp.yml >log 2>&1 || tail -n 3 log
mkdir photos; cp va/high/*.png photos
"""
STOPPED_AT_START = """
. $CASES/train/setup.sh
cat > stop.py <<'P'
import os, signal, subprocess, sys, time
for attempt in ("first", "second"):
    run = subprocess.Popen(
        ["basicsr", "train", "-opt", "base.yml", "--force_yml", "name=" + attempt, "train:total_iter=1000000",
         "datasets:train:num_worker_per_gpu=8"],
        start_new_session=True, stdout=open("log", "w"), stderr=subprocess.STDOUT)
    children = f"/proc/{run.pid}/task/{run.pid}/children"
    while run.poll() is None and len(open(children).read().split()) < 3:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGTERM); os.killpg(run.pid, signal.SIGTERM); since = time.monotonic()
    try:
        code = run.wait(40)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL); code = "none, killed"
    print(f"{attempt}: rc={code} after {time.monotonic() - since:.0f} s")
P
python stop.py
"""
BOMBS = """
mkdir -p bombs; cd bombs; python $C/make.py; ulimit -v 16000000
for f in e0 d0 zero fifo url self deep deepm laugh merge big utf16 nul multi; do
  s=$(date +%s); timeout 30 basicsr train -opt $f.yml >log 2>&1; rc=$?
  echo "$f.yml: rc=$rc $(( $(date +%s) - s < 15 ? 0 : 1 )) $(grep -a Traceback log) $(tail -n 1 log | cut -c1-120)"
done
"""
CHECKPOINTS = """
mkdir -p made; cd made; cat > make.py <<'P'
import sys, zipfile, torch
stored = torch.load(sys.argv[1], weights_only=True); key = next(k for k in ("params", "params_ema") if k in stored)
def save(name, change, **more):
    torch.save({**stored, **more, key: {k: change(v) for k, v in stored[key].items()}}, name)
save("vgg.pth", lambda v: v, network={"type": "VGGFeatureExtractor", "layer_name_list": ["conv1_1"]})
save("complex.pth", lambda v: v.to(torch.complex64)); save("integer.pth", lambda v: (v * 100).long())
save("huge.pth", lambda v: torch.zeros(v.shape if v.dim() < 4 else (16, 16, 100, 400)))
with zipfile.ZipFile("huge.pth") as old, zipfile.ZipFile("compressed.pth", "w", zipfile.ZIP_DEFLATED) as new:
    [new.writestr(entry.filename, old.read(entry)) for entry in old.infolist()]
import os
os.remove("huge.pth")
P
python make.py $W; cp $CASES/images/09-case-clash/b.jpg .; ulimit -v 16000000
for f in complex integer compressed; do
  echo "$f.pth: $(basicsr enhance b.jpg --weights $f.pth \\
       --network "$NETWORK" --out o_$f --device cpu 2>&1 | tail -n 1 | cut -c1-160)"
done
echo "vgg.pth: $(basicsr enhance b.jpg --weights vgg.pth --out o --device cpu 2>&1 | tail -n 1 | cut -c1-160)"
ls -d o_* 2>/dev/null
"""


@dataclass(frozen=True)
class Case:
    """One case: ``command`` runs it from the project's root, ``right`` says of its output whether it ended right.

    Attributes:
        name: Folder below ``cases``.
        command: Shell command; ``$C`` is the case's folder, ``$W`` the folder of the weights that change nothing.
        shows: Pattern of the lines of the output that tell what happened (the table has the last of them).
        right: What must hold of the whole output.
        seconds: Time after which the case counts as hanging.
        lines: How many of the lines that tell what happened the table has.
    """

    name: str
    command: str
    shows: str
    right: Callable[[str], bool]
    seconds: int = 240
    lines: int = 4


def has(*patterns: str) -> Callable[[str], bool]:
    """All of these patterns are found, in any order; one that begins with ``!`` must not be."""

    def judge(text: str) -> bool:
        return all(
            (re.search(pattern.removeprefix("!"), text, re.MULTILINE) is None) == pattern.startswith("!")
            for pattern in patterns
        )

    return judge


def _enhance(files: str) -> str:
    """``run_case.sh`` of a case, then what Pillow says of the pictures that it wrote."""
    return (
        f"sh ../shared/cases/images/run_case.sh $N {files}; cat > pictures.py <<'P'\n{PICTURES}P\n"
        "cd cases_out/$N && python ../../pictures.py"
    )


def _folder(files: str) -> str:
    return f"mkdir in o; cp {files} in; {ENHANCE} in --out o; echo rc=$?; find o -type f | sort"


def _train(name: str) -> str:
    return f"bash ../shared/cases/train/{name}/run.sh"


CASES = (
    Case(
        "images/01-odd-default-crop",
        "python $C/repro.py",
        "read_raw gives|pairs:|error",
        has(r"gives \(284, 368, 3\)", r"pairs: train"),
    ),
    Case(
        "images/02-offcentre-border",
        "python $C/repro.py; python $C/realsize.py",
        "displaced|'p",
        has(r"displaced", r"!\[(?!-?0\.\d).*\]$"),
    ),
    Case("images/03-alpha-turned-colours-not", _enhance("in.png"), "^result", has(r"\(255, 0, 0, 255\)")),
    Case(
        "images/04-associated-alpha-16bit",
        _enhance("red_half.tif red_half_8bit.tif"),
        "^result",
        has(r"half\.png RGBA .*\(255, 0, 0, 128\)", r"8bit\.png RGBA .*\(255, 0, 0, 128\)"),
    ),
    Case("images/05-png-exif-text-profile", _enhance("in.png"), "^result", has(r"^result .* \(48, 64\)")),
    Case(
        "images/06-incomplete-raw",
        "python $C/repro.py",
        "READ|refused",
        has("!READ", "cut_before.*refused", "zeros_for.*refused"),
    ),
    Case(
        "images/07-trns-16bit",
        _enhance("in.png in8.png"),
        "transparent|^result",
        has(r"note: in\.png.*transparent|^result in\.png RGBA"),
    ),
    Case(
        "images/08-folder-silently-skips",
        _folder("$C/*"),
        "gif|jp2|heic|^o/",
        has(*(f"o/{name}.png" for name in "abcef"), r"d\.heic"),
    ),
    Case("images/09-case-clash", _folder("$C/*"), "skipped|error|^o/", has(r"a\.JPG", "o/b.png")),
    Case("images/10-exif-long-orientation", _enhance("in.jpg"), "^result", has(r"^result .* \(48, 64\)")),
    Case("images/11-png-long-text-alpha", _enhance("in.png"), "note|^result", has(r"^result in\.png RGBA")),
    Case("images/12-jpeg-hole", "python $C/repro.py", "damaged", has("by the product: 0 ")),
    Case("images/13-nfd-nfc", "python $C/repro.py", "pairs:|left out", has("!left out", r"'left_out': \{\}")),
    Case(
        "images/14-onnx-default-size",
        "mkdir -p cases_out; sh $C/repro.sh; echo rc=$?",
        "export|rc=",
        has("rc=0"),
    ),
    Case(
        "images/15-linear-dng-white",
        "mkdir -p cases_out; python $C/repro.py",
        "linear black|CFA black 2x2 256",
        has(
            r"linear black 1024 .*\[65535, 65535, 65535\]", r"CFA black 2x2 256 512 512 1024 .*\[65535, 65535, 65535\]"
        ),
    ),
    Case(
        "images/16-199mp",
        F_ISP + "cp $C/bomb199mp.png photos; ulimit -v 12000000; basicsr pseudo -opt p.yml; echo rc=$?; ls pseudo",
        "bomb|rror|rc=",
        has("bomb199mp.png", r"report\.json", "rc=0"),
    ),
    Case(
        "images/17-tiff-adler",
        _folder("$C/*.tif ../shared/cases/images/09-case-clash/b.jpg"),
        "tif_|^o/",
        has("tif_00", "tif_11", r"!o/d_tif", r"o/b\.png"),
    ),
    Case(
        "images/18-exif-cut",
        _folder("$C/*.jpg ../shared/cases/images/09-case-clash/b.jpg"),
        "cut.jpg|rror|^o/",
        has(r"o/b\.png", "!struct.error", r"cut\.(jpg|png)"),
    ),
    Case(
        "train/01-resume-other-schedule",
        _train("01-resume-other-schedule"),
        "lr:|WARN|rc=",
        has("!rc=1", "!rror"),
    ),
    Case(
        "train/02-lenient-load-of-nothing",
        _train("02-lenient-load-of-nothing"),
        "psnr|rror|WARN",
        has("no key fits[^#]*(error|_orig_mod|psnr)"),
    ),
    Case(
        "train/03-truncated-lmdb",
        _train("03-truncated-lmdb"),
        "rc=|rror",
        has("workers 0: rc=1", "workers 2: rc=1", "low.lmdb", "!shared memory"),
    ),
    Case(
        "train/04-two-writers-in-one-run-folder",
        _train("04-two-writers-in-one-run-folder"),
        "rc=|rror|WARN",
        has("second rc=1", "first rc=0"),
    ),
    Case(
        "train/05-data-sets-of-one-name",
        _train("05-data-sets-of-one-name"),
        "rror|expected",
        has("rror.*name"),
    ),
    Case(
        "train/06-test-of-other-weights-than-validated",
        _train("06-test-of-other-weights-than-validated"),
        "psnr",
        has("params_ema"),
    ),
    Case("train/07-sighup", _train("07-sighup"), "rc=", has(r"!states: \[\]"), seconds=400),
    Case(
        "train/08-an-aside-ends-the-run",
        _train("08-an-aside-ends-the-run"),
        "rc=|rror|WARN",
        has("removed tb_logger/a: rc=0"),
    ),
    Case(
        "train/09-a-start-that-fails-sets-the-good-run-aside",
        _train("09-a-start-that-fails-sets-the-good-run-aside"),
        "rror|auto_resume",
        has("auto_resume.*10"),
    ),
    Case(
        "train/10-sections-that-are-ignored",
        _train("10-sections-that-are-ignored"),
        "rc=",
        has(r"!said: $"),
    ),
    Case(
        "train/11-debug-in-the-name",
        _train("11-debug-in-the-name"),
        "states",
        has(r"lol_debugged: states \[20"),
    ),
    Case("train/12-output-encoding", _train("12-output-encoding"), "rror|psnr|archived", has("psnr")),
    Case(
        "train/13-sigterm-hang",
        STOPPED_AT_START,
        "rc=",
        has("first: rc=143", "second: rc=143", "!none, killed", "!after [1-9][0-9] s"),
    ),
    Case(
        "train/14-extends-bomb",
        BOMBS,
        "rc=",
        has("!Traceback", "!rc=(0|124|137|139)", "!rc=[0-9]+ 1 "),
        seconds=600,
    ),
    Case(
        "train/15-checkpoints",
        CHECKPOINTS,
        "pth:",
        has("complex.pth: .*complex", "integer.pth: .*int", "compressed.pth: .*compress", "vgg.pth: .*VGG", "!ownload"),
    ),
)


def unpack(commit: str, folder: Path) -> Path:
    """The commit's files beside a copy of the cases, and ``.venv`` where the cases look for it."""
    project = folder / "project"
    project.mkdir(parents=True)
    archive = subprocess.Popen(["git", "-C", PROJECT, "archive", commit], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", project], stdin=archive.stdout, check=True)
    (project / ".venv").symlink_to(Path(sys.prefix))
    shutil.copytree(SHARED / "cases", folder / "shared" / "cases", copy_function=shutil.copyfile)
    (folder / "shared" / "data").symlink_to(SHARED / "data")
    subprocess.run(["chmod", "-R", "u+w", folder / "shared" / "cases"], check=True)
    writer = project / "tests" / "data" / "conftest.py"
    if not writer.exists() or "def dng_bytes" not in writer.read_text():
        writer.write_bytes(subprocess.check_output(["git", "-C", PROJECT, "show", f"{FIRST}:tests/data/conftest.py"]))
        for script in (folder / "shared" / "cases" / "images").glob("*/*.py"):
            text = script.read_text()
            for old, new in MOVED.items():
                text = text.replace(old, new)
            script.write_text(text)
    return project


def _as_from_a_terminal() -> None:
    """In the background, or under nohup, these are ignored, and by all that is started there."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def run(case: Case, project: Path) -> str:
    """The whole output of a case, both streams."""
    where = project.parent / "shared" / "cases" / case.name
    environment = (
        f"export P={project} PYTHONPATH={project} PATH={project}/.venv/bin:$PATH C={where} "
        f"N={where.name} CASES={where.parent.parent} NETWORK='{NETWORK}' "
        f"W={where.parent.parent}/images/identity.pth;"
    )
    process = subprocess.Popen(
        ["bash", "-c", environment + case.command], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_as_from_a_terminal,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=case.seconds)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        subprocess.run(["pkill", "-KILL", "-g", str(process.pid)], check=False)
        output = process.communicate()[0].decode(errors="replace") + f"\n{HANGS} {case.seconds} s"
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


def told(case: Case, output: str) -> str:
    """The last lines of the output that tell what happened, for a cell of the table."""
    lines = [line.strip()[:110] for line in output.splitlines() if re.search(case.shows, line)]
    return "\n".join(lines[-case.lines :]) or "(nothing)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=FIRST, help="commit to compare with, or `none` (default: %(default)s)")
    parser.add_argument("--after", default="HEAD", help="commit that must be right (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="only cases whose name begins so")
    parser.add_argument("--log", type=Path, help="folder for the whole output of each case")
    args = parser.parse_args()
    cases = [case for case in CASES if case.name.startswith(tuple(args.only))]
    rows: dict[str, list[str]] = {case.name: [case.name] for case in cases}
    commits = [("before", args.before)] if args.before != "none" else []
    for when, commit in [*commits, ("after", args.after)]:
        with tempfile.TemporaryDirectory() as scratch:
            project = unpack(commit, Path(scratch))
            for case in cases:
                output = run(case, project)
                right = HANGS not in output and case.right(output)
                rows[case.name] += [told(case, output), "right" if right else "WRONG"]
                print(when, case.name, rows[case.name][-1], file=sys.stderr, flush=True)
                if args.log:
                    log = args.log / when / (case.name.replace("/", "-") + ".txt")
                    log.parent.mkdir(parents=True, exist_ok=True)
                    log.write_text(output)
    headers = [
        "case",
        *(title for when, commit in [*commits, ("after", args.after)] for title in (f"{when} ({commit})", "")),
    ]
    print(
        tabulate(
            rows.values(), headers=headers, tablefmt="grid", maxcolwidths=[22, *[60, None] * len(commits), 60, None]
        )
    )
    return any(row[-1] != "right" for row in rows.values())


if __name__ == "__main__":
    sys.exit(main())

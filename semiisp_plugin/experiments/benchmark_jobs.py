"""The jobs a benchmark consists of, each a function of its settings and of the folders of the jobs before it.

A job's folder is named by a hash of all that it depends on, so that systems share what they have in common (data,
f_ISP, pseudo pairs, phase 2), and a benchmark that was interrupted goes on: a job whose ``result.json`` is there is
done, and a training that was cut short goes on from its latest state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from semiisp_plugin import plugins
from semiisp_plugin._version import __version__
from semiisp_plugin.data.pairs import match_pairs
from semiisp_plugin.experiments import phases
from semiisp_plugin.experiments.benchmark_data import brightness_and_chroma, data_in, inputs_of, make_data
from semiisp_plugin.experiments.benchmark_options import Settings, Task
from semiisp_plugin.experiments.demo import apply
from semiisp_plugin.experiments.phases import PairData, PhaseSettings
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import decode_image, list_images, read_image, to_float, write_image
from semiisp_plugin.io.lmdb_io import read_meta, read_value
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import build_pseudo_lmdb
from semiisp_plugin.pseudo.f_isp import make_generator
from semiisp_plugin.pseudo.noise import READ_VARIANCE, SHOT_VARIANCE
from semiisp_plugin.pseudo.workers import leave_with_parent

RESULT = "result.json"
_STATES = 5  # training states a run leaves on its way


@dataclass(frozen=True)
class Job:
    """One step of a benchmark.

    Attributes:
        kind: ``data``, ``f_isp``, ``pseudo``, ``semi``, ``fine``, ``supervised``, ``pseudo_only``, ``mean_teacher``.
        seed: Of what is random in it.
        settings: Everything it depends on but the jobs before it; plain values.
        needs: The jobs before it, by the part they play.
    """

    kind: str
    seed: int
    settings: Mapping[str, Any]
    needs: Mapping[str, Job] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Name of its folder: the kind and a hash of all it depends on."""
        depends = {
            "kind": self.kind,
            "seed": self.seed,
            "settings": self.settings,
            "needs": {part: job.key for part, job in self.needs.items()},
            "version": __version__,
        }
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.kind}-{digest[:12]}"

    def with_needs(self) -> Iterator[Job]:
        """The jobs before it, and itself."""
        for job in self.needs.values():
            yield from job.with_needs()
        yield self


# --- what the jobs do ----------------------------------------------------------------------------------------------


def phase_settings(values: Mapping[str, Any], **more: Any) -> PhaseSettings:
    """`PhaseSettings` from a job's settings."""
    known = {f.name for f in fields(PhaseSettings)}
    chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    chosen.pop("noise", None)
    if "beta" in values:
        chosen["beta"] = float(values["beta"])  # "inf", where it is infinite
    return PhaseSettings(**{**chosen, "tensorboard": False, **more})


def work(kind: str, seed: int, settings: Mapping[str, Any], needs: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Do a job in its folder; returns what goes into ``result.json``."""
    if kind == "data":
        values = dict(settings)
        task = msgspec.convert(values.pop("task"), Task)
        make_data(task, folder / "data", seed=seed, **values)
        return {}
    data = data_in(Path(needs["data"]) / "data")
    evaluation = {"validation": data.validation, "test": data.test}
    if kind == "f_isp":
        return _f_isp(settings, data.labelled, evaluation, seed, folder)
    if kind == "pseudo":
        return _pseudo(settings, data.labelled, data.photos, Path(needs["f_isp"]), seed, folder)
    s = phase_settings(settings, noise=_NOISE[settings.get("noise", "none")])
    pseudo = str(Path(needs["pseudo"]) / "pseudo") if "pseudo" in needs else ""
    if kind == "semi":
        options = phases.semi_options(s, data.labelled, pseudo, evaluation, seed)
    elif kind == "mean_teacher":
        options = phases.mean_teacher_options(s, data.labelled, pseudo, evaluation, seed, settings["iterations"])
    else:
        labelled, weights = data.labelled, None
        if kind == "pseudo_only":
            labelled = PairData(Path(pseudo, "lq.lmdb"), Path(pseudo, "gt.lmdb"))
        elif kind == "fine":
            weights = str(Path(needs["semi"]) / "experiments" / "run" / "models" / "net_g_latest.pth")
        options = phases.supervised_options(
            s,
            labelled,
            evaluation,
            seed,
            name="run",
            iterations=settings["iterations"],
            lr=s.fine_lr if kind == "fine" else s.lr,
            weights=weights,
            jitter=settings.get("augment") or None,
        )
        if weights:
            options["path"]["param_key_g"] = "params_ema" if s.ema_decay else "params"
    return _train(options, folder, data.test)[0]


_NOISE: dict[str, tuple[float, float] | str | None] = {
    "none": None,
    "paper": (SHOT_VARIANCE, READ_VARIANCE),
    "estimated": "estimated",
}


def _train(
    options: dict[str, Any], folder: Path, test: PairData, keep_every: int | None = None
) -> tuple[dict[str, Any], Any]:
    """Train, and collect curves, the kept ratio, and the test images; returns them and the model."""
    options["name"] = "run"
    # One GPU a worker, also where there are more: with several, the batch would be another.
    options["num_gpu"] = min(1, torch.cuda.device_count())
    total = options["train"]["total_iter"]
    states = max(1, -(-total // _STATES)) if total >= 2000 else total + 1
    options["logger"]["save_checkpoint_freq"] = keep_every or states
    # A run that goes on after an interruption adds to what was seen before it.
    seen = folder / "seen.jsonl"
    resumes = any((folder / "experiments" / "run" / "training_states").glob("*.state"))
    if not resumes:
        seen.unlink(missing_ok=True)
    with seen.open("a", encoding="utf-8") as file:
        file.write("\n")  # whatever a full disk or a kill cut short stands in a line of its own

        def note(**values: Any) -> None:
            file.write(json.dumps(values) + "\n")
            file.flush()

        started = time.time()
        model = phases.run(
            options,
            folder,
            False,
            auto_resume=resumes,
            on_log=lambda i, values: note(iteration=i, log={k: float(v) for k, v in values.items()}),
            on_validation=lambda i, metrics: note(iteration=i, metrics={k: dict(v) for k, v in metrics.items()}),
        )
        seconds = time.time() - started
    lines = {}  # of what a resumed run did again, the later line counts
    for line in seen.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the resumed run does again what followed its latest state
        lines[entry["iteration"], "log" in entry] = entry
    entries = [lines[key] for key in sorted(lines)]
    curve = [{"iteration": e["iteration"], **e["metrics"]} for e in entries if "metrics" in e]
    kept = [
        [e["iteration"], e["log"]["pseudo/kept_ratio"]]
        for e in entries
        if "log" in e and "pseudo/kept_ratio" in e["log"]
    ]
    _write_outputs(getattr(model, "net_g_ema", model.net_g), test, folder / "outputs")
    return {**curve[-1], "curve": curve, "kept_ratio": kept, "train_seconds": seconds}, model


def _write_outputs(network: torch.nn.Module, test: PairData, folder: Path, limit: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    for name in list_images(test.input)[:limit]:
        write_image(folder / name, apply(network, to_float(read_image(test.input / name))))


def _f_isp(
    settings: Mapping[str, Any], labelled: PairData, evaluation: Mapping[str, PairData], seed: int, folder: Path
) -> dict[str, Any]:
    s = phase_settings(settings)
    options = phases.isp_options(s, labelled, {**evaluation, "labelled": labelled}, seed)
    if not settings["isp_early_stop"]:
        return _train(options, folder, evaluation["test"])[0]
    every = int(options["val"]["val_freq"])  # each validation leaves a checkpoint to choose from
    result, model = _train(options, folder, evaluation["test"], keep_every=every)
    # The global network makes the pseudo inputs, the local one their ground truth: both count.
    chosen = max(result["curve"], key=lambda p: p["validation"]["psnr"] + p["validation_global"]["psnr"])
    if chosen["iteration"] < s.isp_iterations:
        models = folder / "experiments" / "run" / "models"
        shutil.copyfile(models / f"f_isp_{chosen['iteration']}.pth", models / "f_isp_latest.pth")
        model.load_network(model.net_g, str(models / f"net_g_{chosen['iteration']}.pth"))
        _write_outputs(model.net_g, evaluation["test"], folder / "outputs")
    return {**result, **chosen}


def _pseudo(
    settings: Mapping[str, Any], labelled: PairData, photos: Path, f_isp: Path, seed: int, folder: Path
) -> dict[str, Any]:
    checkpoint = str(f_isp / "experiments" / "run" / "models" / "f_isp_latest.pth")
    generator = make_generator(
        checkpoint,
        sets=settings["sets"],
        update_quality=settings["update_quality"],
        source=settings["source"],
        pairs=match_pairs(labelled.input, labelled.target),
        candidates=settings.get("candidates", 1),
    )
    out = folder / "pseudo"
    how = PseudoOptions(
        name="benchmark",
        photographs=str(photos),
        f_isp=checkpoint,
        out=str(out),
        manual_seed=seed,
        draws=settings["draws"],
        num_gpu=int(torch.cuda.is_available()),
        workers=0,
    )
    report = build_pseudo_lmdb(how, generator, progress=False)
    lq = str(out / "lq.lmdb")
    keys = [entry.key for entry in read_meta(lq)]
    chosen = [keys[int(i)] for i in np.random.default_rng(seed).permutation(len(keys))[:60]]
    made = [to_float(decode_image(read_value(lq, key), name=key)) for key in chosen]
    return {
        "clipped": report.clipped,
        "written": report.written + report.kept,
        "real": brightness_and_chroma(inputs_of(labelled)),
        "pseudo": brightness_and_chroma(made),
    }


# --- running them ----------------------------------------------------------------------------------------------------


def run_job(kind: str, seed: int, settings: Mapping[str, Any], needs: Mapping[str, str], folder: str) -> dict[str, Any]:
    """Do a job, unless it is done; called in a worker process."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # Another benchmark may be at the same job. The lock goes with the process that holds it.
    with FileLock(path / "lock"):
        return load_result(path) or _do(kind, seed, settings, needs, path)


def _do(kind: str, seed: int, settings: Mapping[str, Any], needs: Mapping[str, str], path: Path) -> dict[str, Any]:
    started = time.time()
    with (path / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            result = work(kind, seed, settings, needs, path)
        except Exception:
            traceback.print_exc()
            raise
    result["seconds"] = time.time() - started
    result["job"] = {"kind": kind, "seed": seed, "settings": dict(settings)}
    result["made_with"] = {"version": __version__, "torch": torch.__version__, "source": source_fingerprint()}
    write_atomically(path / RESULT, json.dumps(result, indent=1) + "\n")
    return result


@cache
def source_fingerprint() -> str:
    """Hash of the Python files that results depend on: results of one fingerprint are of one code."""
    root = Path(__file__).resolve().parents[1]
    parts = ("archs", "data", "isp", "losses", "metrics", "models", "pseudo", "simulation", "training")
    files = [path for part in parts for path in (root / part).rglob("*.py")]
    files += [root / "train.py", *(root / "experiments" / f"{name}.py" for name in ("benchmark_data", "phases"))]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def load_result(folder: Path) -> dict[str, Any] | None:
    """A job's result, or None if it is not done."""
    try:
        return dict(json.loads((folder / RESULT).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError:
        return None  # cut short: it is done again


def _start_worker(devices: Any, imports: Sequence[str]) -> None:
    """One thread a worker, one GPU, where there are any, and the user's own modules."""
    threading.Thread(target=leave_with_parent, daemon=True).start()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(devices.get())
    torch.set_num_threads(1)
    plugins.register(imports)


def default_workers() -> int:
    """As many as there are GPUs, or cores."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 61)  # more than Windows can wait for


class _ThisProcess(Executor):
    """Does what is submitted at once, here."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    if workers == 0:
        yield _ThisProcess()
        return
    # Fresh interpreters: a forked one would share torch's threads and GPU state.
    context = get_context("spawn")
    devices = None
    if torch.cuda.is_available():
        devices = context.Queue()
        # torch counts within what the user or the cluster has made visible.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        for index in range(workers):
            devices.put(names[index % len(names)])
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(devices, plugins.named())
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Runner:
    """Runs jobs in parallel, each once; what fails takes along only what needs it.

    Args:
        folder: Where the jobs' folders go.
        workers: Processes; 0 does everything in this one.

    Attributes:
        failed: Why a job failed, by its key.
        results: What ``result.json`` holds, by the job's key.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.workers = workers
        self.failed: dict[str, str] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def path(self, job: Job) -> Path:
        """A job's folder."""
        return self.folder / job.key

    def run(self, jobs: Sequence[Job], what: str) -> None:
        """Do jobs and all they need; results are in `results` by key."""
        wanted = {job.key: job for given in jobs for job in given.with_needs()}
        waiting = {}
        for key, job in wanted.items():
            if key in self.results or key in self.failed:
                continue
            result = load_result(self.folder / key)
            if result is None:
                waiting[key] = job
            else:
                self.results[key] = result
        if not waiting:
            return
        with _pool(min(self.workers, len(waiting))) as pool, tqdm(total=len(waiting), desc=what, unit="job") as bar:
            running: dict[Future[dict[str, Any]], str] = {}
            while waiting or running:
                self._start(waiting, running, pool, bar)
                if not running:
                    continue
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    key = running.pop(future)
                    try:
                        self.results[key] = future.result()
                    except BrokenProcessPool:
                        raise RuntimeError(
                            f"A worker died, perhaps for lack of memory, while doing one of "
                            f"{', '.join([key, *running.values()])}. What is done is kept: run the same command again, "
                            f"with fewer --workers."
                        ) from None
                    except Exception as error:
                        self.failed[key] = f"{type(error).__name__}: {' '.join(str(error).split())}"
                        tqdm.write(f"{key} failed: {self.failed[key]} ({self.folder / key / 'log.txt'})")
                    bar.update()

    def _start(
        self, waiting: dict[str, Job], running: dict[Future[dict[str, Any]], str], pool: Executor, bar: Any
    ) -> None:
        for key, job in list(waiting.items()):
            # No more than can be worked on: what is handed over is done even after Ctrl+C.
            if len(running) >= max(1, self.workers):
                return
            broken = [n.key for n in job.needs.values() if n.key in self.failed]
            if broken:
                self.failed[key] = f"needs {broken[0]}, which failed"
                del waiting[key]
                bar.update()
            elif all(n.key in self.results for n in job.needs.values()):
                needs = {part: str(self.folder / n.key) for part, n in job.needs.items()}
                del waiting[key]
                future = pool.submit(run_job, job.kind, job.seed, dict(job.settings), needs, str(self.folder / key))
                running[future] = key


def plain(settings: Settings, *names: str) -> dict[str, Any]:
    """Some of the settings as plain values."""
    values = msgspec.to_builtins(settings)
    return {name: values[name] for name in names}

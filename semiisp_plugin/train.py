"""Training pipeline: a drop-in for ``basicsr.train.train_pipeline`` with a sampler of its own and exact resume.

Differences from BasicSR's, each for a reason in its issue tracker: data sets of ours are read through
`MixedBatchSampler`, so that the batch of an iteration depends on the seed and the iteration alone; other data sets are
shuffled with the seed, and their workers' random state changes from epoch to epoch; ``--auto_resume`` looks where the
run writes, and works without a GPU; an interrupted run saves first.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import logging
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from semiisp_plugin import options as options_module
from semiisp_plugin.checkpoint import load_checkpoint
from semiisp_plugin.data.image_io import to_float
from semiisp_plugin.data.pairs import read_pair
from semiisp_plugin.data.sampler import MixedBatchSampler
from semiisp_plugin.pseudo.noise_estimation import estimate_noise_bounds
from semiisp_plugin.toolbox import (
    AvgTimer,
    EnlargedSampler,
    MessageLogger,
    build_dataset,
    build_model,
    dict2str,
    get_dist_info,
    get_env_info,
    get_root_logger,
    get_time_str,
    init_tb_logger,
    init_wandb_logger,
    initialized_logger,
)


class SeededEnlargedSampler(EnlargedSampler):  # type: ignore[misc]  # BasicSR is untyped
    """BasicSR's `EnlargedSampler`, whose order depends on the seed too (BasicSR's depends on the epoch alone)."""

    def __init__(self, dataset: Dataset[Any], num_replicas: int, rank: int, ratio: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; what BasicSR's sampler seeds its generator with is made of it and the seed."""
        super().set_epoch((self.seed * 100_003 + epoch) % 2**31)


def seed_worker(worker_id: int) -> None:
    """Seed numpy and random of a loader worker from torch, whose own seed changes with every epoch."""
    cv2.setNumThreads(1)  # the workers are the parallelism
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


def train_pipeline(root_path: str, argv: Sequence[str] | None = None) -> Any:
    """Train as the command line says; the drop-in for BasicSR's function of that name.

    Args:
        root_path: Folder that gets ``experiments/`` and ``tb_logger/``.
        argv: Arguments; default: those of the process.

    Returns:
        The trained model.
    """
    parser = argparse.ArgumentParser(prog="basicsr train", description="Train a model from an option file.")
    options_module.add_arguments(parser)
    return run_from_arguments(parser.parse_args(argv), root_path)


def run_from_arguments(args: argparse.Namespace, root_path: str) -> Any:
    """`train_pipeline` for parsed arguments."""
    opt = options_module.load_options(
        args.opt, root_path=root_path, is_train=True, overrides=args.force_yml, debug=args.debug
    )
    init_distributed(opt, args.launcher)
    return train(opt, option_file=args.opt, auto_resume=args.auto_resume, progress=sys.stderr.isatty())


def init_distributed(opt: dict[str, Any], launcher: str) -> None:
    """Set ``dist``, ``rank`` and ``world_size``; NCCL where there are GPUs, gloo where there are none."""
    opt["dist"] = launcher != "none"
    if opt["dist"] and not torch.distributed.is_initialized():
        if launcher == "slurm":
            _read_slurm((opt.get("dist_params") or {}).get("port", 29500))
        if "RANK" not in os.environ:
            raise options_module.OptionError(
                "--launcher pytorch needs torchrun: `torchrun --nproc_per_node=N -m semiisp_plugin.cli train "
                "--launcher pytorch -opt FILE`."
            )
        on_gpu = opt["num_gpu"] != 0
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    opt["rank"], opt["world_size"] = get_dist_info()


def _read_slurm(port: int) -> None:
    """Set torch's variables from Slurm's; the first host of the job is the master."""
    missing = [k for k in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST") if k not in os.environ]
    if missing:
        raise options_module.OptionError(f"--launcher slurm: {', '.join(missing)} not set; start it with srun.")
    os.environ.setdefault("RANK", os.environ["SLURM_PROCID"])
    os.environ.setdefault("WORLD_SIZE", os.environ["SLURM_NTASKS"])
    os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    os.environ.setdefault("MASTER_PORT", str(port))
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        os.environ["MASTER_ADDR"] = hosts[0]


def set_seed(seed: int) -> None:
    """Seed torch, numpy and random of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def find_resume_state(opt: dict[str, Any], auto_resume: bool) -> dict[str, Any] | None:
    """The state to go on from, or None; says which was found."""
    path = opt["path"].get("resume_state")
    if auto_resume:
        folder = Path(opt["path"]["training_states"])
        states = sorted((int(p.stem), p) for p in folder.glob("*.state") if p.stem.isdigit())
        path = str(states[-1][1]) if states else None
        found = f"going on from {path}" if path else f"nothing to resume in {folder}: starting at iteration 0"
        print(f"auto_resume: {found}", flush=True)
    return load_checkpoint(path) if path else None


class _Interrupt:
    """Ctrl+C is noticed between two iterations, so that what is saved is of whole ones; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interrupt:
        # Signals can be handled in the main thread only; elsewhere, Ctrl+C stops without saving.
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def start_logging(
    opt: dict[str, Any], resumed: bool, option_file: str | None, quiet: bool = False
) -> tuple[logging.Logger, Any]:
    """Make the run's folders (an older run of the name is set aside), its log file and TensorBoard writer."""
    paths = opt["path"]
    use_tb = bool(opt["logger"].get("use_tb_logger")) and "debug" not in opt["name"]
    tb_folder = os.path.join(opt["root_path"], "tb_logger", opt["name"])
    if opt["rank"] == 0:
        if not resumed:
            archive(paths["experiments_root"])
            if use_tb:
                archive(tb_folder)
        for key in ("models", "training_states", "visualization"):
            os.makedirs(paths[key], exist_ok=True)
        copy = Path(paths["experiments_root"]) / (Path(option_file).name if option_file else "options.yml")
        head = f"# {time.asctime()}\n# {shlex.join(sys.argv)}\n"
        if option_file:
            copy.write_text(head + Path(option_file).read_text(encoding="utf-8"), encoding="utf-8")
        else:
            copy.write_text(head + yaml.safe_dump(_plain(opt), sort_keys=False), encoding="utf-8")
    if opt["dist"]:
        torch.distributed.barrier()
    logger = open_log(os.path.join(paths["log"], f"train_{opt['name']}_{get_time_str()}.log"), quiet)
    logger.info(get_env_info())
    logger.info(dict2str(opt))
    wandb = opt["logger"].get("wandb")
    if use_tb and wandb and wandb.get("project"):
        init_wandb_logger(opt)
    return logger, init_tb_logger(log_dir=tb_folder) if use_tb else None


def archive(folder: str) -> None:
    """Make an empty folder; what stands there is renamed as BasicSR does it, two runs within a second included."""
    if os.path.exists(folder):
        name = base = f"{folder}_archived_{get_time_str()}"
        for n in itertools.count(2):
            if not os.path.exists(name):
                break
            name = f"{base}_{n}"
        os.rename(folder, name)
        print(f"{folder} exists; renamed it to {name}.", flush=True)
    os.makedirs(folder)


@contextmanager
def held_log() -> Iterator[MemoryHandler]:
    """Hold back what is logged, for the log file that is opened later.

    Data sets and networks are built before the run's folders are made: a misspelt path must not set an older run of the
    name aside.
    """
    logger = logging.getLogger("basicsr")
    memory = MemoryHandler(100_000, flushLevel=logging.CRITICAL + 1)
    before = list(logger.handlers), logger.level
    logger.handlers, known = [memory], initialized_logger.get("basicsr")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    initialized_logger["basicsr"] = True
    try:
        yield memory
    except BaseException:
        logger.handlers = before[0]
        logger.setLevel(before[1])
        if not known:
            initialized_logger.pop("basicsr", None)
        raise


def open_log(log_file: str, quiet: bool = False) -> logging.Logger:
    """BasicSR's logger on a new file; a run before it in the same process keeps its own file."""
    logger = logging.getLogger("basicsr")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            handler.close()
        logger.removeHandler(handler)
    initialized_logger.pop("basicsr", None)
    logger = get_root_logger(logger_name="basicsr", log_level=logging.INFO, log_file=log_file)
    for handler in logger.handlers:
        if quiet and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.WARNING)
    return logger


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def build_train_loader(opt: dict[str, Any], start_iter: int, logger: logging.Logger) -> tuple[DataLoader[Any], Any]:
    """Loader of the training set, and its epoch sampler (None for our data sets, which have no epochs)."""
    settings = opt["datasets"]["train"]
    dataset = build_dataset(settings)
    gpus = 1 if opt["dist"] else max(1, opt["num_gpu"])
    if gpus > 1:
        logger.warning(f"No launcher, {gpus} GPUs: the batch is {gpus} times that of the option file, split over them.")
    workers = int(settings.get("num_worker_per_gpu") or 0) * gpus
    common: dict[str, Any] = {
        "num_workers": workers,
        "pin_memory": bool(settings.get("pin_memory", False)),
        "worker_init_fn": seed_worker,
        # Of its own: a loader that draws from torch's global generator would shift the dropout of a resumed run.
        "generator": torch.Generator().manual_seed(opt["manual_seed"] + opt["rank"]),
        "persistent_workers": workers > 0,
    }
    total = int(opt["train"]["total_iter"])
    if settings["type"] in options_module.OUR_DATASETS:
        n_real = int(getattr(dataset, "n_real", len(dataset)))
        n_pseudo = int(getattr(dataset, "n_pseudo", 0))
        if n_pseudo:
            per_batch = (int(settings["real_per_batch"]) * gpus, int(settings["pseudo_per_batch"]) * gpus)
        else:
            per_batch = (int(settings["batch_size_per_gpu"]) * gpus, 0)
        sampler = MixedBatchSampler(
            n_real,
            n_pseudo,
            *per_batch,
            seed=opt["manual_seed"],
            num_batches=total,
            rank=opt["rank"],
            world_size=opt["world_size"],
            start_batch=start_iter,
        )
        logger.info(
            f"Training data: {n_real} real and {n_pseudo} pseudo pairs; {per_batch[0]} + {per_batch[1]} a batch and "
            f"process; {total} iterations pass over each {sampler.passes(total)} times."
        )
        return DataLoader(dataset, batch_sampler=sampler, **common), None
    ratio = settings.get("dataset_enlarge_ratio", 1)
    epochs = SeededEnlargedSampler(dataset, opt["world_size"], opt["rank"], ratio, opt["manual_seed"])
    batch = int(settings["batch_size_per_gpu"]) * gpus
    loader = DataLoader(dataset, batch_size=batch, sampler=epochs, drop_last=True, **common)
    if len(loader) == 0:
        raise options_module.OptionError(
            f"datasets:train: {len(dataset)} images do not fill one batch of {batch}; lower batch_size_per_gpu or "
            f"raise dataset_enlarge_ratio."
        )
    logger.info(f"Training data: {len(dataset)} images; {batch} a batch and process; {len(loader)} batches an epoch.")
    return loader, epochs


def estimated_noise(dataset: Any, logger: logging.Logger, at_most: int = 100) -> dict[str, float] | None:
    """Bounds of eq. 15's variances from the inputs of the real pairs (ours); None where they show no noise level."""
    pairs = dataset.real_pairs[:at_most]
    inputs = (torch.from_numpy(to_float(read_pair(pair)[0])).permute(2, 0, 1) for pair in pairs)
    try:
        shot, read = estimate_noise_bounds(list(inputs))
    except ValueError as error:
        logger.warning(f"train:noise: estimated: no noise is added: {error}")
        return None
    logger.info(f"Noise of the inputs of {len(pairs)} pairs: shot_variance {shot:.3g}, read_variance {read:.3g}.")
    return {"shot_variance": shot, "read_variance": read}


def build_val_loaders(opt: dict[str, Any]) -> list[DataLoader[Any]]:
    """Loaders of all sections but ``train``; one image a batch, as BasicSR's validation expects."""
    return [
        DataLoader(build_dataset(settings), batch_size=1, shuffle=False, num_workers=0, generator=torch.Generator())
        for phase, settings in opt["datasets"].items()
        if phase != "train"
    ]


def batches(loader: DataLoader[Any], sampler: Any, start_iter: int) -> Iterator[tuple[int, Any]]:
    """Endless ``(epoch, batch)``; a resumed run goes on in the epoch it stopped in."""
    if sampler is None:
        for batch in loader:
            yield 0, batch
        return
    epoch, done = divmod(start_iter, len(loader))
    while True:
        sampler.set_epoch(epoch)
        for index, batch in enumerate(loader):
            if index >= done:
                yield epoch, batch
        epoch, done = epoch + 1, 0


def train(
    opt: dict[str, Any],
    *,
    option_file: str | None = None,
    auto_resume: bool = False,
    progress: bool = False,
    quiet: bool = False,
    on_log: Callable[[int, Mapping[str, float]], None] | None = None,
    on_validation: Callable[[int, Mapping[str, Mapping[str, float]]], None] | None = None,
) -> Any:
    """Train from complete options (`semiisp_plugin.options.load_options` or ``complete``).

    Args:
        opt: Options; ``dist``, ``rank`` and ``world_size`` are filled in for one process when absent.
        option_file: Copied into the run's folder.
        auto_resume: Go on from the run's latest state.
        progress: Show a progress bar on the terminal.
        quiet: Show only warnings on the terminal; the log file gets everything.
        on_log: Called every ``logger:print_freq`` iterations with the iteration and the logged means.
        on_validation: Called after a validation with the iteration and the metrics by data set.

    Returns:
        The model; ``model.latest_metrics`` holds the last validation's values by data set.
    """
    if "dist" not in opt:
        init_distributed(opt, "none")
    opt["auto_resume"] = auto_resume
    set_seed(opt["manual_seed"] + opt["rank"])
    torch.backends.cudnn.benchmark = True
    state = find_resume_state(opt, auto_resume)
    start_iter = int(state["iter"]) if state else 0
    total = int(opt["train"]["total_iter"])
    with held_log() as held:
        loader, sampler = build_train_loader(opt, start_iter, get_root_logger())
        val_loaders = build_val_loaders(opt)
        if opt["train"].get("noise") == "estimated":
            opt["train"]["noise"] = estimated_noise(loader.dataset, get_root_logger())
        if state and opt["model_type"] not in options_module.OUR_MODELS:
            _resume_paths(opt, start_iter)
        model = build_model(opt)
        if hasattr(model, "n_pairs"):
            model.n_pairs = len(loader.dataset)  # type: ignore[arg-type]  # every data set here has a length
        if state:
            model.resume_training(state)
    logger, tb_logger = start_logging(opt, state is not None, option_file, quiet)
    for record in held.buffer:
        logger.handle(record)
    if state:
        logger.info(f"Resuming from iteration {start_iter}.")

    message_logger = MessageLogger(opt, start_iter, tb_logger)
    message_logger.max_iters = total + 1  # it subtracts 1 more than is left
    logger_opt, val_opt = opt["logger"], opt.get("val")
    image_freq = logger_opt.get("image_freq") or (val_opt or {}).get("val_freq") or total
    data_timer, iter_timer = AvgTimer(), AvgTimer()
    start_time = time.time()
    current_iter, epoch = start_iter, 0

    def validate(iteration: int) -> None:
        for val_loader in val_loaders:
            model.validation(val_loader, iteration, tb_logger, bool(opt["val"]["save_img"]))
        if on_validation:
            on_validation(iteration, getattr(model, "latest_metrics", {}))

    with ExitStack() as stack:
        if not quiet:
            stack.enter_context(logging_redirect_tqdm([logger]))
        bar = stack.enter_context(
            tqdm(total=total, initial=start_iter, desc=opt["name"], unit="it", disable=not progress, dynamic_ncols=True)
        )
        interrupt = stack.enter_context(_Interrupt())
        for epoch, data in batches(loader, sampler, start_iter) if start_iter < total else ():
            data_timer.record()
            current_iter += 1
            model.update_learning_rate(current_iter, warmup_iter=opt["train"].get("warmup_iter") or -1)
            model.feed_data(data)
            model.optimize_parameters(current_iter)
            iter_timer.record()
            bar.update()
            if current_iter == start_iter + 1:
                message_logger.reset_start_time()
            if current_iter % logger_opt["print_freq"] == 0:
                lrs = model.get_current_learning_rate()
                values = {"epoch": epoch, "iter": current_iter, "lrs": lrs}
                values.update(time=iter_timer.get_avg_time(), data_time=data_timer.get_avg_time())
                logged = model.get_current_log()
                if on_log:
                    on_log(current_iter, logged)
                values.update(logged)
                message_logger(values)
                if tb_logger:
                    tb_logger.add_scalar("lr", lrs[0], current_iter)
            if tb_logger and hasattr(model, "log_images") and current_iter % image_freq == 0:
                model.log_images(tb_logger, current_iter)
            if current_iter % logger_opt["save_checkpoint_freq"] == 0:
                logger.info("Saving models and training states.")
                model.save(epoch, current_iter)
            if val_opt and current_iter % val_opt["val_freq"] == 0 and current_iter < total:
                validate(current_iter)
            if interrupt.asked:
                logger.warning(f"Interrupted after iteration {current_iter}: saving. Go on with --auto_resume.")
                model.save(epoch, current_iter)
                raise KeyboardInterrupt
            if current_iter >= total:
                break
            data_timer.start()
            iter_timer.start()

    spent = datetime.timedelta(seconds=int(time.time() - start_time))
    logger.info(f"End of training. Time consumed: {spent}. Saving the latest model.")
    model.save(epoch=-1, current_iter=-1)
    if val_opt:
        validate(current_iter)
    if tb_logger:
        tb_logger.close()
    return model


def _resume_paths(opt: dict[str, Any], iteration: int) -> None:
    """For BasicSR's own models, which load the networks of a resumed run through ``path:pretrain_network_*``."""
    ignored = opt["path"].get("ignore_resume_networks") or []
    for key in [k for k in opt if k.startswith("network_") and k not in ignored]:
        name = f"net_{key.removeprefix('network_')}_{iteration}.pth"
        opt["path"][f"pretrain_{key}"] = os.path.join(opt["path"]["models"], name)
    for key in [k for k in opt["path"] if k.startswith("param_key")]:
        opt["path"][key] = "params"

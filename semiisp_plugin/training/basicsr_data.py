"""Data of a training run on BasicSR's own data sets: their order, their randomness, and going on at any batch.

BasicSR's data sets augment with the global generators of ``random`` and ``numpy``. What those give depends on where a
sample is read:

* without loader workers, with BasicSR's models, the training process's generators are used as they are. The losses are
  those of BasicSR's own pipeline, number by number; a resumed run puts the generators back;
* with workers, and always with models of ours, each sample has seeds of its own, from the run's seed, the epoch and the
  position in the epoch. No augmentation comes again in the next epoch (BasicSR seeds its workers alike in each), the
  number of workers changes nothing, and a run goes on at any batch as if it had not been interrupted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from torch.utils.data import Dataset, Sampler

from semiisp_plugin.options import OptionError, is_our_model
from semiisp_plugin.random_state import draw_as_a_loader, seeded
from semiisp_plugin.toolbox import EnlargedSampler
from semiisp_plugin.training.loaders import STALL_WARNING, Loader, differences, gpus_of_this_process, loader_arguments
from semiisp_plugin.training.stall import StallWatch, WatchedDataset


class SeededEnlargedSampler(EnlargedSampler):  # type: ignore[misc]  # BasicSR is untyped
    """BasicSR's `EnlargedSampler`, whose order depends on the seed too (BasicSR's depends on the epoch alone)."""

    def __init__(self, dataset: Any, num_replicas: int, rank: int, ratio: float, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; what BasicSR's sampler seeds its generator with is made of it and the seed."""
        super().set_epoch((self.seed * 100_003 + epoch) % 2**31)


class Visit(NamedTuple):
    """One reading of a sample.

    Attributes:
        epoch: From 0.
        position: In the order of that epoch, over all processes.
        index: Number of the sample in the data set; last, where those look for it who report what is being read.
    """

    epoch: int
    position: int
    index: int  # type: ignore[assignment]  # takes the place of tuple.index, which nobody needs here


class SeededVisits(Dataset[Any]):
    """A data set that is asked for `Visit`, and draws at random what belongs to that visit; else it is the data set.

    Args:
        dataset: Data set that draws from the global generators.
        seed: Of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, visit: Visit) -> Any:
        with seeded(self.seed, visit.epoch, visit.position):
            return self.dataset[visit.index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # `dataset` is not there yet while an unpickled object is put together.
        if name == "dataset" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class EpochBatches(Sampler[list[Any]]):
    """Batches of one epoch after the other; what does not fill a batch at an epoch's end is left out, as in BasicSR.

    One pass over it is the whole run: loader workers live as long as the run, and read on across the ends of epochs.

    Args:
        order: Gives an epoch's order in this process.
        batch_size: Samples in a batch of this process.
        start_batch: Number of the first batch.
        num_batches: Batches of the whole run, those before ``start_batch`` included.
        as_visits: Give `Visit` instead of the bare number of the sample.
    """

    def __init__(
        self, order: EnlargedSampler, batch_size: int, start_batch: int, num_batches: int, as_visits: bool
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.start_batch = start_batch
        self.num_batches = num_batches
        self.as_visits = as_visits
        self.per_epoch = len(order) // batch_size

    def __len__(self) -> int:
        """Batches from ``start_batch`` to the end of the run."""
        return max(0, self.num_batches - self.start_batch)

    def __iter__(self) -> Iterator[list[Any]]:
        known, indices = -1, []
        for number in range(self.start_batch, self.num_batches):
            epoch, place = divmod(number, self.per_epoch)
            if epoch != known:
                self.order.set_epoch(epoch)
                known, indices = epoch, list(self.order)
            places = range(place * self.batch_size, (place + 1) * self.batch_size)
            if self.as_visits:
                yield [Visit(epoch, self.order.rank + n * self.order.num_replicas, indices[n]) for n in places]
            else:
                yield [indices[n] for n in places]


class BasicSRData:
    """Batches of a data set that is not ours.

    With BasicSR's models the order of the samples is BasicSR's own, unless ``datasets:train:seeded_order`` is set; with
    models of ours it depends on ``manual_seed``. The number of epochs follows from ``total_iter``: no run ends early.

    Args:
        dataset: The built ``datasets:train``.
        settings: Its section.
        opt: Complete options.
        start_iter: Iterations done before.

    Attributes:
        loader: The loader.
        watch: To be opened around the training loop.
        n_pairs: Size of the data set.

    Raises:
        OptionError: A key is missing, or the data do not fill one batch.
    """

    def __init__(self, dataset: Any, settings: dict[str, Any], opt: dict[str, Any], start_iter: int) -> None:
        if not settings.get("batch_size_per_gpu"):
            raise OptionError("datasets:train: the key 'batch_size_per_gpu' is missing.")
        gpus = gpus_of_this_process(opt)
        arguments = loader_arguments(opt, settings, gpus)
        seed, world_size, rank = opt["manual_seed"], opt["world_size"], opt["rank"]
        ratio = settings.get("dataset_enlarge_ratio") or 1
        self.n_pairs = len(dataset)
        ours = is_our_model(opt["model_type"])
        own_seeds = ours or arguments["num_workers"] > 0
        seeded_order = ours or bool(settings.get("seeded_order"))
        if seeded_order:
            order = SeededEnlargedSampler(dataset, world_size, rank, ratio, seed)
        else:
            order = EnlargedSampler(dataset, world_size, rank, ratio)
        batch = int(settings["batch_size_per_gpu"]) * gpus
        self._accumulate = int(opt["train"].get("accumulate") or 1)
        total = int(opt["train"]["total_iter"]) * self._accumulate
        self.sampler = EpochBatches(order, batch, start_iter * self._accumulate, total, own_seeds)
        if self.sampler.per_epoch == 0:
            enlarged = f" x {ratio:g}" if ratio != 1 else ""
            raise OptionError(
                f"datasets:train: {self.n_pairs} images{enlarged} do not fill one batch of {batch * world_size}; lower "
                f"batch_size_per_gpu or raise dataset_enlarge_ratio."
            )
        watched = WatchedDataset(SeededVisits(dataset, seed) if own_seeds else dataset, arguments["num_workers"])
        self.watch = StallWatch(watched, settings.get("stall_warning", STALL_WARNING))
        self.loader = Loader(watched, batch_sampler=self.sampler, **arguments)
        self._draws = not ours
        self._identity: dict[str, Any] = {
            "images": self.n_pairs,
            "batch_size_of_all_ranks": batch * world_size,
            "batches_per_epoch": self.sampler.per_epoch,
            "seeded_order": seeded_order,
            "seeded_samples": own_seeds,
            **({"seed": seed} if seeded_order or own_seeds else {}),
        }

    def about(self) -> str:
        """Sizes, batches an epoch, passes over the images."""
        batch, per_epoch = self._identity["batch_size_of_all_ranks"], self.sampler.per_epoch
        passes = self.passes(self.sampler.num_batches // self._accumulate)["real"]
        return (
            f"Training data: {self.n_pairs} images; {batch} a batch over all processes; {per_epoch} batches an epoch; "
            f"passes over the images in all: {passes:.3g}."
        )

    def batches(self) -> Generator[tuple[int, Any], None, None]:
        """``(epoch, batch)`` to the end of the run."""
        batches = self.watch.batches(self.loader)
        first = self.sampler.start_batch
        if self._draws and first == 0:
            draw_as_a_loader()  # BasicSR's prefetcher makes an iterator when it is made, and discards it
        for number in range(first, self.sampler.num_batches):
            epoch, place = divmod(number, self.sampler.per_epoch)
            if self._draws and place == 0:
                draw_as_a_loader()
            yield epoch, next(batches)

    def passes(self, iteration: int) -> dict[str, float]:
        """Passes over the images after so many iterations."""
        samples = iteration * self._accumulate * self._identity["batch_size_of_all_ranks"]
        return {"real": samples / self.n_pairs}

    def state_dict(self, iteration: int) -> dict[str, Any]:
        """What the order and the randomness of the samples depend on, and where they stand."""
        return {"start_batch": iteration * self._accumulate, **self._identity}

    def changes_since(self, state: dict[str, Any]) -> str | None:
        """How a state's samples differ from those of this run, in words; None if they do not."""
        return differences(state, {**self._identity, "start_batch": self.sampler.start_batch})

"""``basicsr recipe``: what runs, what is skipped, resumed, refused, and the report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from semiisp_plugin.experiments import recipe as recipe_module
from semiisp_plugin.experiments import recipe_checks
from semiisp_plugin.experiments.jobs import JobError, differences, perform
from semiisp_plugin.experiments.recipe import run_recipe
from semiisp_plugin.experiments.recipe_options import TRAININGS, load_recipe
from semiisp_plugin.options import OptionError

TOTAL = 3


class Recipe:
    """The files of a recipe on `tiny_data`, in a folder of their own."""

    def __init__(self, files, folder: Path) -> None:
        self.folder = folder
        phases = {
            "f_isp": files.isp(TOTAL, image_enhancement=True),
            "pseudo": files.pseudo(),
            "semi": files.semi(TOTAL),
            "finetune": files.finetune(TOTAL),
            "test": files.test(),
        }
        supervised = yaml.safe_load(Path(phases["finetune"]).read_text())
        supervised.update(name="supervised", path={})
        phases["supervised"] = files.write("supervised", supervised)
        for name in ("semi", "finetune", "supervised"):
            self.edit(phases[name], lambda o: o["train"].pop("ema_decay", None))
        self.files = {name: os.path.relpath(path, folder) for name, path in phases.items()}
        self.values = {
            "name": "r",
            "title": "A <recipe> & its phases",
            "phases": self.files,
            "pictures": 2,
            "paper": {"task": "LoLv1", "network": "LLFormer", "pairs": 485},
        }
        self.write()

    def edit(self, path: str, change) -> None:
        path = self.folder / path
        options = yaml.safe_load(path.read_text())
        change(options)
        path.write_text(yaml.safe_dump(options, sort_keys=False))

    def write(self, **changes) -> str:
        self.values.update(changes)
        (self.folder / "recipe.yml").write_text(yaml.safe_dump(self.values, sort_keys=False))
        return str(self.folder / "recipe.yml")


def make(option_files_in, folder: Path) -> Recipe:
    return Recipe(option_files_in(folder), folder)


@pytest.fixture
def recipe(option_files_in, workspace) -> Recipe:
    return make(option_files_in, workspace)


@pytest.fixture(scope="module")
def finished(option_files_in, tmp_path_factory):
    """A recipe that was run to its end; do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    made = make(option_files_in, folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        made.content = run_recipe("recipe.yml")
    finally:
        os.chdir(before)
    return made


@pytest.fixture
def done(finished, tmp_path, monkeypatch) -> Recipe:
    """A copy of the finished recipe, times of files included."""
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(finished.folder), str(folder)], check=True)
    monkeypatch.chdir(folder)
    copy = object.__new__(Recipe)
    copy.folder, copy.files, copy.values = folder, finished.files, dict(finished.values)
    # Paths in the option files are of the data, which stays; the photographs' build has an absolute path.
    return copy


def weights(folder: Path, run: str) -> dict[str, torch.Tensor]:
    path = folder / "experiments" / run / "models" / "net_g_latest.pth"
    return torch.load(path, weights_only=True)["params"]


def plan(text: str) -> dict[str, tuple[str, str]]:
    """Phase -> state and what will be done, read off the table."""
    rows = {}
    for line in text.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) >= 4 and cells[2] in ("complete", "interrupted", "to do", "stale"):
            rows[cells[0]] = (cells[2], cells[3])
    return rows


def plan_of(capsys, **arguments) -> str:
    capsys.readouterr()
    assert run_recipe("recipe.yml", dry_run=True, **arguments) is None
    return capsys.readouterr().out


def states(capsys, **arguments) -> dict[str, tuple[str, str]]:
    return plan(plan_of(capsys, **arguments))


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_phases_run_and_are_compared(finished):
    folder, content = finished.folder, finished.content
    for run in ("isp", "semi", "finetune", "supervised"):
        assert (folder / "experiments" / run / "models" / "net_g_latest.pth").is_file()
    assert (folder / "pseudo" / "report.json").is_file()
    assert [s["key"] for s in content["systems"]] == ["f_isp", "supervised", "semi", "finetune"]
    out = folder / "results" / "recipe_r"
    assert json.loads((out / "report.json").read_text()) == content
    for system in content["systems"]:
        (means,) = system["means"].values()
        rows = (folder / "results" / system["run"] / "metrics_test.csv").read_text().splitlines()
        column = rows[0].split(",").index("psnr")
        values = [float(row.split(",")[column]) for row in rows[1:]]
        assert len(values) == 2
        assert means["psnr"] == pytest.approx(sum(values) / 2)
    assert [row["means"]["psnr_gt_mean"] for row in content["paper_rows"]] == [25.76, 26.12]


def test_report_is_one_page_with_pictures(finished):
    out = finished.folder / "results" / "recipe_r"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 1
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "A &lt;recipe&gt; &amp; its phases" in page
    for label in ("f_ISP alone", "supervised", "before fine-tuning", "fine-tuned", "the paper, Tables 4 and 9"):
        assert label in page
    text = (out / "report.md").read_text(encoding="utf-8")
    assert re.search(r"supervised +\| +23.65 \| 0.8160 \| +25.76 \|", text)
    assert re.search(r"learning +\| +23.77 \| 0.8320 \| +26.12 \|", text)
    assert (out / "pictures.jpg").stat().st_size > 1000


def test_what_is_complete_is_left_alone(done, capsys, monkeypatch):
    found = states(capsys)
    assert set(found.values()) == {("complete", "nothing")}
    assert len(found) == 9
    monkeypatch.setattr(recipe_module, "perform", lambda *_, **__: pytest.fail("nothing is left to do"))
    assert run_recipe("recipe.yml")["systems"]


def test_the_same_from_a_dictionary(done, capsys):
    capsys.readouterr()
    assert run_recipe(done.values, dry_run=True) is None
    assert set(plan(capsys.readouterr().out).values()) == {("complete", "nothing")}


@pytest.mark.slow
def test_what_was_made_by_hand_is_refused_and_renamed_on_demand(done, capsys):
    for run in ("finetune", "test"):
        Path(f"experiments/.recipe/{run}.json").unlink()
    found = states(capsys)
    assert found["finetune"] == ("stale", "refuse (--redo makes it again)")
    assert found["test:finetune"] == ("stale", "make again")
    with pytest.raises(JobError, match=r"finetune: .*/finetune exists and was not made by a recipe; rename"):
        run_recipe("recipe.yml")
    run_recipe("recipe.yml", redo=[])
    assert list(Path("experiments").glob("finetune_archived_*"))
    assert list(Path("results").glob("test_archived_*"))
    assert set(states(capsys).values()) == {("complete", "nothing")}


# --- resuming --------------------------------------------------------------------------------------------------------


def interrupt(run: str) -> None:
    """Note of a run that it has not come to its end."""
    file = Path(f"experiments/.recipe/{run}.json")
    noted = json.loads(file.read_text())
    file.write_text(json.dumps({"depends": noted["depends"], "seconds": 1.0, "complete": False}))


@pytest.mark.slow
def test_interrupted_run_is_resumed(done, finished, capsys):
    interrupt("semi")
    models, training = Path("experiments/semi/models"), Path("experiments/semi/training_states")
    for path in (models / "net_g_latest.pth", models / "net_g_3.pth", training / "3.state", training / "2.state"):
        path.unlink()
    found = states(capsys)
    assert found["semi"] == ("interrupted", "resume")
    # What was made of the weights that are gone is not complete, but made of the same ones again it would be.
    assert found["finetune"][0] == "stale"
    assert f"{TOTAL - 1 + TOTAL} iterations of training are left" in plan_of(capsys)
    run_recipe("recipe.yml", until="semi")
    for name, value in weights(Path(), "semi").items():
        assert torch.equal(value, weights(finished.folder, "semi")[name])
    assert states(capsys)["semi"] == ("complete", "nothing")


def test_missing_weights_are_not_complete(done, capsys):
    Path("experiments/finetune/models/net_g_latest.pth").unlink()
    assert states(capsys)["finetune"] == ("to do", "run")
    run_recipe("recipe.yml")
    assert list(Path("experiments").glob("finetune_archived_*"))
    assert set(states(capsys).values()) == {("complete", "nothing")}


def test_unfinished_pseudo_pairs_are_resumed(done, finished, capsys):
    interrupt("pseudo")
    for path in Path("pseudo/shards").glob("*.done.json"):
        path.unlink()
    assert states(capsys)["pseudo"] == ("interrupted", "resume")
    run_recipe("recipe.yml", until="pseudo")
    assert states(capsys)["pseudo"] == ("complete", "nothing")
    assert not list(Path().glob("pseudo_archived_*"))


SERVER = """
import os, sys
import torch
import semiisp_plugin.training
import torch.utils.tensorboard
from semiisp_plugin.experiments.recipe import run_recipe
from semiisp_plugin.models.restoration import RestorationModel
import time

torch.set_num_threads(1)
feed_data = RestorationModel.feed_data
RestorationModel.feed_data = lambda self, data: (time.sleep(0.02), feed_data(self, data))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        os.setsid()
        run_recipe("recipe.yml")
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked: importing takes longer than the rest")
def test_killed_at_any_moment_it_ends_as_if_left_alone(recipe, finished):
    """SIGKILL in training, while pairs are built, in fine-tuning, in the test."""
    Path("server.py").write_text(SERVER)
    server = subprocess.Popen(
        [sys.executable, "server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def run(kill_at: str | None) -> int:
        server.stdin.write("go\n")
        server.stdin.flush()
        child = int(server.stdout.readline())
        if kill_at:
            end = time.monotonic() + 60
            while not Path(kill_at).exists() and time.monotonic() < end:
                time.sleep(0.002)
            os.killpg(child, signal.SIGKILL)
        return int(server.stdout.readline())

    for moment in (
        "experiments/isp/training_states/1.state",
        "pseudo/manifest.json",
        "experiments/semi/training_states/2.state",
        "experiments/finetune",
        "results/test_semi",
    ):
        assert run(moment) == -signal.SIGKILL, Path("log.txt").read_text()
    assert run(None) == 0, Path("log.txt").read_text()
    server.stdin.close()
    server.wait()
    for name in ("isp", "semi", "finetune", "supervised"):
        expected = weights(finished.folder, name)
        assert all(torch.equal(value, expected[key]) for key, value in weights(Path(), name).items()), name
    content = json.loads(Path("results/recipe_r/report.json").read_text())
    assert [s["means"] for s in content["systems"]] == [s["means"] for s in finished.content["systems"]]


# --- what is stale ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_changed_options_are_refused_and_made_again_on_demand(done, capsys):
    done.edit(done.files["semi"], lambda o: o["train"]["optim_g"].update(lr=2e-3))
    found = states(capsys)
    assert found["f_isp"] == found["pseudo"] == found["supervised"] == ("complete", "nothing")
    assert found["semi"][0] == found["finetune"][0] == "stale"
    assert found["test:semi"] == found["test:finetune"] == ("stale", "make again")
    before = weights(Path(), "semi")
    with pytest.raises(JobError, match=r"semi: train:optim_g:lr: 0.001 -> 0.002;.*--redo"):
        run_recipe("recipe.yml")
    assert all(torch.equal(v, before[k]) for k, v in weights(Path(), "semi").items())
    stamp = Path("experiments/isp/models/f_isp_latest.pth").stat().st_mtime_ns
    run_recipe("recipe.yml", redo=[])
    assert Path("experiments/isp/models/f_isp_latest.pth").stat().st_mtime_ns == stamp
    assert any(not torch.equal(v, before[k]) for k, v in weights(Path(), "semi").items())
    assert list(Path("experiments").glob("semi_archived_*"))
    assert list(Path("experiments").glob("finetune_archived_*"))
    assert not list(Path("experiments").glob("isp_archived_*"))
    assert set(states(capsys).values()) == {("complete", "nothing")}


def test_options_that_change_no_weight_make_nothing_stale(done, capsys):
    def change(options):
        options["logger"]["print_freq"] = 7
        options["datasets"]["train"]["num_worker_per_gpu"] = 1
        options["val"]["val_freq"] = 9

    done.edit(done.files["finetune"], change)
    assert states(capsys)["finetune"] == ("complete", "nothing")


def test_other_weights_to_begin_with_make_stale(done, capsys):
    path = Path("experiments/semi/models/net_g_latest.pth")
    state = torch.load(path, weights_only=True)
    state["params"] = {k: v + 1e-3 for k, v in state["params"].items()}
    torch.save(state, path)
    found = states(capsys)
    assert found["finetune"][0] == "stale"
    assert found["test:semi"][0] == "stale"


def test_other_f_isp_makes_pseudo_pairs_stale(done, capsys):
    path = Path("experiments/isp/models/f_isp_latest.pth")
    state = torch.load(path, weights_only=True)
    torch.save({**state, "more": 1}, path)
    found = states(capsys)
    assert found["pseudo"][0] == found["semi"][0] == "stale"
    assert found["supervised"] == ("complete", "nothing")


def test_redo_of_one_phase(done, capsys):
    found = states(capsys, redo=["finetune"])
    again = {name for name, (_, will) in found.items() if will == "make again"}
    assert again == {"finetune", "test:finetune"}
    with pytest.raises(JobError, match="finetun: no phase of this recipe; did you mean 'finetune'"):
        run_recipe("recipe.yml", redo=["finetun"])


def test_differences():
    before = {"train": {"lr": 1, "old": 2}, "logger": {"a": 1}, "datasets": {"train": {"x": [1]}, "val": {"x": 1}}}
    now = {"train": {"lr": 2, "new": None}, "logger": {"a": 2}, "datasets": {"train": {"x": [1]}, "val_2": {"x": 3}}}
    assert differences(before, now) == ["train:lr: 1 -> 2", "train:old: 2 -> (nothing)"]


# --- before anything begins ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dry_run_writes_nothing(recipe, capsys):
    before = sorted(os.listdir())
    found = states(capsys)
    assert set(found.values()) == {("to do", "run")}
    assert sorted(os.listdir()) == before
    run_recipe("recipe.yml", dry_run=True)
    assert f"{4 * TOTAL} iterations of training are left" in capsys.readouterr().out


def test_all_that_is_missing_is_said_before_the_first_phase(recipe):
    recipe.edit(recipe.files["pseudo"], lambda o: o.update(photographs="no/photos"))
    recipe.edit(recipe.files["supervised"], lambda o: o["datasets"]["train"].update(dataroot_lq="no/pairs"))
    recipe.edit(recipe.files["semi"], lambda o: o["datasets"]["train"].update(meta_info_file="no/names.txt"))
    with pytest.raises(JobError) as caught:
        run_recipe("recipe.yml")
    for part in ("no/photos", "no/pairs", "no/names.txt", "supervised.yml:", "datasets:train:dataroot_lq"):
        assert part in str(caught.value)
    assert not Path("experiments").exists()


def test_names_that_belong_to_no_pair_are_found_beforehand(recipe):
    Path("names.txt").write_text("00\nno_such_pair\n")
    recipe.edit(recipe.files["finetune"], lambda o: o["datasets"]["train"].update(meta_info_file="names.txt"))
    with pytest.raises(JobError, match="no_such_pair"):
        run_recipe("recipe.yml")


def test_folder_without_photographs_is_found_beforehand(recipe):
    Path("photos").mkdir()
    Path("photos/list.txt").write_text("a.jpg\n")
    with pytest.raises(JobError, match=r"--set pseudo:photographs: there is no image in photos\. .* any folder"):
        run_recipe("recipe.yml", dry_run=True, overrides=["pseudo:photographs=photos"])


def test_what_several_files_lack_is_said_once(recipe):
    for phase in ("semi", "finetune", "supervised"):
        recipe.edit(recipe.files[phase], lambda o: o["datasets"]["train"].update(dataroot_lq="no/pairs"))
    with pytest.raises(JobError, match=r"there is no no/pairs \(and in 2 more places\)\. `basicsr prepare`") as caught:
        run_recipe("recipe.yml", dry_run=True)
    assert str(caught.value).count("no/pairs") == 1


def test_weights_of_losses_are_looked_for_beforehand(recipe):
    loss = {"type": "VGGPerceptualLoss", "loss_weight": 0.1, "weights": "no/vgg.pth"}
    recipe.edit(recipe.files["f_isp"], lambda o: o["train"].update(perceptual_opt=loss))
    with pytest.raises(JobError, match=r"train:perceptual_opt:weights: there is no no/vgg\.pth"):
        run_recipe("recipe.yml", dry_run=True)


def test_other_options_of_a_process_that_was_waited_for_are_not_overwritten(done, monkeypatch):
    """Two recipes share f_ISP under one name, with other options; the second one waited for the first."""
    phases = recipe_module.phases_of(load_recipe("recipe.yml", ["f_isp:train:total_iter=9"]), Path.cwd())
    with pytest.raises(JobError, match=r"was made otherwise .*total_iter: 3 -> 9.* by another process"):
        perform(phases[0])
    assert not list(Path("experiments").glob("isp_archived_*"))


def test_room_is_counted_on_the_disk_that_is_written(done, monkeypatch):
    """What is written of the pairs lies there already; other folders may be on other disks."""
    pseudo = next(p for p in recipe_module.phases_of(load_recipe("recipe.yml"), Path.cwd()) if p.key == "pseudo")
    whole = pseudo.disk()
    interrupt("pseudo")
    there = sum(path.stat().st_size for path in Path("pseudo").rglob("*") if path.is_file())
    assert pseudo.disk() == max(0, whole - there) < whole
    asked = []
    usage = recipe_checks.shutil.disk_usage
    monkeypatch.setattr(recipe_checks.shutil, "disk_usage", lambda path: (asked.append(Path(path)), usage(path))[1])
    assert recipe_checks.disk_problems([pseudo]) == []
    assert asked == [pseudo.place]


def test_several_processes_are_refused(recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(JobError, match="without torchrun"):
        run_recipe("recipe.yml", dry_run=True)


def test_disk_that_is_too_small(recipe, monkeypatch):
    monkeypatch.setattr(recipe_checks.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000})())
    with pytest.raises(JobError, match=r"the disk of .* has .*B left, of about .*B that"):
        run_recipe("recipe.yml")


@pytest.mark.parametrize(
    ("phase", "change", "message"),
    [
        ("pseudo", lambda o: o.update(f_isp="experiments/other/models/f_isp_latest.pth"), "f_isp: experiments/other"),
        ("semi", lambda o: o["datasets"]["train"]["pseudo"].update(dataroot_gt="old/gt.lmdb"), "dataroot_gt: old/gt"),
        ("finetune", lambda o: o["path"].update(pretrain_network_g="old.pth"), "pretrain_network_g: old.pth"),
        ("test", lambda o: o["network_g"].update(thumbnail=64), "network_g differs"),
        ("supervised", lambda o: o.update(name="semi"), "one name, semi"),
    ],
)
def test_phases_that_do_not_fit_each_other(recipe, phase, change, message):
    recipe.edit(recipe.files[phase], change)
    with pytest.raises(JobError, match=re.escape(message)):
        run_recipe("recipe.yml", dry_run=True)


def test_misspelt_options_of_a_phase_are_found_beforehand(recipe):
    recipe.edit(recipe.files["finetune"], lambda o: o["train"].update(grad_clap=1))
    with pytest.raises(OptionError, match="did you mean 'grad_clip'"):
        run_recipe("recipe.yml")


# --- options of recipes ----------------------------------------------------------------------------------------------


def test_overrides_of_phases(recipe):
    recipe.write(set=["semi:train:total_iter=7"])
    loaded = load_recipe(
        "recipe.yml", ["semi:train:optim_g:lr=1e-4", "pictures=3", "manual_seed=5", "train:grad_clip=1"]
    )
    assert loaded.options.pictures == 3
    semi = loaded.phases["semi"].values
    assert (semi["train"]["total_iter"], semi["train"]["optim_g"]["lr"]) == (7, 1e-4)
    assert {name: phase.values["manual_seed"] for name, phase in loaded.phases.items()} == dict.fromkeys(
        recipe.files, 5
    )
    assert {name for name, phase in loaded.phases.items() if "train" in phase.values} == set(TRAININGS)
    assert all(loaded.phases[name].values["train"]["grad_clip"] == 1 for name in TRAININGS)


def test_phases_that_are_left_out(recipe, capsys):
    recipe.write(skip=["supervised", "finetune"])
    assert set(states(capsys)) == {"f_isp", "pseudo", "semi", "test:f_isp", "test:semi"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phasse": {}}, r"recipe.yml:\d+: phasse: .*did you mean 'phases'"),
        ({"skip": ["f_isp"]}, "skip: 'f_isp' cannot be left out"),
        ({"set": ["sem:a=1"]}, "no phase 'sem'.*; did you mean 'semi'"),
        ({"set": ["denoise:gamma=1"]}, "the phase denoise is not part of this recipe"),
        ({"paper": {"task": "LoLv3", "network": "x", "pairs": 1}}, "no task 'LoLv3'; did you mean 'LoLv"),
        ({"pictures": -1}, "pictures"),
    ],
)
def test_mistakes_in_a_recipe(recipe, change, message):
    recipe.write(**change)
    with pytest.raises(OptionError, match=message):
        load_recipe("recipe.yml")


def test_mistakes_in_overrides_name_the_phase(recipe):
    with pytest.raises(OptionError, match=r"no phase 'sem'.*; did you mean 'semi'"):
        load_recipe("recipe.yml", ["sem:train:total_iter=3"])
    with pytest.raises(OptionError, match=r"--set semi:train:total_itr: unknown key; did you mean 'total_iter'"):
        run_recipe("recipe.yml", dry_run=True, overrides=["semi:train:total_itr=3"])


def test_recipe_without_a_file(recipe):
    recipe.write(phases={**recipe.files, "semi": "sem.yml"})
    with pytest.raises(OptionError, match=r"phases:semi: there is no file sem.yml"):
        load_recipe("recipe.yml")
    recipe.write(phases={k: v for k, v in recipe.files.items() if k != "semi"})
    with pytest.raises(OptionError, match="semi"):
        load_recipe("recipe.yml")
    with pytest.raises(OptionError, match="no option file of `basicsr recipe`"):
        load_recipe(recipe.files["semi"])

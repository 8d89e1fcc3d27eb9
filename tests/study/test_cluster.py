"""`distillens study --ray` on a real cluster of nodes on this machine, which are killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_cluster import SMALL, ray_cluster
from safetensors.torch import load_file
from tiny_study import ENVIRONMENT, REPO, run_study, study_command, tiny_study

from distillens_plugin import cli
from distillens_plugin.study.evaluation import is_evaluated
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from distillens_plugin.study.state import is_trained

pytest.importorskip("ray", reason="the extra ray is not installed")

SEEDS = (1, 2, 3)
PATIENCE_S = 400


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as started:
        yield started


LENS = {"lens": {"set": {"lens_weight": 0.5, "steps": 30, "log_every": 1}}}
BROKEN = {"broken": {"set": {"models.teacher_model.name_or_path": "./nowhere"}}}


def lens_study(folder, methods=LENS, **changes):
    """Runs long enough to be killed in the middle."""
    folder.mkdir()
    return tiny_study(folder, methods=methods, compare_to=[], **changes)


def assert_counts_here(path, seeds, protocols=()):
    """A study on this machine would find these runs done."""
    study = load_study(path)
    for seed in seeds:
        run = make_run(study, "main", "lens", seed)
        assert is_trained(run, overwrite=False)
        assert all(is_evaluated(run, protocol, overwrite=False) for protocol in protocols)


def start(path, *arguments):
    """The study as a process, its output in a file beside it."""
    environment = {**ENVIRONMENT, "RAY_TMPDIR": os.environ["RAY_TMPDIR"]}
    with (path.parent / "said.txt").open("w") as said:
        return subprocess.Popen(
            study_command(path, *arguments),
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=REPO,
        )


def said(path):
    return (path.parent / "said.txt").read_text(encoding="utf-8")


def wait_for(condition, process, path):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, said(path)
        assert time.monotonic() < deadline, said(path)
        time.sleep(0.05)


def finish(process, path):
    try:
        return process.wait(PATIENCE_S)
    finally:
        process.kill()
        print(said(path))


def at_work(path):
    """Seeds whose runs have begun their steps and not ended them.

    A run stopped earlier leaves its metrics behind, so its process must be there as well.
    """
    out = path.parent / "out" / "main" / "lens"
    return [
        seed
        for seed in SEEDS
        if (out / f"seed_{seed}" / "train" / "metrics.jsonl").is_file()
        and not (out / f"seed_{seed}" / "train" / "summary.json").is_file()
        and processes_below(out / f"seed_{seed}")
    ]


def processes_below(folder):
    """Running processes whose command line names the folder, without zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:  # it has just ended
            continue
        if "distillens_plugin.run" in words and str(folder) in words:
            found.append(int(entry.parent.name))
    return found


def node_of(run, nodes):
    """The node whose raylet has started the worker of a run at work."""
    (process,) = processes_below(run)
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    while process not in raylets:
        assert process > 1, "no node's"
        # Its name, which may hold anything, ends with the last parenthesis.
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return raylets[process]


def wait_for_cpus(cluster):
    """Until a node has joined that takes runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not cluster.global_state.cluster_resources().get("CPU"):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def weights(path, seed):
    run = path.parent / "out" / "main" / "lens" / f"seed_{seed}"
    return load_file(run / "train" / "best" / "model.safetensors")


def assert_same_models(path, other, seeds):
    for seed in seeds:
        first, second = weights(path, seed), weights(other, seed)
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert tensor.equal(second[name]), f"seed {seed}: {name}"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The study on this machine alone, to compare with."""
    path = lens_study(tmp_path_factory.mktemp("local") / "study", seeds=[1, 2], evaluation=None)
    done = run_study(path, "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, and counts on its kernel")
def test_a_study_begun_here_goes_on_there_is_stopped_and_loses_a_node(cluster, tmp_path, local):
    """It ends with the models of a study that ran here alone."""
    path = lens_study(tmp_path / "study", seeds=[*SEEDS], evaluation=None)
    first = path.parent / "out" / "main" / "lens" / "seed_1"
    # Begun here: the first run is done.
    shutil.copytree(local.parent / "out" / "main" / "lens" / "seed_1", first)
    nodes = [cluster.add_node(**SMALL) for _ in range(2)]

    study = start(path, "--ray", cluster.address)
    wait_for(lambda: at_work(path), study, path)
    study.send_signal(signal.SIGTERM)
    assert finish(study, path) == 128 + signal.SIGTERM
    assert "terminated" in said(path)
    assert processes_below(path.parent) == []
    assert not list(path.parent.glob("out/.shared-*"))

    study = start(path, "--ray", "auto")
    wait_for(lambda: len(at_work(path)) == 2, study, path)
    lost = node_of(path.parent / "out" / "main" / "lens" / "seed_2", nodes)
    nodes.remove(lost)
    cluster.remove_node(lost, allow_graceful=False)
    assert finish(study, path) == 0
    text = said(path)
    assert "3 nodes, 2 runs at once; results shared" in text
    assert "final runs: 3 runs, 1 of them done already" in text
    assert text.count("its worker was lost") == 1, text
    assert "seed_2: its worker was lost" in text
    assert "try 2 of 4" in text
    assert_same_models(path, local, seeds=[1, 2])

    assert_counts_here(path, SEEDS)
    for node in nodes:
        cluster.remove_node(node)


def can_hide_folders():
    """Whether this kernel lets a process mount something that only it sees."""
    probe = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_hide_folders(), reason="needs a mount namespace (unshare --mount)")
def test_a_node_that_does_not_share_the_folder_gets_copies_and_sends_results(
    cluster, tmp_path, local
):
    """Its method that cannot run fails as it would here."""
    evaluation = {
        "tasks": ["gsm8k"],
        "data": {"gsm8k": "./rows.jsonl"},
        "protocols": ["greedy"],
        "gen_kwargs": {"max_new_tokens": 4},
    }
    methods = {**LENS, **BROKEN}
    path = lens_study(tmp_path / "study", methods, seeds=[2], evaluation=evaluation)
    out = path.parent / "out"
    out.mkdir()
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    join += [
        f"--address={cluster.address}",
        f"--object-store-memory={SMALL['object_store_memory']}",
    ]
    hidden = f'mount -t tmpfs none "{out}" && exec "$@"'
    node = subprocess.Popen(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", hidden, "sh", *join],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**ENVIRONMENT, "RAY_TMPDIR": os.environ["RAY_TMPDIR"]},
        process_group=0,
    )
    try:
        wait_for_cpus(cluster)
        refused = start(path, "--ray", cluster.address, "--ray_results", "shared")
        assert finish(refused, path) == 2
        assert "--ray_results shared: not every node sees" in said(path)
        assert list(out.iterdir()) == []

        study = start(path, "--ray", cluster.address)
        assert finish(study, path) == 1
    finally:
        node.terminate()
        try:
            node.wait(30)
        finally:
            node.kill()
    assert "results are copied to and from nodes" in said(path)
    assert_same_models(path, local, seeds=[2])
    run = out / "main" / "lens" / "seed_2"
    assert (run / "evaluation" / "greedy" / "done.json").is_file()
    assert "step 30" in (run / "log.txt").read_text(encoding="utf-8")
    assert_counts_here(path, [2], ["greedy"])
    # A run that fails by itself is not tried again, and its log comes back too.
    assert "main/broken/seed_2 failed: " in said(path)
    assert "(exit code 2; " in said(path)
    assert "try 2" not in said(path)
    log = (out / "main" / "broken" / "seed_2" / "log.txt").read_text(encoding="utf-8")
    assert log.count("distillens run: ") == 1, log


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--ray", "local"], "--ray local: expected auto, HOST:PORT"),
        (["--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: nothing answers there"),
        (["--ray", "auto", "--ray_gpus", "1.5"], "--ray_gpus 1.5: expected 0, a part of 1"),
        (["--ray", "auto", "--ray_cpus", "0"], "--ray_cpus 0: expected"),
        (["--ray_results", "copied"], "--ray_results: expected --ray"),
        (["--ray", "auto", "--list"], "--ray with --list"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, flags, part):
    path = tiny_study(tmp_path)
    capsys.readouterr()
    assert cli.main(["study", str(path), *flags]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_without_ray_the_extra_is_named(tmp_path):
    """In a Python whose Ray cannot be imported, as one without it."""
    (tmp_path / "ray.py").write_text("raise ImportError\n")
    done = subprocess.run(
        study_command("quickstart", "--ray", "auto"),
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)},
        cwd=REPO,
    )
    assert done.returncode == 2
    assert "pip install 'distillens[ray]'" in done.stderr

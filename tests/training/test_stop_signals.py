"""SIGTERM and SIGUSR1 while training: a state is kept at the next step, and all processes end."""

import os
import shutil
import signal
import socket
import time

import pytest
from accelerate.state import AcceleratorState, GradientState
from forked_run import Forked, forked, quick_recipe, what_it_left
from run_process import change

from distillens_plugin.storage.kept_state import read_standing


def recipe(folder, *, num_epochs=1, **changes):
    """Epochs of 3 steps in windows of 2 batches of one row: a state within one needs a signal."""
    path = quick_recipe(folder, num_epochs=num_epochs, **changes)
    change(path, "train.train_data_loader.kwargs.batch_size", 1)
    change(path, "train.optimizer.grad_accum_step", 2)
    change(path, "log_every", 2)
    return path


def own_sampler(path):
    """An order from random numbers of its own, which each epoch draws anew."""
    text = path.read_text(encoding="utf-8")
    sampler = "sampler: {class_or_func: !import_get {key: torch.utils.data.RandomSampler}}"
    text = text.replace("  train_data_loader:\n", f"  train_data_loader:\n    {sampler}\n")
    assert sampler in text
    path.write_text(text, encoding="utf-8")


def signalled(step, *signals, pause_s=0.0):
    """For `before`: the child sends itself signals while it takes its step number `step`."""

    def patch():
        from distillens_plugin.training.trainer import Trainer

        take_step = Trainer.step

        def take(self, window):
            if self.step_number + 1 == step:
                for index, number in enumerate(signals):
                    time.sleep(pause_s if index else 0.0)
                    os.kill(os.getpid(), number)
            return take_step(self, window)

        Trainer.step = take

    return patch


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A recipe of one epoch and what its run left."""
    folder = tmp_path_factory.mktemp("signals")
    path = recipe(folder)
    done = forked(path, output=folder / "out", log=folder / "log")
    assert done.returncode == 0, done.stderr[-3000:]
    return path, what_it_left(folder / "out")


@pytest.fixture
def place(whole):
    out = whole[0].parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    return {"output": out, "log": whole[0].parent / "log"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_state_is_kept_at_the_next_step(whole, place, number, code):
    path, expected = whole
    # A launcher may forward what the batch system has sent already: still one request.
    ended = forked(path, **place, before=signalled(2, number, number))
    assert ended.returncode == code, ended.stderr
    said = f"{number.name}: the state of step 2 is kept; --resume goes on from there"
    assert said in ended.stdout + ended.stderr
    standing = read_standing(place["output"] / "state")
    assert (standing.step, standing.epoch, standing.batches_taken) == (2, 0, 4)
    assert not (place["output"] / "last").exists()
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming within epoch 1, after step 2" in done.stdout
    assert what_it_left(place["output"]) == expected


def test_a_signal_in_the_last_step_leaves_only_the_end_to_do(whole, place):
    path, expected = whole
    ended = forked(path, **place, before=signalled(3, signal.SIGUSR1))
    assert ended.returncode == 138, ended.stderr
    assert not (place["output"] / "summary.json").exists()
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after epoch 1, step 3" in done.stdout
    assert what_it_left(place["output"]) == expected


def test_a_second_signal_ends_the_run_at_once(whole, place):
    ended = forked(
        whole[0], **place, before=signalled(2, signal.SIGUSR1, signal.SIGTERM, pause_s=2.1)
    )
    assert ended.returncode == 143, ended.stderr
    assert not (place["output"] / "state").exists()


def test_a_run_that_keeps_no_state_ends_at_once(whole, place):
    ended = forked(
        whole[0], "--set", "resumable=false", **place, before=signalled(2, signal.SIGUSR1)
    )
    assert ended.returncode == 138, ended.stderr
    assert [found.name for found in place["output"].glob("state*")] == []


def two_processes(path, *arguments, output, before=(None, None)):
    """One child for each rank, as a batch system starts them; each gets signals of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def as_rank(rank):
        def prepare():
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()})
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
            # An earlier test of this session may have told accelerate that it is alone.
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            if before[rank] is not None:
                before[rank]()

        return prepare

    runs = [
        Forked(
            path,
            *arguments,
            output=output,
            log=output.with_name(f"log-{rank}"),
            before=as_rank(rank),
        )
        for rank in (0, 1)
    ]
    return [run.wait(timeout_s=100) for run in runs]


def test_a_signal_to_one_of_two_processes_ends_both_after_the_same_step(tmp_path):
    # Six rows on two processes: windows of two batches, the second with one.
    path = recipe(tmp_path, num_epochs=2)
    own_sampler(path)
    out = tmp_path / "out"
    for done in two_processes(path, output=out):
        assert done.returncode == 0, done.stderr[-3000:]
    expected = what_it_left(out)
    shutil.rmtree(out)
    ended = two_processes(path, output=out, before=(None, signalled(3, signal.SIGUSR1)))
    assert [end.returncode for end in ended] == [138, 138], ended
    standing = read_standing(out / "state")
    assert (standing.step, standing.epoch, standing.batches_taken) == (3, 1, 2)
    first, second = two_processes(path, "--resume", output=out)
    assert (first.returncode, second.returncode) == (0, 0), second.stderr[-3000:]
    assert "resuming within epoch 2, after step 3" in first.stdout
    assert what_it_left(out) == expected

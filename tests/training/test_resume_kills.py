"""A run that is ended at any moment, by any signal, resumes to the very same results.

DISTILLENS_KILLS=60 tries that many moments of each kind instead of a few; 0 tries all of them.
"""

import os
import random
import shutil
import signal
import time

import pytest
from forked_run import Forked, forked, kill_after_states, quick_recipe, what_it_left
from safetensors import safe_open

NUM_KILLS = int(os.environ.get("DISTILLENS_KILLS", "2"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A recipe, what its run left, how many changes it made in its folder, and its seconds."""
    folder = tmp_path_factory.mktemp("kills")
    # Two epochs of two steps; a state after each of them, so within the epochs too.
    path = quick_recipe(folder, num_epochs=2, train__save_every=1, train__eval_every=3)
    started = time.monotonic()
    run = Forked(path, output=folder / "out", log=folder / "log")
    done = run.wait()
    assert done.returncode == 0, done.stderr[-3000:]
    return path, what_it_left(folder / "out"), run.num_changes(), time.monotonic() - started


@pytest.fixture
def place(whole):
    out = whole[0].parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    return {"output": out, "log": whole[0].parent / "log"}


def moments(number, last):
    """Some of 1..last, spread over all of them."""
    if number == 0 or number >= last:
        return range(1, last + 1)
    choose = random.Random(number)
    width = last / number
    return [min(last, 1 + int(width * (i + choose.random()))) for i in range(number)]


def check_folders(out):
    """What readers find: whole models, and never a folder that lies aside alone."""
    for name in ("best", "last"):
        if (out / name).exists():
            with safe_open(out / name / "model.safetensors", framework="pt") as file:
                assert file.keys()
            assert (out / name / "tokenizer_config.json").exists()
    aside = [path.name for path in out.glob(".*.replaced")] if out.exists() else []
    for name in aside:
        assert (out / name.removeprefix(".").removesuffix(".replaced")).exists(), aside


def go_on(path, place):
    """Resumes; nothing unfinished may be left over."""
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [found.name for found in place["output"].glob(".*")] == []
    return what_it_left(place["output"])


@pytest.mark.parametrize("without_exchange", [False, True], ids=["exchange", "two renames"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_between_two_changes_of_its_folder(whole, place, end, without_exchange):
    path, expected, num_changes, _ = whole
    for point in moments(NUM_KILLS, num_changes):
        shutil.rmtree(place["output"], ignore_errors=True)
        ended = forked(
            path, **place, at_change=(point, int(end)), without_exchange=without_exchange
        )
        if ended.returncode == 0:
            # The signal came with the last change, when the work was done.
            assert point > num_changes - 5
        else:
            codes = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
            assert ended.returncode == codes[end], (point, ended.stderr[-2000:])
        if not without_exchange or end != signal.SIGKILL:
            check_folders(place["output"])
        assert go_on(path, place) == expected, point


def test_killed_at_a_random_moment(whole, place):
    path, expected, _, seconds = whole
    choose = random.Random(NUM_KILLS)
    for _ in range(NUM_KILLS or 40):
        shutil.rmtree(place["output"], ignore_errors=True)
        run = Forked(path, **place)
        time.sleep(seconds * choose.random())
        if run.running():
            os.kill(run.pid, signal.SIGKILL)
        run.wait()
        check_folders(place["output"])
        assert go_on(path, place) == expected


def test_an_overwrite_that_is_killed_never_mixes_with_what_it_replaced(whole, place):
    path, expected, *_ = whole
    out = place["output"]
    ended = forked(path, **place, before=kill_after_states(4))
    assert ended.returncode == -9
    earlier = out.with_name("earlier")
    out.rename(earlier)
    # What the earlier run left must not be taken for the new run's.
    (earlier / "best" / "mark").write_text("old", encoding="utf-8")
    shutil.copytree(earlier, out)
    run = Forked(path, "--overwrite", **place)
    assert run.wait().returncode == 0
    # Few changes come before the folder is cleared: the lock, and the mark of clearing.
    num_cleared = 0
    for point in [2, 3, *moments(NUM_KILLS * 2, 60)]:
        shutil.rmtree(out)
        shutil.copytree(earlier, out)
        ended = forked(path, "--overwrite", **place, at_change=(point, 9))
        assert ended.returncode == -9, point
        half_cleared = (out / ".clearing").exists()
        num_cleared += half_cleared
        done = forked(path, "--resume", **place)
        assert done.returncode == 0, (point, done.stderr[-3000:])
        assert ("replacing an earlier run was interrupted" in done.stdout) == half_cleared
        left = what_it_left(out)
        if left.pop("best/mark", None) is not None:
            assert "resuming after epoch 2" in done.stdout
            assert point <= 3
        assert left == expected, point
    assert num_cleared >= 2
    shutil.rmtree(earlier)


def test_a_kill_in_the_last_epoch_only_leaves_the_end_to_do(whole, place):
    path, expected, *_ = whole
    ended = forked(path, **place, before=kill_after_states(4))
    assert ended.returncode == -9
    done = forked(path, "--resume", **place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after epoch 2, step 4" in done.stdout
    assert what_it_left(place["output"]) == expected

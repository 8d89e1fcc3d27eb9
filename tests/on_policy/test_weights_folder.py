"""The folder that the student is sent through: named as in the recipe, and not left behind."""

import stat

from distillens_plugin.on_policy.weights_folder import WeightsFolder


def mode(folder):
    return stat.S_IMODE(folder.stat().st_mode)


def test_links_are_not_followed_and_another_user_may_read(tmp_path):
    (tmp_path / "mounted").mkdir()
    (tmp_path / "shared").symlink_to(tmp_path / "mounted")
    weights = WeightsFolder(str(tmp_path / "shared"))
    assert weights.student.parent.parent == tmp_path / "shared"
    assert mode(weights.student.parent) == 0o755


def test_in_the_systems_own_folder_nobody_else_may(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    weights = WeightsFolder(None)
    assert weights.student.parent.parent == tmp_path
    assert mode(weights.student.parent) == 0o700


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    for name in ("distillens-student-killed", "distillens-ci"):
        (tmp_path / name / "student").mkdir(parents=True)
        (tmp_path / name / "student" / "model.safetensors").touch()
    at_work = WeightsFolder(str(tmp_path))
    at_work.student.mkdir()
    weights = WeightsFolder(str(tmp_path))
    assert not (tmp_path / "distillens-student-killed").exists()
    assert (tmp_path / "distillens-ci" / "student" / "model.safetensors").exists()
    assert at_work.student.is_dir()
    del weights
    del at_work
    assert [path.name for path in tmp_path.iterdir()] == ["distillens-ci"]

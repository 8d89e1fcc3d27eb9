"""`push_to_hub` with huggingface_hub itself, against a server that speaks the Hub's API."""

import json
import subprocess
import sys

import pytest
from fake_hub import TOKEN, fake_hub
from run_process import ENVIRONMENT
from tiny_run import REPO, tiny_recipe

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.storage.hub_upload import check_upload, push_best
from eval_harness.errors import DistillensError, RunFailure


@pytest.fixture
def hub(monkeypatch):
    with fake_hub() as server:
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", "/nowhere/token")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("hub")
    tiny_recipe(made)
    return made


@pytest.fixture
def recipe(folder):
    def load(name, **keys):
        changes = [f"{key}={value}" for key, value in {"push_to_hub": name, **keys}.items()]
        return load_recipe(folder / "recipe.yaml", changes)

    return load


@pytest.fixture
def best(tmp_path):
    """A run's folder with a model in it."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "README.md").write_text("---\nlibrary_name: transformers\n---\n")
    (tmp_path / "best" / "model.safetensors").write_bytes(b"weights" * 100)
    return tmp_path


@pytest.mark.parametrize("name", ["ann/small", "lab/small", "small"])
def test_a_name_and_a_token_that_may_write_are_fine(hub, recipe, name):
    assert check_upload(recipe(name))[0].startswith("ok push_to_hub: ann may write")
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("name", "role", "token", "message"),
    [
        ("a/b/c", "write", TOKEN, "no name for a model on the Hub"),
        ("ann/-x-", "write", TOKEN, "no name for a model on the Hub"),
        ("ann/small", "write", None, "there is no token for the Hub; run `hf auth login`"),
        ("ann/small", "write", "hf_wrong", "the Hub refuses the token"),
        ("ann/small", "read", TOKEN, "the token of ann may only read"),
        ("bob/small", "write", TOKEN, "found the owner bob.*expected one of ann, lab"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_before(
    hub, recipe, monkeypatch, name, role, token, message
):
    hub.role = role
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(DistillensError, match=message) as error:
        check_upload(recipe(name))
    assert "recipe.yaml" in str(error.value) or "push_to_hub" in str(error.value)


def test_the_switched_off_hub_is_refused_and_a_silent_one_is_not(hub, recipe, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in check_upload(recipe("ann/small"))[0]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DistillensError, match="HF_HUB_OFFLINE"):
        check_upload(recipe("ann/small"))


def test_the_best_model_is_uploaded_once(hub, recipe, best):
    wanted = recipe("lab/small", hub_private="true")
    assert push_best(wanted, best) == f"on the Hub: {hub.url}/lab/small"
    on_disk = {path.name: path.read_bytes() for path in (best / "best").iterdir()}
    assert hub.repos == {"lab/small": on_disk}
    assert hub.visibility == {"lab/small": "private"}
    calls = len(hub.calls)
    assert push_best(wanted, best) == f"on the Hub already: {hub.url}/lab/small"
    assert len(hub.calls) == calls
    push_best(recipe("small"), best)
    assert hub.repos["ann/small"] == on_disk
    assert hub.visibility["ann/small"] is None


@pytest.mark.parametrize("part", ["/repos/create", "/preupload/", "/objects/batch", "/commit/"])
def test_a_failed_upload_names_the_command_and_may_be_repeated(hub, recipe, best, part):
    hub.broken = part
    with pytest.raises(RunFailure, match=r"hf upload lab/small \S*/best \. --private") as error:
        push_best(recipe("lab/small", hub_private="true"), best)
    assert "\n" not in str(error.value)
    assert not (best / "pushed.json").exists()
    hub.broken = None
    push_best(recipe("lab/small"), best)
    assert json.loads((best / "pushed.json").read_text())["url"] == f"{hub.url}/lab/small"


def test_nothing_is_uploaded_without_the_key(recipe, best):
    assert check_upload(recipe("null")) == []
    assert push_best(recipe("null"), best) is None


def test_a_key_without_an_upload_is_refused(folder):
    with pytest.raises(DistillensError, match="hub_private: nothing is uploaded"):
        load_recipe(folder / "recipe.yaml", ["hub_private=true"])


def test_a_run_whose_upload_fails_is_complete_and_resume_uploads_it(folder):
    def run(hub, *arguments):
        command = [sys.executable, "-m", "distillens_plugin.run", str(folder / "recipe.yaml")]
        return subprocess.run(
            [*command, "--set=push_to_hub=lab/small", *arguments],
            env={**ENVIRONMENT, **hub.environment()},
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=300,
        )

    with fake_hub() as hub:
        hub.broken = "/commit/"
        failed = run(hub)
        assert failed.returncode == 1, failed.stderr[-2000:]
        last = failed.stderr.strip().split("\n")[-1]
        assert last.startswith("distillens run: push_to_hub: the upload failed")
        assert (folder / "out" / "summary.json").is_file()
        hub.broken = None
        resumed = run(hub, "--resume")
        assert resumed.returncode == 0, resumed.stderr[-2000:]
        assert f"on the Hub: {hub.url}/lab/small" in resumed.stdout
        best = folder / "out" / "best"
        assert hub.repos["lab/small"] == {p.name: p.read_bytes() for p in best.iterdir()}

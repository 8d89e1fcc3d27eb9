"""--hf_hub_log_args with huggingface_hub itself, against a server that speaks the Hub's API."""

import json

import pytest
import yaml
from fake_hub import TOKEN, fake_hub
from result_samples import make_results, make_samples, make_task

from eval_harness.cli import main
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.publishing.hub import HubTarget
from eval_harness.results.folder import load_results, write_results

BOTH = {"push_results_to_hub": True, "push_samples_to_hub": True}
TIME = "2023-11-14T22-13-20.250000"
RESULTS, SAMPLES = f"org__model/results_{TIME}.json", f"org__model/samples_dolly_{TIME}.jsonl"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub() as server:
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", "/nowhere/token")
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def written(tmp_path):
    """The results file of a run of one task."""
    samples = make_samples([["a", "b"], ["b", "c"]], references=[["a"], ["c"]])
    return write_results(make_results("org/model", make_task("dolly", samples)), tmp_path / "out")


def target(**given):
    found = HubTarget.of(given, log_samples=True)
    assert found is not None
    return found


def card_of(content: dict[str, bytes]) -> tuple[dict, str]:
    _, metadata, text = content["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_files_go_where_lm_eval_puts_them_with_a_card_that_lists_them(hub, written):
    line = target(**BOTH, hub_results_org="lab", point_of_contact="ann@lab").push(written)
    assert line == f"on the Hub: {hub.url}/datasets/lab/lm-eval-results-private"
    (content,) = hub.repos.values()
    assert sorted(content) == ["README.md", RESULTS, SAMPLES]
    assert content[RESULTS] == written.read_bytes()
    assert hub.visibility == {"lab/lm-eval-results-private": "private"}
    metadata, text = card_of(content)
    assert "- **Point of contact:** ann@lab" in text
    assert "Leaderboard" not in text
    split = "2023_11_14T22_13_20.250000"
    for config, name, file in zip(
        metadata["configs"], ("dolly", "results"), (SAMPLES, RESULTS), strict=True
    ):
        assert config["config_name"] == f"org__model__{name}"
        assert config["data_files"] == [
            {"split": split, "path": [file]},
            {"split": "latest", "path": [file]},
        ]


def test_what_is_uploaded_is_read_as_results(hub, written, tmp_path):
    target(**BOTH).push(written)
    for path, content in hub.repos["ann/lm-eval-results-private"].items():
        (tmp_path / "down" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / path).write_bytes(content)
    loaded = load_results(tmp_path / "down").tasks["dolly"]
    assert loaded.metrics == load_results(written).tasks["dolly"].metrics
    assert len(loaded.samples) == 2


@pytest.mark.parametrize(
    ("given", "repositories"),
    [
        ({"push_results_to_hub": True}, {"ann/lm-eval-results-private": [RESULTS]}),
        ({"push_samples_to_hub": True}, {"ann/lm-eval-results-private": [SAMPLES]}),
        ({**BOTH, "hub_repo_name": "x"}, {"ann/x-private": [RESULTS, SAMPLES]}),
        ({**BOTH, "details_repo_name": "d"}, {"ann/d-private": [RESULTS, SAMPLES]}),
        (
            {**BOTH, "details_repo_name": "d", "results_repo_name": "r", "public_repo": True},
            {"ann/r": [RESULTS], "ann/d": [SAMPLES]},
        ),
    ],
)
def test_repositories_have_the_names_that_lm_eval_gives_them(hub, written, given, repositories):
    target(**given).push(written)
    found = {name: sorted({*files} - {"README.md"}) for name, files in hub.repos.items()}
    assert found == repositories
    assert all((kind == "private") == (name[-8:] == "-private") for name, kind in
               hub.visibility.items())  # fmt: skip


def test_the_samples_repository_is_gated_before_files_are_in_it(hub, written):
    target(push_samples_to_hub=True, public_repo=True, gated=True, details_repo_name="d").push(
        written
    )
    assert hub.settings == {"ann/d": {"gated": "auto"}}
    calls = [call.split()[1].rsplit("/", 1)[-1] for call in hub.calls]
    assert calls.index("settings") < next(
        place for place, call in enumerate(hub.calls) if "/commit/" in call
    )


def test_a_later_run_is_added_and_is_the_latest(hub, written, tmp_path):
    wanted = target(**BOTH)
    wanted.push(written)
    results = load_results(written)
    results.date += 60
    later = write_results(results, tmp_path / "out")
    wanted.push(later)
    (content,) = hub.repos.values()
    assert len(content) == 5
    metadata, _ = card_of(content)
    files = metadata["configs"][1]["data_files"]
    assert [entry["path"] for entry in files] == [
        [RESULTS],
        [f"org__model/{later.name}"],
        [f"org__model/{later.name}"],
    ]


def test_a_card_of_the_users_keeps_its_text(hub, written):
    hub.repos["ann/lm-eval-results-private"] = {
        "README.md": b"---\nlicense: mit\n---\n\n# Mine\n\nMy words.\n"
    }
    target(**BOTH).push(written)
    metadata, text = card_of(hub.repos["ann/lm-eval-results-private"])
    assert metadata["license"] == "mit"
    assert len(metadata["configs"]) == 2
    assert text.strip() == "# Mine\n\nMy words."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hub_results_org": "lab"}, "nothing would be uploaded; add push_results_to_hub=True"),
        ({**BOTH, "push_result": True}, "push_result: not known; did you mean 'push_results_to_"),
        ({**BOTH, "output_path": "x"}, "output_path: give --output_path instead"),
        ({**BOTH, "public_repo": "yes"}, "public_repo is str, expected True or False"),
        ({**BOTH, "hub_results_org": 7}, "hub_results_org is int, expected a text"),
        ({**BOTH, "hub_results_org": "bob"}, "found the owner bob.*one of ann, lab"),
        ({**BOTH, "hub_repo_name": "-x"}, "'-x-private' is no name for a data set on the Hub"),
        ({**BOTH, "token": "hf_wrong"}, "the Hub refuses the token"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_before(hub, given, message):
    with pytest.raises(DistillensError, match=f"^--hf_hub_log_args.*{message}") as error:
        HubTarget.of(given, log_samples=True)
    assert "hf_wrong" not in str(error.value)
    assert hub.repos == {}


def test_samples_that_are_not_written_cannot_be_uploaded(hub):
    with pytest.raises(DistillensError, match="there are no samples with --no-log_samples"):
        HubTarget.of(BOTH, log_samples=False)
    assert HubTarget.of(dict.fromkeys(BOTH, False), log_samples=False) is None


@pytest.mark.parametrize("part", ["/repos/create", "/tree/", "/preupload/", "/commit/"])
def test_a_failed_upload_keeps_the_results_and_names_the_command(hub, written, part):
    hub.broken = part
    with pytest.raises(RunFailure, match="hf upload lm-eval-results-private ") as error:
        target(**BOTH).push(written)
    assert "\n" not in str(error.value)
    assert f"--repo-type dataset --include '*_{TIME}.json*'" in str(error.value)
    assert str(written) in str(error.value)
    hub.broken = None
    target(**BOTH).push(written)
    assert RESULTS in hub.repos["ann/lm-eval-results-private"]


def test_the_command_uploads_and_its_results_know_nothing_of_it(
    hub, small_gpt2, small_benchmark, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("HF_TOKEN")
    command = ["run", "--model", "hf", "--model_args", f"pretrained={small_gpt2}"]
    command += ["--tasks", "small", "--include_path", str(small_benchmark), "--limit", "2"]
    command += ["--protocol", "greedy", "--gen_kwargs", "max_gen_toks=4", "--device", "cpu"]
    command += ["--output_path", str(tmp_path / "out")]
    pushed = ["push_results_to_hub=True", "hub_results_org=lab", "hub_repo_name=0010"]
    assert main([*command, "--hf_hub_log_args", *pushed]) == 2
    assert "there is no token for the Hub" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    flags = tmp_path / "flags.yaml"
    flags.write_text(json.dumps({"hf_hub_log_args": {"token": TOKEN, "hub_repo_name": "0010"}}))
    given = ["--config", str(flags), "--hf_hub_log_args", *pushed, f"token={TOKEN}"]
    assert main([*command, *given]) == 0
    assert "on the Hub: " in capsys.readouterr().err
    (content,) = hub.repos.values()
    assert list(hub.repos) == ["lab/0010-private"]
    (name,) = [name for name in content if "results_" in name]
    assert TOKEN.encode() not in content[name]
    assert b"hub_" not in content[name]
    with_flag, *_ = json.loads(content[name])["fingerprints"].values()
    assert main(command) == 0
    without = load_results(tmp_path / "out").tasks["small"].fingerprint.digest()
    assert with_flag["digest"] == without

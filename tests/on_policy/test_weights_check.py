"""Weights that go stale at the server: noticed at each sync, by a server with a real model."""

import pytest
import torch
from fake_server import FORGET, RELOAD, SAMPLE, SCORE, FakeServer, reset, running
from tiny_run import tiny_recipe
from transformers import AutoModelForCausalLM

from distillens_plugin import run
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.on_policy.weights_check import WeightsCheck
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import RunFailure


class ModelServer(FakeServer):
    """Loads what it is sent, and answers with it.

    Attributes:
        deaf_after: reloads after which it keeps its weights; None never.
        dtype: of its weights; bfloat16 rounds as a GPU server does.
    """

    def __init__(self, *, deaf_after=None, dtype=torch.float32):
        super().__init__()
        self.deaf_after, self.dtype = deaf_after, dtype
        self.num_reloads = 0
        self.model = self.first = None
        self.reload, self.score, self.sample = self.take, self.judge, self.say

    def take(self, folder):
        self.num_reloads += 1
        if self.deaf_after is None or self.num_reloads <= self.deaf_after:
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype).eval()
            self.first = self.first or self.model

    def judge(self, ids):
        with torch.no_grad():
            scores = self.model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        return scores.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    def say(self, body):
        return [5, body["stop_token_ids"][0]]


@pytest.fixture
def serving(request):
    with running(ModelServer(**getattr(request, "param", {}))) as server:
        yield server


def settings(server, **more):
    shown = ", ".join(f"{key}: {value}" for key, value in more.items())
    inner = f"base_url: '{server.url}', timeout_s: 30{', ' if shown else ''}{shown}"
    return f"train.on_policy={{share: 1.0, max_new_tokens: 4, server: {{{inner}}}}}"


def train(server, folder, **more):
    changes = [settings(server, **more), "datasets.validation=null", "train.num_epochs=1"]
    line = [str(tiny_recipe(folder)), "--output_dir", str(folder / "run")]
    for change in changes:
        line += ["--set", change]
    return run.main(line)


def sampler_of(server, folder, **more):
    recipe = load_recipe(
        tiny_recipe(folder), ["datasets.validation=null", settings(server, **more)]
    )
    experiment = build_experiment(recipe, make_accelerator(recipe, None), load_data(recipe))
    loader = experiment.box.train_data_loader
    return experiment, loader._sampler, list(loader._prompts.values())[:2]


def step(experiment, seed):
    """As far as a real step moves the weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in experiment.student.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))


@pytest.mark.parametrize("serving", [{}, {"dtype": torch.bfloat16}], indirect=True, ids=str)
def test_a_server_that_takes_weights_is_trained_with(serving, tmp_path):
    assert train(serving, tmp_path) == 0
    assert serving.num_reloads == 2 + 3  # the trial's two, and one a step


@pytest.mark.parametrize("serving", [{"deaf_after": 4}], indirect=True, ids=str)
def test_a_server_that_stops_taking_weights_ends_the_run(serving, tmp_path, capsys):
    assert train(serving, tmp_path) == 1
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert f"{serving.url}: still has weights that it was sent before" in error
    assert serving.num_reloads == 5


@pytest.mark.parametrize("deaf_after", [0, 1, 2])
def test_a_server_that_never_takes_them_is_refused_at_the_first_step(tmp_path, deaf_after):
    server = ModelServer(deaf_after=deaf_after)
    with running(server):
        _, sampler, _ = sampler_of(server, tmp_path)
        server.model = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher")
        # The trial's first reload is the student, its second a noisy one, the third is the step's.
        with pytest.raises(RunFailure, match="log-probabilities are off by"):
            sampler.start_step(0)


def test_a_server_that_is_started_anew_between_two_syncs_is_noticed_at_the_second(
    serving, tmp_path
):
    experiment, sampler, prompts = sampler_of(serving, tmp_path, sync_every=2)
    for number in range(2):
        sampler.start_step(number)
        sampler.sample(prompts, ["a", "b"], epoch=0, max_length=200)
        step(experiment, number)
    sampler.start_step(2)
    serving.model = serving.first
    sampler.start_step(3)  # sends nothing, asks nothing
    with pytest.raises(RunFailure, match="still has weights that it was sent before"):
        sampler.start_step(4)


def test_after_a_broken_connection_the_weights_are_looked_at_before_answers_are_taken(
    serving, tmp_path
):
    experiment, sampler, prompts = sampler_of(serving, tmp_path, sync_every=8)
    sampler.start_step(0)
    serving.faults[SAMPLE] = [reset]
    assert len(sampler.sample(prompts, ["a", "b"], epoch=0, max_length=200)) == 2
    assert [call for call, _ in serving.calls][-1] == SCORE
    step(experiment, 1)
    sampler.start_step(8)
    serving.faults[SAMPLE] = [reset]
    serving.model = serving.first
    with pytest.raises(RunFailure, match="still has weights that it was sent before"):
        sampler.sample(prompts, ["a", "b"], epoch=0, max_length=200)


def test_weights_are_sent_before_what_was_remembered_of_prompts_is_forgotten(serving, tmp_path):
    _, sampler, _ = sampler_of(serving, tmp_path)
    sampler.start_step(0)
    calls = [call for call, _ in serving.calls]
    assert calls == [RELOAD, FORGET, SCORE] * 3


def test_they_are_sent_by_the_path_that_the_recipe_names(serving, tmp_path):
    (tmp_path / "mounted").mkdir()
    (tmp_path / "shared").symlink_to(tmp_path / "mounted")
    _, sampler, _ = sampler_of(serving, tmp_path, weights_dir=f"'{tmp_path}/shared'")
    sampler.start_step(0)
    paths = {body["kwargs"]["weights_path"] for call, body in serving.calls if call == RELOAD}
    assert len(paths) == 1
    assert paths.pop().startswith(f"{tmp_path}/shared/distillens-student-")


def test_a_server_that_rounds_is_not_taken_for_one_with_old_weights():
    """Its error stays; the weights move by less, by as much, and by more than it."""
    generator = torch.Generator().manual_seed(0)

    def noise(scale):
        return scale * torch.randn(40, generator=generator)

    for moved in (0.0, 1e-4, 1e-2, 1e-1):
        check = WeightsCheck("url", apart=3.0)
        now, rounding = noise(1.0) - 4, noise(0.03)
        for _ in range(50):
            check.check((now + rounding + noise(0.003)).tolist(), now)
            check.remember(now)
            now = now + noise(moved)


def test_old_weights_are_told_from_new_ones_as_soon_as_they_differ_by_more_than_rounding():
    generator = torch.Generator().manual_seed(0)
    check = WeightsCheck("url", apart=3.0)
    old = torch.randn(40, generator=generator)
    check.remember(old)
    with pytest.raises(RunFailure, match="still has weights"):
        check.check(old.tolist(), old + 0.01 * torch.randn(40, generator=generator))
    with pytest.raises(RunFailure, match="does not take the student's weights"):
        check.check((old + 2.0).tolist(), old)
    check.check((old + 1e-6).tolist(), old)
    with pytest.raises(RunFailure, match="off by nan"):
        check.check([float("nan")] * 40, old)

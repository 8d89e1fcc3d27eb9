"""The Fisher matrices of a teacher against float64 autograd, their file, and the loss's metric."""

import pytest
import torch
from boxes import build_box
from hidden_box import LAYERS, box_recipe, rows_of
from small_models import small_model
from tiny_run import ASSETS, tiny_recipe

from distillens_plugin.cli import main
from distillens_plugin.data.supervision import Supervised, find_supervised
from distillens_plugin.losses.fisher_metric import fisher_metrics, read_fisher, save_fisher
from distillens_plugin.losses.hidden import HiddenMSE
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.prepare.teacher_fisher import fisher_matrices
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

WIDTH, NUM_LAYERS = 16, 3
HIDDEN = "train.criterion.kwargs.sub_terms.hidden"


def batch_of(seed, lengths, num_prompt):
    """Rows of different lengths, padded; the first tokens of each are a prompt."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (len(lengths), max(lengths)), generator=generator)
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :num_prompt] = -100
    for row, length in enumerate(lengths):
        mask[row, length:], labels[row, length:] = 0, -100
    return {"input_ids": ids, "attention_mask": mask}, Supervised(*find_supervised(labels)), labels


def naive(model, batches, layer):
    """Row by row: the gradient of the row's loss towards a stream that replaces the block's."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    total, count = torch.zeros(WIDTH, WIDTH, dtype=torch.float64), 0
    for batch, _, labels in batches:
        for row in range(len(labels)):
            held = []

            def hold(module, args, output, held=held):
                held.append(output.detach().requires_grad_())
                return held[0]

            handle = blocks[layer - 1].register_forward_hook(hold)
            logits = model(
                input_ids=batch["input_ids"][row : row + 1],
                attention_mask=batch["attention_mask"][row : row + 1],
            ).logits[0]
            handle.remove()
            targets = labels[row, 1:]
            chosen = (targets != -100).nonzero().squeeze(1)
            log_probs = logits.log_softmax(-1)
            (gradient,) = torch.autograd.grad(-log_probs[chosen, targets[chosen]].sum(), held[0])
            for position in chosen:
                one = gradient[0, position]
                total += torch.outer(one, one)
                count += 1
    return total / count


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_matrices_are_those_of_float64_autograd(family):
    model = small_model(family, layers=NUM_LAYERS, width=WIDTH, vocab=60).double().eval()
    batches = [batch_of(0, (9, 6), 3), batch_of(1, (7,), 1)]
    found, count = fisher_matrices(model, [(b, s) for b, s, _ in batches], [1, 2])
    assert count == sum(s.positions.numel() for _, s, _ in batches)
    for layer in (1, 2):
        torch.testing.assert_close(found[layer], naive(model, batches, layer), rtol=1e-9, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_drawn_labels_are_the_models_own_and_repeat_with_the_seed():
    model = small_model("gpt2", layers=2, width=WIDTH, vocab=60)
    batch, supervised, _ = batch_of(0, (9, 9), 2)

    def measured(seed):
        generator = torch.Generator().manual_seed(seed)
        return fisher_matrices(model, [(batch, supervised)], [1], sampled=generator)[0][1]

    assert torch.equal(measured(0), measured(0))
    assert not torch.equal(measured(0), measured(1))
    with torch.no_grad():  # a model that is sure of one token, whatever the data say
        model.lm_head.weight.zero_()
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1)
        model.lm_head.weight[7] = 5
    assert measured(0).abs().max() < 1e-9
    assert fisher_matrices(model, [(batch, supervised)], [1])[0][1].isfinite().all()


def test_rows_without_supervision_are_refused():
    model = small_model("gpt2", layers=2, width=WIDTH, vocab=60)
    batch, _, labels = batch_of(0, (5,), 5)
    with pytest.raises(DistillensError, match="no position of these rows is supervised"):
        fisher_matrices(model, [(batch, Supervised(*find_supervised(labels)))], [1])


def spread(seed, width):
    rows = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double()
    return rows @ rows.T


def test_an_error_in_the_fisher_metric_is_the_float64_formula(tmp_path):
    matrix = spread(0, 48)
    file = tmp_path / "fisher.safetensors"
    save_fisher(file, {2: matrix}, num_layers=4, notes={})
    layers = {"student": [1], "teacher": [2]}
    box = build_box(box_recipe(tmp_path, metric="fisher", metric_file=str(file), layers=layers))
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    loss = box.forward_process(batch, targets)
    layer = box.criterion.term_dict["hidden"][0].projections[0]
    x, y = rows_of(box, batch, targets)[0]
    error = x @ layer.weight.double().T + layer.bias.double() - y
    metric = matrix + matrix.diagonal().mean() / 100 * torch.eye(48).double()
    expected = ((error @ metric) * error).sum(1).mean() / metric.trace()
    assert loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-4)


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    file = tmp_path / "fisher.safetensors"
    save_fisher(file, {1: spread(0, 8), 2: spread(1, 8)}, num_layers=3, notes={})
    sizes = {"num_layers": 3, "width": 8, "where": "x"}
    for metric in fisher_metrics(file, [1, 2], **sizes):
        assert metric.trace().item() == pytest.approx(1)
        torch.testing.assert_close(metric, metric.T)
    with pytest.raises(DistillensError, match=r"for 3 layers of width 8, .* has 3 of width 9"):
        fisher_metrics(file, [1], **{**sizes, "width": 9})
    with pytest.raises(DistillensError, match="no Fisher matrix for the teacher's layer 0"):
        fisher_metrics(file, [0], **sizes)
    with pytest.raises(DistillensError, match="no Fisher matrix for the teacher's last layer 3"):
        fisher_metrics(file, [3], **sizes)
    with pytest.raises(DistillensError, match=r"layer a\.b is a module path"):
        fisher_metrics(file, ["a.b"], **sizes)
    with pytest.raises(DistillensError, match="there is no such file"):
        read_fisher(tmp_path / "none", "x")
    for given in ({"metric": "fisher"}, {"metric_file": "f"}):
        with pytest.raises(DistillensError, match="metric_file = "):
            HiddenMSE(LAYERS, **given)


def test_the_command_writes_what_a_recipe_reads(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path)
    file = tmp_path / "new" / "fisher.safetensors"
    command = ["teacher-fisher", str(tmp_path / "teacher"), "--data", str(ASSETS / "train.jsonl")]
    command += ["--num_rows", "8", "--max_length", "256", "--max_prompt_length", "200"]
    assert main([*command, "--layers", "1,2", "--output", str(file), "--device", "cpu"]) == 0
    assert "effective directions" in capsys.readouterr().out
    assert read_fisher(file, "x").layers == (1, 2)
    kwargs = f"{{layers: {{student: [1], teacher: [2]}}, metric: fisher, metric_file: {file}}}"
    changes = [f"{HIDDEN}={{criterion: {{key: distillens.hidden_mse, kwargs: {kwargs}}}}}"]
    lines = validate_without_weights(load_recipe(recipe, changes))
    assert f"ok Fisher matrices: {file}, 2 layers" in lines
    with pytest.raises(DistillensError, match="no Fisher matrix for the teacher's layer 3"):
        validate_without_weights(load_recipe(recipe, [changes[0].replace("[2]", "[3]")]))
    with pytest.raises(DistillensError, match="no Fisher matrix for the teacher's last layer 4"):
        validate_without_weights(load_recipe(recipe, [changes[0].replace("[2]", "[4]")]))
    with pytest.raises(DistillensError, match="metric_file: missing with metric: fisher"):
        load_recipe(recipe, [changes[0].replace(f", metric_file: {file}", "")])
    assert main([*command, "--layers", "9", "--output", str(file), "--device", "cpu"]) == 2
    assert "--layers 9: the teacher has layers 0 to 4" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path), "--device", "cpu"]) == 2
    assert f"--output {tmp_path}: is a folder; name a file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--output", str(file), "--seed", "9" * 23])
    assert f"--seed: found {'9' * 23}, expected an integer" in capsys.readouterr().err
    assert read_fisher(file, "x").layers == (1, 2)

"""DistillLensArguments: the lens on a command line, in a JSON file and from Python."""

import inspect
import json

import pytest
from transformers import HfArgumentParser, TrainingArguments

from distillens_plugin.attached.attached_lens import AttachedLens
from distillens_plugin.integrations.transformers import DistillLensArguments
from eval_harness.errors import DistillensError


def parsed(*words):
    return HfArgumentParser(DistillLensArguments).parse_args_into_dataclasses([*words])[0]


def test_a_command_line_says_it_all():
    words = (
        "--layers 2,4:3,6 --lens_weight 3 --norm final --divergence skew_fkl --temperature 2 "
        "--scale_by_temperature_squared --pair_weights 1,2 --detach_unembedding --chunk_rows 64 "
        "--positions 0.25 --min_teacher_entropy 0.5 --weigh_by teacher_entropy "
        "--kd alpha_beta --kd_beta 0.5 --kd_weight 0.1 --cross_entropy 0.5 --no_headless"
    )
    more = ["--divergence_options", '{"alpha": 0.2}', "--kd_options", '{"alpha": 0.3}']
    options = parsed(*words.split(), *more).attached_lens_options()
    assert options == {
        "layers": {"student": [2, 4], "teacher": [3, 6]},
        "lens_weight": 3.0,
        "norm": "final",
        "divergence": "skew_fkl",
        "alpha": 0.2,
        "beta": None,
        "temperature": 2.0,
        "scale_by_temperature_squared": True,
        "pair_weights": [1.0, 2.0],
        "detach_unembedding": True,
        "teacher_translators": None,
        "readout": "own",
        "projection": None,
        "positions": 0.25,
        "min_teacher_entropy": 0.5,
        "weigh_by": "teacher_entropy",
        "chunk_rows": 64,
        "kd": {"divergence": "alpha_beta", "beta": 0.5, "temperature": 1.0, "alpha": 0.3},
        "kd_weight": 0.1,
        "cross_entropy": 0.5,
        "router_loss": 0.0,
    }
    assert not parsed("--no_headless").headless


def test_left_alone_it_is_the_attached_lens_with_five_pairs():
    options = DistillLensArguments().attached_lens_options()
    assert options.pop("layers") == {"auto": 5}
    parameters = inspect.signature(AttachedLens.__init__).parameters
    assert options == {name: parameters[name].default for name in options}
    # The teacher, `terms` and `headless` are the trainer's own arguments.
    rest = {"self", "student", "teacher", "layers", "terms", "headless", "divergence_options"}
    # The Trainer trains no maps, and `--seed` is its own.
    rest |= {"projection_of", "seed"}
    assert set(parameters) == set(options) | rest


def test_it_is_parsed_beside_training_arguments_and_its_help_is_printed(capsys):
    parser = HfArgumentParser((DistillLensArguments, TrainingArguments))
    lens, args = parser.parse_args_into_dataclasses(["--output_dir", "o", "--layers", "auto:2"])
    assert (lens.layers, args.output_dir) == ("auto:2", "o")
    with pytest.raises(SystemExit):
        parsed("--help")
    assert "2,4:3,6" in capsys.readouterr().out


def test_a_json_file_and_python_may_give_mappings_and_lists(tmp_path):
    file = tmp_path / "lens.json"
    fields = {"layers": {"student": [1], "teacher": ["model.layers.2"]}, "pair_weights": [2]}
    fields |= {"divergence": "skew_fkl", "divergence_options": {"alpha": 0.2}}
    file.write_text(json.dumps(fields), encoding="utf-8")
    (read,) = HfArgumentParser(DistillLensArguments).parse_json_file(str(file))
    assert read == DistillLensArguments(**fields)
    options = read.attached_lens_options()
    assert options["layers"] == fields["layers"]
    assert (options["pair_weights"], options["alpha"]) == ([2.0], 0.2)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("auto:3", {"auto": 3}),
        ("none", None),
        ("0:0", {"student": [0], "teacher": [0]}),
        (
            "transformer.h.1, 2:transformer.h.3,4",
            {"student": ["transformer.h.1", 2], "teacher": ["transformer.h.3", 4]},
        ),
    ],
)
def test_layers_as_text(text, layers):
    assert DistillLensArguments(layers=text).attached_lens_options()["layers"] == layers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": "2,4"}, "layers = '2,4', expected auto:5"),
        ({"layers": "auto"}, "layers = 'auto', expected auto:5"),
        ({"layers": "auto:x"}, "layers = 'auto:x', expected auto:5"),
        ({"layers": "1,:2,3"}, "layers = '1,:2,3', expected auto:5"),
        ({"layers": "1:2:3"}, "layers = '1:2:3', expected auto:5"),
        ({"pair_weights": "1,x"}, "pair_weights = '1,x', expected numbers such as 1,1,2"),
        ({"lens_weight": -1.0}, "lens_weight = -1.0, expected a weight of at least 0"),
        ({"kd_weight": True}, "kd_weight = True, expected a weight of at least 0"),
        ({"cross_entropy": float("nan")}, "cross_entropy = nan, expected a weight of at least 0"),
        ({"kd_beta": 0.5}, "kd_beta = 0.5, but kd is not given"),
        ({"kd": "none", "kd_options": {"alpha": 1}}, "kd_options = {'alpha': 1}, but kd is not"),
        ({"divergence_options": "alpha=1"}, "divergence_options = 'alpha=1', expected a mapping"),
        ({"divergence_options": "[1]"}, "divergence_options = '[1]', expected a mapping"),
        ({"divergence_options": {"beta": 1}}, "divergence_options: beta has a field of its own"),
        ({"kd": "fkl", "kd_options": {"beta": 1}}, "kd_options: beta has a field of its own"),
        ({"router_loss": 0.1, "trainer_loss": 1.0}, "router_loss = 0.1 with trainer_loss"),
    ],
)
def test_what_cannot_be_meant_is_one_line(fields, message):
    with pytest.raises(DistillensError) as caught:
        DistillLensArguments(**fields)
    assert str(caught.value).startswith(f"DistillLensArguments.{message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--temperature 0", "AttachedLens: temperature: "),
        ("--norm last", "AttachedLens: norm: "),
        ("--divergence jds", "AttachedLens: divergence: "),
        ("--kd fkl --kd_temperature -1", "AttachedLens: kd: temperature: "),
        ("--chunk_rows 0", "AttachedLens: chunk_rows = 0, expected a whole number"),
        ("--layers none --kd fkl --temperature 2", "AttachedLens: temperature = 2.0 is for the "),
        ("--lens_weight inf", "DistillLensArguments.lens_weight = inf, expected a weight"),
    ],
)
def test_values_are_checked_before_a_model_is_loaded(words, message):
    with pytest.raises(DistillensError) as caught:
        parsed(*words.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)

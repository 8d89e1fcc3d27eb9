"""What the schema takes, what it refuses, and how it says so."""

import pytest
from recipe_text import DISTILLATION, FINE_TUNING, LENS, write_recipe

from distillens_plugin.divergences import DIVERGENCES, divergence_names, make_divergence
from distillens_plugin.recipe.keys_document import DOCUMENT, recipe_keys
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

KD = "train.criterion.kwargs.sub_terms.kd.criterion.kwargs"


def refusal(folder, *overrides: str, text: str = DISTILLATION) -> str:
    with pytest.raises(DistillensError) as caught:
        load_recipe(write_recipe(folder, text), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mistake_in_the_file_names_line_key_found_and_expected(tmp_path):
    text = refusal(tmp_path, text=DISTILLATION.replace("beta: 0.5", "beta: 1.5"))
    path = tmp_path / "recipe.yaml"
    assert text == f"{path}:18: {LENS}.beta: found 1.5, expected a number from 0 to 1"


def test_of_several_mistakes_the_first_is_told_and_the_rest_counted(tmp_path):
    assert refusal(tmp_path, "seed=-1", "log_every=0").endswith("(and 1 more mistake)")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sede=1", "unknown key; did you mean 'seed'?"),
        ("train.optimiser={}", "unknown key; did you mean 'optimizer'?"),
        (f"{LENS}.bta=0.1", "unknown key; did you mean 'beta'?"),
        ("train.criterion.kwargs.sub_terms.kd.wieght=1", "did you mean 'weight'?"),
        ("models.teacher_model.lora={r: 8}", "unknown key"),
        ("seed=-1", "found -1, expected a whole number from 0 to 4294967295"),
        ("seed=1.5", "found 1.5, expected a whole number"),
        ("seed=true", "found true, expected a whole number"),
        ("train.optimizer.kwargs.lr=0", "expected a number above 0"),
        ("train.optimizer.kwargs.lr='1e-4'", "expected a number; remove the quotes"),
        ("train.optimizer.kwargs.lr=.nan", "found nan, expected a number above 0"),
        ("train.optimizer.kwargs.lr=.inf", "found inf, expected a number above 0"),
        ("train.optimizer.kwargs.betas=[0.9]", "expected two numbers"),
        ("train.optimizer.kwargs.betas=[0.9, 1]", "expected a number in [0, 1)"),
        ("train.optimizer.kwargs.weight_decy=0.1", "did you mean 'weight_decay'?"),
        ("train.optimizer.key=AdmW", "did you mean 'AdamW'"),
        ("train.optimizer.kwargs=null", "missing; expected lr, weight_decay and so on"),
        ("train.optimizer.kwargs.lr=null", "missing; expected peak learning rate"),
        ("train.scheduler.key=cosin", "did you mean 'cosine'?"),
        ("train.scheduler.key=steplr", "did you mean 'StepLR'?"),
        ("train.scheduler={key: cosine, kwargs: {warmup_ratio: 2}}", "a number from 0 to 1"),
        (
            "train.scheduler={key: linear, kwargs: {warmup_ratio: 0.1, warmup_steps: 3}}",
            "found warmup_steps and warmup_ratio, expected one",
        ),
        (
            "train.scheduler={key: constant, kwargs: {min_lr: 1e-6}}",
            "does not lower the learning rate",
        ),
        ("train.on_policy={step: 0.2}", "train.on_policy.step: found with schedule: fixed"),
        ("train.on_policy={schedule: fixed, tolerance: 0.1}", "on_policy.tolerance: found with"),
        ("train.num_epochs=null", "found neither of num_epochs and num_steps"),
        ("train.train_data_loader.kwargs.batch_size=null", "missing; expected rows per batch"),
        ("train.val_data_loader.kwargs.num_workers=2", "unknown key"),
        ("train.train_data_loader=null", "missing; expected the training loader"),
        ("train.best_by=loss", "found 'loss', expected one of validation_loss, rougeL"),
        ("train.best_by=rougeL", "rougeL without datasets.validation"),
        ("mixed_precision=bf61", "found 'bf61', expected one of no, bf16, fp16; did you mean"),
        ("mixed_precision=false", "found false, expected one of no, bf16, fp16"),
        ("trackers=[tensorbord]", "did you mean 'tensorboard'?"),
        ("trackers=[wandb, wandb]", "expected each tracker once"),
        ("teacher_cache={path: x, max_gb: 0}", "expected a number above 0"),
        ("teacher_cache={path: x, dtype: int4}", "expected one of bfloat16, int8"),
        ("models.student_model.gradient_checkpointing=yes", "true or false; write true"),
        ("models.student_model.dtype=fp32", "expected one of float32, bfloat16, float16"),
        ("models.student_model.init.from_teacher_layers=[0]", "both of name_or_path and init"),
        ("models.student_model.name_or_path=null", "neither of name_or_path and init"),
        ("models.student_model={init: {}}", "found neither, expected one of from_teacher_layers"),
        ("models.student_model={init: {from_teacher_layers: [2, 1]}}", "in ascending order"),
        ("models.student_model={init: {from_teacher_layers: [-1]}}", "block numbers from 0"),
        ("models.student_model={init: {config: {n_layer: 2}}}", "a transformers model type"),
        ("models.student_model.lora={r: 0}", "a whole number of at least 1"),
        ("models.student_model.lora={dropout: 1}", "expected a number in [0, 1)"),
        ("models.model={name_or_path: x}", "found model with teacher_model or student_model"),
        ("models.student_model=null", "models.student_model: missing; add the student of"),
        ("models.teacher_model=null", "sub_terms.kd: distillens.logits_kd compares with a teacher"),
        ("models={}", "found no model"),
        ("datasets.train.add_bos_token=yes", "expected auto, true or false"),
        ("datasets.train.long_prompts=truncate", "expected one of drop, cut"),
        ("datasets.train.max_prompt_length=512", "expected less than max_length (512)"),
        ("datasets.train.num_rows=0", "a whole number of at least 1"),
        (f"{LENS}.layers.student=[1]", "found 1 student layers but 2 teacher layers"),
        (f"{LENS}.layers.student=[1, true]", "expected a layer number or a module path"),
        (f"{LENS}.layers.student=[1, -1]", "a layer number of at least 0"),
        (f"{LENS}.layers.auto=2", "found auto and lists"),
        (f"{LENS}.layers.teacher=null", "expected teacher: [...] with the other list"),
        (f"{LENS}.layers={{student: [], teacher: []}}", "expected at least one layer pair"),
        (f"{LENS}.layers={{auto: 0}}", "a whole number of at least 1"),
        (f"{LENS}.layers.by=divergence", "found divergence without auto"),
        (f"{LENS}.layers={{auto: 2, by: distance}}", "expected one of depth, divergence"),
        (f"{LENS}.layers={{auto: 2, rows: 9}}", "is read with by: divergence only"),
        (f"{LENS}.layers={{auto: 2, by: depth, rows: 9}}", "is read with by: divergence only"),
        (
            f"{LENS}.layers={{auto: 2, by: divergence, measured: {{student: [1], teacher: [2]}}}}",
            "found 1 pairs with auto: 2; delete the key to measure again",
        ),
        (
            f"{LENS}.layers={{auto: 2, by: divergence, "
            "measured: {student: [1, 2], teacher: [3, 2]}}",
            "found [3, 2], expected ascending layer numbers",
        ),
        (f"{LENS}.layers=null", "missing; expected the layer pairs"),
        (f"{LENS}.norm=layer", "expected one of identity, final"),
        (f"{LENS}.beta=-0.1", "found -0.1, expected a number from 0 to 1"),
        (f"{LENS}.beta=.nan", "expected a number from 0 to 1"),
        (f"{LENS}.temperature=0", "expected a number above 0"),
        (f"{LENS}.divergence=jds", "did you mean 'jsd'?"),
        (f"{LENS}.pair_weights=[1]", "found 1 weights for 2 layer pairs"),
        (f"{LENS}.pair_weights=[0, 0]", "found only zeros"),
        (f"{LENS}.pair_weights=[1, -1]", "expected a number of at least 0"),
        (
            f"{LENS}.alpha=0.1",
            "jsd does not read this key (it is for skew_fkl, skew_rkl, ",
        ),
        (f"{KD}.beta=0.5", "rkl does not read this key (it is for jsd, alpha_beta, fkl_jsd)"),
        (f"{KD}={{divergence: skew_fkl, alpha: 1}}", "expected a number in [0, 1)"),
        (f"{KD}={{divergence: alpha_beta, alpha: 0}}", "a number other than 0"),
        (
            f"{KD}={{divergence: jeffreys, coefficients: [1]}}",
            "expected 2 numbers, each of at least 0",
        ),
        (f"{KD}={{divergence: akl, head_mass: 1}}", "expected a number in (0, 1)"),
        (f"{KD}.layers={{auto: 2}}", "unknown key"),
        ("train.criterion.key=WeightedSumLos", "did you mean 'WeightedSumLoss'?"),
        ("train.criterion.kwargs.sub_terms={}", "found no terms"),
        ("train.criterion.kwargs.model_term={weight: 1}", "distillens.no_model_loss reads none"),
        (
            "train.criterion.func2extract_model_loss=extract_model_loss_dict",
            "found extract_model_loss_dict, which finds no loss",
        ),
        ("train.teacher={forward_proc: forward_all}", "found forward_all, with which"),
        ("train.criterion.kwargs.model_term={wieght: 1}", "did you mean 'weight'?"),
        (
            "train.criterion.kwargs.sub_terms.a/b={criterion: {key: KDLoss}}",
            "found the term name 'a/b'",
        ),
        ("train.criterion.kwargs.sub_terms.kd.weight=-1", "expected a number of at least 0"),
        (
            "train.criterion.kwargs.sub_terms.kd.criterion.key=DistilLensLoss",
            "did you mean 'DistillLensLoss'",
        ),
        (
            "train.criterion.kwargs.sub_terms.kd.criterion.key=distillens.mse",
            "not a known loss term; did you mean 'distillens.gram' or 'distillens.hidden_mse'",
        ),
        ("train.model={requires_grad: true}", "the recipe has no such model"),
        ("train.student={sequential: []}", "unknown key"),
        ("train.train_data_loader.kwargs=3", "expected a mapping of keys to values"),
        ("train=3", "train: found 3, expected a mapping of keys to values"),
    ],
)
def test_bad_values_are_refused_with_what_to_do(tmp_path, override, expected):
    text = refusal(tmp_path, override)
    assert expected in text
    assert override.split("=")[0].rsplit(".", 1)[0].split(".")[0] in text


@pytest.mark.parametrize("missing", ["models", "datasets", "train"])
def test_a_missing_section_is_named(tmp_path, missing):
    assert f": {missing}: missing; expected" in refusal(tmp_path, f"{missing}=null")


@pytest.mark.parametrize("key", ["DistillLensLoss", "distillens.logits_kd"])
def test_a_term_that_needs_a_teacher_is_refused_without_one(tmp_path, key):
    kwargs = "{layers: {auto: 2}}" if key == "DistillLensLoss" else "{}"
    override = f"train.criterion.kwargs.sub_terms.x={{criterion: {{key: {key}, kwargs: {kwargs}}}}}"
    text = refusal(tmp_path, override, text=FINE_TUNING)
    assert f"sub_terms.x: {key} compares with a teacher" in text
    assert "add models.teacher_model (beside" in text
    assert "use distillens.cross_entropy" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("teacher_cache={path: x}", "there is no teacher whose states could be kept"),
        ("models.model={init: {from_teacher_layers: [0]}}", "no teacher to cut the student from"),
        ("models.model={init: {config: {model_type: gpt2}}}", "models.model.tokenizer: missing"),
    ],
)
def test_what_needs_a_teacher_is_refused_in_fine_tuning(tmp_path, override, expected):
    assert expected in refusal(tmp_path, override, text=FINE_TUNING)


def test_keys_of_foreign_losses_and_optimizers_pass_through(tmp_path):
    recipe = load_recipe(
        write_recipe(tmp_path),
        [
            "train.criterion.kwargs.sub_terms.kd.criterion={key: KDLoss, kwargs: {alpha: 3}}",
            "train.optimizer={key: SGD, kwargs: {lr: 0.1, momentum: 0.9}}",
            "train.scheduler={key: StepLR, kwargs: {step_size: 3}}",
        ],
    )
    assert recipe.train.criterion.kwargs.sub_terms["kd"].criterion.kwargs == {"alpha": 3}
    assert recipe.train.optimizer.kwargs == {"lr": 0.1, "momentum": 0.9}
    assert recipe.train.scheduler.kwargs == {"step_size": 3}
    assert not recipe.train.scheduler.own_key


def test_the_learning_rate_of_a_foreign_optimizer_is_checked_too(tmp_path):
    override = "train.optimizer={key: SGD, kwargs: {lr: -0.1}}"
    assert "train.optimizer.kwargs.lr: found -0.1" in refusal(tmp_path, override)


def test_layers_may_be_numbers_paths_or_auto(tmp_path):
    path = write_recipe(tmp_path)
    recipe = load_recipe(path, [f"{LENS}.layers.student=[0, transformer.h.3]"])
    assert dict(recipe.lens_terms())["lens"].layers.student == [0, "transformer.h.3"]
    recipe = load_recipe(path, [f"{LENS}.layers={{auto: 3}}", f"{LENS}.pair_weights=[1, 2, 3]"])
    assert dict(recipe.lens_terms())["lens"].layers.num_pairs == 3


@pytest.mark.parametrize("beta", [0, 1, 0.0, 1.0])
def test_the_ends_of_beta_are_allowed(tmp_path, beta):
    recipe = load_recipe(write_recipe(tmp_path), [f"{LENS}.beta={beta}"])
    assert dict(recipe.lens_terms())["lens"].beta == beta


def test_validation_takes_over_how_rows_become_tokens(tmp_path):
    recipe = load_recipe(
        write_recipe(tmp_path),
        [
            "datasets.train={path: a, template: qwen, max_length: 100, max_prompt_length: 50}",
            "datasets.validation={path: b, max_prompt_length: 60}",
        ],
    )
    validation = recipe.datasets.validation
    assert validation is not None
    assert (validation.template, validation.max_length) == ("qwen", 100)
    assert (validation.path, validation.max_prompt_length) == ("b", 60)
    assert validation.num_rows is None
    # null counts as not given here, too.
    nulls = ["datasets.validation.template=null", "datasets.validation.max_length=null"]
    train = "datasets.train={path: a, template: qwen, max_length: 100, max_prompt_length: 50}"
    given = [train, "datasets.validation={path: b}", *nulls]
    validation = load_recipe(write_recipe(tmp_path), given).datasets.validation
    assert (validation.template, validation.max_length) == ("qwen", 100)


def test_the_tokenizer_is_the_students_own_or_the_teachers(tmp_path):
    path = write_recipe(tmp_path)
    assert load_recipe(path).models.tokenizer_name == "some/student"
    cut = ["models.student_model={init: {from_teacher_layers: [0, 2]}}"]
    assert load_recipe(path, cut).models.tokenizer_name == "some/teacher"
    given = ["models.student_model.tokenizer=some/tokenizer"]
    assert load_recipe(path, given).models.tokenizer_name == "some/tokenizer"


def test_every_divergence_of_the_loss_is_known_and_no_other():
    known = divergence_names(aliases=True)
    assert set(known) == {*DIVERGENCES, "fkl+rkl"}
    for name in known:
        make_divergence(name)


@pytest.mark.parametrize(
    "options",
    [
        "{divergence: jsd, beta: 0.3}",
        "{divergence: skew_rkl, alpha: 0.2}",
        "{divergence: alpha_beta, alpha: 0.2, beta: 1.7}",
        "{divergence: fkl+rkl, coefficients: [1, 0.5]}",
        "{divergence: akl, head_mass: 0.4}",
        "{divergence: tvd, temperature: 2, scale_by_temperature_squared: true, chunk_rows: 8}",
    ],
)
def test_what_the_schema_takes_the_loss_takes(tmp_path, options):
    from distillens_plugin.losses.final_logits import LogitsKD

    recipe = load_recipe(write_recipe(tmp_path), [f"{KD}={options}"])
    kwargs = recipe.train.criterion.kwargs.sub_terms["kd"].criterion.kwargs
    assert LogitsKD(**kwargs).divergence.name


def test_the_table_of_keys_is_current(repo):
    written = (repo / DOCUMENT).read_text(encoding="utf-8")
    assert written == recipe_keys(), "run python -m distillens_plugin.recipe.keys_document"


def test_every_key_has_a_description():
    rows = [line for line in recipe_keys().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.split(" | ")[-1].strip(" |") == ""] == []


@pytest.mark.parametrize(
    ("override", "part"),
    [
        (f"seed={2**32}", "expected a whole number from 0 to 4294967295"),
        ("threads=100000", "expected a whole number from 1 to 1024"),
        ("train.train_data_loader.kwargs.num_workers=1000000", "from 0 to 1024"),
    ],
)
def test_numbers_that_would_end_in_a_crash_or_a_full_machine_are_refused(tmp_path, override, part):
    assert part in refusal(tmp_path, override)

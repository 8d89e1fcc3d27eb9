"""Reading recipes: YAML with positions, nothing runs, --set, paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipe_text import DISTILLATION, FINE_TUNING, LENS, write_recipe

from distillens_plugin.recipe.loading import load_recipe, parse_override
from distillens_plugin.recipe.yaml_reader import ImportedName, Mark, parse_yaml, read_yaml_file
from eval_harness.errors import DistillensError

SAMPLER = "train.train_data_loader.sampler"


def refusal(path: str, *overrides: str, trust: bool = False) -> str:
    with pytest.raises(DistillensError) as caught:
        load_recipe(path, overrides, trust)
    text = str(caught.value)
    assert "\n" not in text
    return text


def value_of(text: str, trust: bool = False):
    return parse_yaml(text, "x.yaml", trust=trust)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5e-3", 0.5e-3),
        ("-2.5E+3", -2500.0),
        ("1.", 1.0),
        ("+.inf", float("inf")),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
    ],
)
def test_numbers_and_booleans_follow_yaml_1_2(text, expected):
    value = value_of(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "text", ["no", "on", "off", "yes", "1_000", "12:30", "2024-01-02", "1e", "e5"]
)
def test_what_only_yaml_1_1_takes_for_something_else_stays_text(text):
    assert value_of(text) == text


def test_each_key_and_value_has_its_place():
    _, places = parse_yaml("a:\n  b: [10,\n      20]\n", "x.yaml")
    assert places[("a", "b")].key == Mark(2, 3)
    assert places[("a", "b")].value == Mark(2, 6)
    assert places[("a", "b", 1)].value == Mark(3, 7)


def test_merge_keys_keep_the_place_where_the_value_was_written():
    text = "base: &base {x: 1, y: 2}\nuse:\n  <<: *base\n  y: 3\n"
    data, places = parse_yaml(text, "x.yaml")
    assert data["use"] == {"x": 1, "y": 3}
    assert places[("use", "x")].key.line == 1
    assert places[("use", "y")].key.line == 4


def test_a_duplicate_key_names_both_lines(tmp_path):
    path = write_recipe(tmp_path, "train:\n  num_epochs: 1\n  seed: 2\n  num_epochs: 3\n")
    assert refusal(path) == (
        f"{path}:4:3: key 'num_epochs' appears twice, on lines 2 and 4; keep one of them"
    )


@pytest.mark.parametrize(
    ("text", "where"), [("a: [1,\n", ":2:1:"), ("a: 1\n b: 2\n", ":2:3:"), ("a: 'x\n", ":2:1:")]
)
def test_a_syntax_error_names_line_and_column(tmp_path, text, where):
    path = write_recipe(tmp_path, text)
    assert refusal(path).startswith(f"{path}{where} not YAML: ")


def test_files_that_are_no_recipe_are_refused_in_one_line(tmp_path):
    missing = str(tmp_path / "none.yaml")
    assert "No such file" in refusal(missing)
    assert "empty" in refusal(write_recipe(tmp_path, "# only a comment\n"))
    assert "found a list, expected a mapping" in refusal(write_recipe(tmp_path, "- 1\n"))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: caf\u00e9\n".encode("latin-1"))
    assert f"{latin}:2:7: found byte 0xe9, expected UTF-8" in refusal(str(latin))
    assert "control character" in refusal(write_recipe(tmp_path, "a: \x07\n"))


def test_an_alias_bomb_and_a_recursive_alias_are_refused(tmp_path):
    bomb = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    for one, two in ("ab", "bc", "cd", "de", "ef", "fg"):
        bomb += f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]\n"
    assert "aliases expand the recipe to more than" in refusal(write_recipe(tmp_path, bomb))
    assert "inside its own anchor" in refusal(write_recipe(tmp_path, "a: &a [*a]\n"))
    assert "51 levels are deeper" in refusal(
        write_recipe(tmp_path, "a: " + "[" * 5000 + "]" * 5000)
    )


@pytest.mark.parametrize(
    "tag",
    [
        "!import_call {key: os.system, init: {args: ['touch MARKER']}}",
        "!import_call_method {package: pathlib.Path.touch, init: {args: [MARKER]}}",
        "!!python/object/apply:os.system ['touch MARKER']",
        "!getattr [x, y]",
        "!import_get {key: os.system}",
        "!import_get {key: torch.utils.data.Sampler.x.Sampler}",
        "!!python/name:os.system",
    ],
)
def test_a_tag_that_could_run_code_is_refused_and_nothing_runs(tmp_path, tag):
    marker = tmp_path / "marker"
    path = write_recipe(tmp_path, f"seed: {tag}\n".replace("MARKER", str(marker)))
    text = refusal(path)
    assert text.startswith(f"{path}:1:7: ")
    assert "--trust-recipe" in text
    assert not marker.exists()


def test_a_refused_tag_in_a_set_runs_nothing_either(tmp_path):
    marker = tmp_path / "marker"
    tag = f"!import_call {{key: os.system, init: {{args: ['touch {marker}']}}}}"
    text = refusal(write_recipe(tmp_path), f"seed={tag}")
    assert text.startswith("--set seed=!import_call")
    assert "--trust-recipe" in text
    assert not marker.exists()


def test_trust_lets_torchdistills_tags_work(tmp_path):
    marker = tmp_path / "marker"
    tag = f"!import_call {{key: pathlib.Path, init: {{args: ['{marker}']}}}}"
    before = dict(yaml.FullLoader.yaml_constructors)
    assert value_of(f"x: {tag}", trust=True) == {"x": marker}
    # Other readers of YAML in this process get none of the tags.
    assert before == yaml.FullLoader.yaml_constructors
    # Trusted recipes follow the same rules for numbers.
    assert value_of("x: 1e-4", trust=True) == {"x": 1e-4}
    with pytest.raises(DistillensError, match="twice"):
        value_of("x: 1\nx: 2", trust=True)


def test_join_pathjoin_and_a_samplers_name_work_without_trust():
    assert value_of("!join [a, 1, b]") == "a1b"
    assert value_of("!pathjoin [a, b.yaml]") == os.path.join("a", "b.yaml")
    name = value_of("!import_get {key: torch.utils.data.RandomSampler}")
    assert name == ImportedName("torch.utils.data.RandomSampler")
    same = value_of("!import_get {key: RandomSampler, package: torch.utils.data}")
    assert same == name


@pytest.mark.parametrize(
    "module", ["os", "distillens_pluginx", "torchdistillery", "torchdistill.a b"]
)
def test_a_foreign_module_under_dependencies_needs_trust(tmp_path, module):
    path = write_recipe(tmp_path, f"dependencies: [{{name: {module}}}]\n{DISTILLATION}")
    text = refusal(path)
    assert f"found the module {module!r}" in text
    assert "--trust-recipe" in text
    if module == "os":
        assert load_recipe(path, trust=True).dependencies[0].name == module
    else:
        with pytest.raises(DistillensError, match=r"dependencies\.0: No module named"):
            load_recipe(path, trust=True)


def test_torchdistills_modules_and_the_plugin_need_no_trust(tmp_path):
    text = f"dependencies: [torchdistill.losses, {{name: distillens_plugin}}]\n{DISTILLATION}"
    recipe = load_recipe(write_recipe(tmp_path, text))
    assert [dep.name for dep in recipe.dependencies] == ["torchdistill.losses", "distillens_plugin"]


def test_a_repositorys_own_code_needs_trust(tmp_path):
    path = write_recipe(tmp_path)
    override = "models.teacher_model.trust_remote_code=true"
    assert "--trust-recipe" in refusal(path, override)
    recipe = load_recipe(path, [override], trust=True)
    assert recipe.models.model_dump()["teacher_model"]["trust_remote_code"]


def test_set_changes_makes_and_removes_values(tmp_path):
    path = write_recipe(tmp_path)
    recipe = load_recipe(
        path,
        [
            f"{LENS}.layers.student.0=0",
            "train.optimizer.kwargs.lr=5E-5",
            "train.optimizer.kwargs.weight_decay=0",
            "samples.num_rows=1",
            "train.num_epochs=",
            "train.num_steps=7",
            "mixed_precision=no",
        ],
    )
    assert dict(recipe.lens_terms())["lens"].layers.student == [0, 2]
    assert recipe.train.optimizer.kwargs == {"lr": 5e-5, "weight_decay": 0}
    assert recipe.samples.num_rows == 1
    assert (recipe.train.num_epochs, recipe.train.num_steps) == (None, 7)
    assert recipe.mixed_precision == "no"


def test_the_last_set_of_a_key_wins(tmp_path):
    assert load_recipe(write_recipe(tmp_path), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "expected a path, = and a value"),
        ("=3", "expected a path, = and a value"),
        ("train..x=3", "expected a path, = and a value"),
        ("seed=[1", "not YAML"),
        (f"{LENS}.layers.student.2=1", "list with the entries 0 to 1; found 2"),
        (f"{LENS}.layers.student.x=1", "list with the entries 0 to 1; found 'x'"),
        (f"{LENS}.layers.student.0.1=1", "which has no keys below it"),
        ("train.num_epohs=1", "unknown key; did you mean 'num_epochs'"),
        ("train.num_epochs=many", "found 'many', expected a whole number"),
    ],
)
def test_a_bad_set_is_named_in_the_error(tmp_path, override, expected):
    text = refusal(write_recipe(tmp_path), override)
    assert f"--set {override}" in text
    assert expected in text


def test_an_override_below_a_conflict_is_named_beside_the_line(tmp_path):
    path = write_recipe(tmp_path)
    text = refusal(path, "train.num_steps=3")
    assert text.startswith(f"{path}:6 with --set train.num_steps=3: train: found both of")


def test_digits_in_a_set_address_a_mappings_key_too():
    override = parse_override("a.0.b=1")
    assert (override.path, override.value) == (("a", 0, "b"), 1)


def test_paths_start_from_the_recipe_file_and_in_set_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    text = DISTILLATION.replace("some/teacher", "./teacher").replace("some/data", "../data.jsonl")
    path = write_recipe(tmp_path / "recipes", text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(
        os.path.join("recipes", "recipe.yaml"),
        ["models.student_model={name_or_path: ./student, tokenizer: ../tok}", "output_dir=./out"],
    )
    models = recipe.models.model_dump()
    assert models["teacher_model"]["name_or_path"] == str(tmp_path / "recipes" / "teacher")
    assert recipe.datasets.train.path == str(tmp_path / "data.jsonl")
    assert models["student_model"]["name_or_path"] == str(tmp_path / "student")
    assert models["student_model"]["tokenizer"] == str(tmp_path.parent / "tok")
    assert recipe.output_dir == str(tmp_path / "out")
    # Hub names and plain relative paths stay as they are.
    assert load_recipe(path, ["output_dir=runs/x"]).output_dir == "runs/x"


def test_the_output_folder_is_named_after_the_recipe_if_not_given(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, FINE_TUNING, "tune.yaml"))
    assert recipe.output_dir == os.path.join("runs", "tune")


def test_where_names_file_line_and_key(tmp_path):
    path = write_recipe(tmp_path)
    recipe = load_recipe(path, ["seed=3"])
    assert recipe.where("train.optimizer.kwargs.lr") == f"{path}:9: train.optimizer.kwargs.lr"
    assert recipe.where(f"{LENS}.layers.student.1") == f"{path}:18: {LENS}.layers.student.1"
    assert recipe.where("seed") == "--set seed=3: seed"
    assert recipe.where("samples.num_rows") == f"{path}: samples.num_rows"


def test_the_plain_form_holds_what_was_given_and_reads_back(tmp_path):
    from distillens_plugin.recipe.yaml_dumper import to_yaml

    recipe = load_recipe(write_recipe(tmp_path), ["seed=3"])
    again = load_recipe(write_recipe(tmp_path, to_yaml(recipe.to_plain()), "again.yaml"))
    assert again.model_dump(exclude={"output_dir"}) == recipe.model_dump(exclude={"output_dir"})
    assert recipe.to_plain()["seed"] == 3
    assert "mixed_precision" not in recipe.to_plain()


def test_a_trusted_function_is_kept_by_its_name(tmp_path):
    from distillens_plugin.recipe.yaml_dumper import to_yaml

    tag = "!import_get {key: os.path.join}"
    recipe = load_recipe(write_recipe(tmp_path), [f"{SAMPLER}.class_or_func={tag}"], trust=True)
    kept = to_yaml(recipe.to_plain())
    assert "class_or_func: !import_get {key: posixpath.join}" in kept
    again = load_recipe(write_recipe(tmp_path, kept, "again.yaml"), trust=True)
    assert again.train.train_data_loader.sampler.class_or_func is os.path.join


@pytest.mark.parametrize(
    "tag",
    [
        "!import_call {key: pathlib.Path, init: {args: [a]}}",
        "!import_call {key: functools.partial, init: {args: [!import_get {key: os.getcwd}]}}",
        "!import_call {key: operator.itemgetter, init: {args: [0]}}",
    ],
)
def test_what_a_run_could_not_keep_in_its_recipe_is_refused(tmp_path, tag):
    path = write_recipe(tmp_path)
    with pytest.raises(DistillensError, match=r"recipe\.yaml cannot hold") as caught:
        load_recipe(path, [f"{SAMPLER}={{class_or_func: {tag}}}"], trust=True)
    assert "sampler.class_or_func: found " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        "teacher_model={name_or_path: HERE, revision: v1}",
        "teacher_model={name_or_path: HERE, tokenizer: HERE, revision: v1}",
        "student_model={init: {from_teacher_layers: [0], teacher: HERE}, revision: v1}",
    ],
)
def test_a_revision_of_a_folder_is_refused(tmp_path, keys):
    override = f"models.{keys.replace('HERE', str(tmp_path))}"
    with pytest.raises(DistillensError, match=r"_model\.revision: found 'v1', but .* is a folder"):
        load_recipe(write_recipe(tmp_path), [override])
    # On the Hub it has an effect, of the model or of the tokenizer.
    for named in (f"name_or_path: a/b, tokenizer: {tmp_path}", f"name_or_path: {tmp_path}"):
        more = "" if "tokenizer" in named else ", tokenizer: a/b"
        override = f"models.teacher_model={{{named}{more}, revision: v1}}"
        assert load_recipe(write_recipe(tmp_path), [override]).models.teacher_model.revision == "v1"


def test_a_bom_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + DISTILLATION.replace("\n", "\r\n").encode())
    recipe = load_recipe(path)
    assert recipe.where("train.num_epochs") == f"{path}:7: train.num_epochs"


def test_reading_recipes_needs_no_torch(repo):
    """The files themselves import none; the package's own __init__ is another matter."""
    code = (
        "import sys, types\n"
        "package = types.ModuleType('distillens_plugin')\n"
        "package.__path__ = ['distillens_plugin']\n"
        "sys.modules['distillens_plugin'] = package\n"
        "import distillens_plugin.recipe.loading\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_file_is_read_by_its_given_name(tmp_path):
    data, places = read_yaml_file(write_recipe(tmp_path))
    assert isinstance(Path(write_recipe(tmp_path)), Path)
    assert data["train"]["num_epochs"] == 2
    assert places[("train", "num_epochs")].key.line == 7

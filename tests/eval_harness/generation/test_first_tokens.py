"""Evaluation with a tokenizer that begins a text with a token of its own, beside lm-eval's."""

import pytest
import torch
from small_tokenizers import CHATML, SIGNS, with_first_token
from transformers import AutoTokenizer

from eval_harness.backends.base import Request, Sampling
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.benchmarks import find_benchmarks, select_benchmarks
from eval_harness.benchmarks.lm_eval_export import export_tasks
from eval_harness.comparison.systems import load_systems
from eval_harness.errors import DistillensError
from eval_harness.generation.evaluate import run_evaluation
from eval_harness.generation.task import Settings
from eval_harness.protocols.protocol import make_protocol
from eval_harness.shared.model_folder.identity import read_model
from eval_harness.shared.model_folder.trained_with import FILE, training_note

ROWS = 6


@pytest.fixture(scope="module")
def model(small_gpt2, tmp_path_factory):
    """A small GPT-2 whose tokenizer adds a first token and has a chat template."""
    from transformers import AutoModelForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(small_gpt2)
    tokenizer.add_tokens(SIGNS, special_tokens=True)
    tokenizer.chat_template = CHATML
    with_first_token(tokenizer)
    network = AutoModelForCausalLM.from_pretrained(small_gpt2)
    torch.manual_seed(0)
    network.resize_token_embeddings(len(tokenizer))
    folder = tmp_path_factory.mktemp("first") / "model"
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(model, output_path, **options):
    model_args = {"pretrained": str(model), "dtype": "float32", **options.pop("model_args", {})}
    template = options.pop("template", None)
    return run_evaluation(
        Settings(
            model="hf",
            model_args={**model_args, "device": "cpu"},
            benchmarks=select_benchmarks("gsm8k", find_benchmarks()),
            protocol=make_protocol("greedy", template=template, max_new_tokens=24),
            template=template,
            output_path=output_path,
            limit=ROWS,
            **options,
        )
    )


def test_lm_eval_gives_our_answer_and_scores_to_every_row(model, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (it is in the dev extra)")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    benchmarks = select_benchmarks("gsm8k", find_benchmarks())
    export_tasks(benchmarks, make_protocol("greedy", max_new_tokens=24), tmp_path / "tasks")
    found = {}
    for choice in (None, False):
        given = {} if choice is None else {"add_bos_token": choice}
        theirs = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32", **given},
            tasks=["distillens_gsm8k"],
            task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
            limit=ROWS,
            device="cpu",
            batch_size=3,
            bootstrap_iters=0,
        )["samples"]["distillens_gsm8k"]
        ours, _ = run(model, tmp_path / f"ours {choice}", model_args=given)
        samples = ours.tasks["gsm8k"].samples
        assert len(theirs) == len(samples) == ROWS
        for their, our in zip(sorted(theirs, key=lambda row: row["doc_id"]), samples, strict=True):
            assert their["arguments"][0][0] == our.arguments["gen_args_0"]["arg_0"]
            assert their["resps"][0][0].partition("<|endoftext|>")[0] == our.resps[0]
            assert their["rougeL"] == pytest.approx(our.scores["rougeL"][0], abs=1e-9)
        found[choice] = [sample.resps[0] for sample in samples]
    # The first token does change the answers, so the equality above says something.
    assert found[None] != found[False]


def test_the_choice_is_a_setting_that_compared_results_share(model, tmp_path, capsys):
    (model / FILE).write_text(training_note("question", begins_with_token=False))
    try:
        with_it, _ = run(model, tmp_path / "with", predict_only=False)
        told = capsys.readouterr().err
        without, _ = run(model, tmp_path / "without", model_args={"add_bos_token": False})
    finally:
        (model / FILE).unlink()
    lengths = [
        [sample.arguments["prompt_tokens"] for sample in results.tasks["gsm8k"].samples]
        for results in (with_it, without)
    ]
    assert [longer - 1 for longer in lengths[0]] == lengths[1]
    protocols = [
        results.tasks["gsm8k"].fingerprint.protocol["add_bos_token"]
        for results in (with_it, without)
    ]
    assert protocols == ["auto", False]
    assert "trained with prompts without a first token, but is evaluated with prompts that" in told
    assert "trained with the template 'question', but is evaluated with 'alpaca'" in told
    with pytest.raises(DistillensError, match="add_bos_token is auto and false"):
        load_systems([tmp_path / "with", tmp_path / "without"])


def test_an_adapter_s_own_training_is_compared(model, tmp_path, capsys):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    (model / FILE).write_text(training_note("question", begins_with_token=True))
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(
        tmp_path / "adapter"
    )
    (tmp_path / "adapter" / FILE).write_text(training_note("alpaca", begins_with_token=False))
    try:
        run(model, tmp_path / "out", model_args={"peft": str(tmp_path / "adapter")})
    finally:
        (model / FILE).unlink()
    told = capsys.readouterr().err
    assert "trained with prompts without a first token, but is evaluated with prompts that" in told
    assert "trained with the template" not in told


def test_a_wrong_choice_is_refused_before_weights_are_loaded(model, small_gpt2, tmp_path):
    with pytest.raises(DistillensError, match="add_bos_token = 'yes', expected auto, true or fal"):
        run(model, tmp_path / "a", model_args={"add_bos_token": "yes"})
    with pytest.raises(DistillensError, match=r"add_bos_token = true, but .* has no bos_token"):
        run(small_gpt2, tmp_path / "b", model_args={"add_bos_token": True})
    with pytest.raises(DistillensError, match="needs a tokenizer with a chat template"):
        run(small_gpt2, tmp_path / "c", template="chat")


def test_an_answer_in_chat_ends_with_the_turn(model, tmp_path):
    results, _ = run(model, tmp_path, template="chat", loglikelihood=True)
    samples = results.tasks["gsm8k"].samples
    stops = {sample.arguments["gen_args_0"]["arg_1"]["stop_token_ids"] for sample in samples}
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert stops == {(tokenizer.convert_tokens_to_ids("<|im_end|>"),)}


def test_a_backend_stops_at_the_tokens_it_is_told(model):
    backend = TransformersBackend(read_model(str(model)), dtype="float32", device="cpu")
    requests = [Request((5, 9, 11), 0), Request((5, 40), 1)]
    (whole, other) = sorted(
        backend.generate(requests, Sampling(12, 0.0, 1.0, 0, 0)), key=lambda answer: answer.index
    )
    stop = whole.token_ids[3]
    (cut, _) = sorted(
        backend.generate(requests, Sampling(12, 0.0, 1.0, 0, 0, (stop,))),
        key=lambda answer: answer.index,
    )
    assert (cut.token_ids, cut.finish_reason) == (
        whole.token_ids[: whole.token_ids.index(stop)],
        "stop",
    )
    assert other.token_ids

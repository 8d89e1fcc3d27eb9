"""`eval-harness` with a system message, examples and chosen rows, as lm-eval's users type them."""

import json

from eval_harness.results.folder import load_results

EXAMPLES = [{"instruction": "1 + 1?", "output": "2"}, {"instruction": "2 + 1?", "output": "3"}]


def test_the_flags_of_lm_eval_s_users_give_prompts_and_rows(
    harness, chat_model, small_benchmark, tmp_path
):
    with (small_benchmark / "small.yaml").open("a") as file:
        file.write(f"fewshot: {json.dumps(EXAMPLES)}\n")
    config = {
        "model": "hf",
        "model_args": {"pretrained": str(chat_model), "dtype": "float32"},
        "tasks": ["small"],
        "include_path": str(small_benchmark),
        "output_path": "out",
        "gen_kwargs": {"max_gen_toks": 4},
        "seed": 10,
        "device": "cpu",
    }
    (tmp_path / "flags.yaml").write_text(json.dumps(config))
    rows = json.dumps({"small": [40, 2, 7]})
    done = harness(
        *("--config", "flags.yaml", "--samples", rows, "--apply_chat_template"),
        *("--system_instruction", "Be brief.", "--num_fewshot", "2", "--write_out"),
        *("--check_integrity", "--show_config", "--max_prompt_tokens", "400"),
    )
    assert done.returncode == 0, done.stderr
    task = load_results(tmp_path / "out").tasks["small"]
    assert [sample.doc_id for sample in task.samples] == [2, 7, 40]
    prompt = task.samples[0].arguments["gen_args_0"]["arg_0"]
    parts = ["system\nBe brief.", "user\n1 + 1?", "assistant\n2", "user\n2 + 1?", "assistant\n3"]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)
    assert prompt in done.stderr
    assert "small: 48 rows, 0 with an input, 2 for --num_fewshot" in done.stderr
    protocol = task.fingerprint.protocol
    assert protocol["system_instruction"] == "Be brief."
    assert (protocol["num_fewshot"], protocol["fewshot_as_multiturn"]) == (2, True)
    table, _, shown = done.stdout.partition("{")
    assert "rougeL" in table
    assert "small" in json.loads("{" + shown)

    # Another message is another prompt, so nothing is taken from the answers that are there.
    args = ("--config", "flags.yaml", "--samples", rows, "--apply_chat_template")
    other = harness(*args, "--system_instruction", "Be long.")
    assert other.returncode == 0, other.stderr
    assert "are there already" not in other.stderr
    same = harness(*args, "--system_instruction", "Be long.")
    assert "3 answers are there already" in same.stderr
    missing = harness(*("--config", "flags.yaml", "--samples", '{"small": [48]}'))
    assert missing.returncode == 2
    assert "there is no row 48, expected 0 to 47" in missing.stderr

"""The page about runs in a real browser, with answers, names and settings that attack it."""

import json

from browser import require_browser
from hostile_answers import hostile_server
from page_checks import check_page
from run_by_hand import run_by_hand, write_lines

from distillens_plugin.reports.run_report import write_report, write_run_report

_STEPS = 5


def test_hostile_answers_run_nothing_and_do_not_spoil_the_page(tmp_path):
    require_browser()
    with hostile_server() as server:
        texts = list(server.answers().values())
        run = run_by_hand(tmp_path / "run")
        lines = [
            {
                "step": 10 * (number % _STEPS),
                "row": f"{number // _STEPS}{texts[0]}",
                "prompt": texts[number // _STEPS],
                "answer": text,
                "reference": texts[-2 - number // _STEPS],
            }
            for number, text in enumerate(texts)
        ]
        write_lines(run / "answers.jsonl", lines)
        page = write_run_report(run)
        shown = page.read_text(encoding="utf-8")
        assert shown.count('<p class="label">step ') == len(texts)
        check_page(page, server)


def test_hostile_names_and_settings_of_several_runs(tmp_path):
    require_browser()
    with hostile_server() as server:
        texts = server.answers()
        runs = []
        for number, name in enumerate(("image", "single_quotes")):
            # A folder's name holds no slash.
            run = run_by_hand(tmp_path / texts[name].replace("/", "")[:200], seed=number)
            with (run / "recipe.yaml").open("a", encoding="utf-8") as file:
                file.write(f"notes: {json.dumps(texts['script_end'] + str(number))}\n")
            records = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            evil = json.dumps(texts["style_end"].replace("/", ""))
            records = [f"{record[:-1]}, {evil}: 1.0}}" for record in records]
            (run / "metrics.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
            runs.append(run)
        page = write_report(runs, output_dir=tmp_path / "out")
        assert "script" in page.read_text(encoding="utf-8")
        check_page(page, server)

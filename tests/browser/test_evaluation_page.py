"""The evaluation's report in a real browser, with answers that attack it."""

from hostile_answers import hostile_server
from page_checks import check_page
from result_samples import make_results, make_samples, make_task

from eval_harness.comparison.systems import load_systems
from eval_harness.report.page import write_report
from eval_harness.results.folder import write_results


def test_hostile_answers_run_nothing_and_do_not_spoil_the_page(tmp_path):
    with hostile_server() as server:
        hostile = list(server.answers().values())
        folders = []
        for name, answers in {
            "good <script>document.title='owned'</script>": ["right"] * len(hostile),
            '"><img src=x onerror=alert(1)>' + "n" * 300: hostile,
        }.items():
            samples = make_samples(
                [[answer, answer] for answer in answers], references=[["right"]] * len(hostile)
            )
            for sample, text in zip(samples, hostile, strict=True):
                sample.doc["instruction"] = text
                sample.target.append(text)
            task = make_task("task", samples)
            folders.append(write_results(make_results(name, task), tmp_path / "runs").parent)
        page, _ = write_report(load_systems(folders), tmp_path / "out", num_rows=len(hostile))
        shown = page.read_text(encoding="utf-8")
        assert shown.count("<article>") == len(hostile)
        assert "{{ 7 * 7 }}" in shown
        assert "abc \\u202e&lt;script&gt;evil" in shown
        check_page(page, server)

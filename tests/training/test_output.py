from chatformer.evaluation.doctor.run_log import RunLog
from chatformer.evaluation.plots.curves import draw_curves
from chatformer.storage.reading import read_json_lines
from chatformer.training.output import RunFolder


def test_a_line_of_the_log_ends_where_it_was_ended_and_nowhere_else(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "training_settings.yaml").write_text("max_steps: 3\n", "utf-8")
    # All of these are ends of lines to splitlines().
    said = [{"source": "one\u2028line", "reply": "a\x85b\u2029c\x1dd\r\n"}]
    lines = [{"step": step, "loss": 1.0, "learning_rate": 1.0, "samples": said} for step in (1, 2, 3)]
    for line in lines:
        folder.log(line)
    assert read_json_lines(tmp_path / "training_log.jsonl") == RunLog.of(tmp_path).lines == lines
    draw_curves(tmp_path / "training_log.jsonl", tmp_path / "curves.png")
    with (tmp_path / "training_log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 2, "samples": [{"source": "torn\u2028')
    folder._cut_log(2)
    assert read_json_lines(tmp_path / "training_log.jsonl") == lines[:2]

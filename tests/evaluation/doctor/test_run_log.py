import json

import pytest

from chatformer.evaluation.doctor.run_log import RunLog, check_log


@pytest.mark.parametrize(
    ("losses", "evaluations", "rate", "check", "words"),
    [
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.49], 1e-3, None, "at its best (step 3)"),
        ([5.0, 2.0, 3.0], [3.0, 2.5, 2.6], 1e-3, "divergence", "ended at 3.000, after 2.000"),
        ([5.0, 2.0, float("nan")], [3.0, 2.5, 2.6], 1e-3, "divergence", "ended at nan"),
        ([5.0, 2.0, None], [3.0, 2.5, 2.6], 1e-3, "divergence", "ended at nan"),
        ([5.0, *[1.0, 2.0] * 30], [3.0] * 61, 1e-3, None, "at its best"),
        ([5.0, *[1.0] * 30, *[2.0] * 30], [3.0] * 61, 1e-3, "divergence", "ended at 2.000, after 1.000"),
        ([5.0, 0.0, 1e-6], [3.0, 0.0, 0.0], 1e-3, None, "0.000 at its best"),
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.3], 1e-3, "training", "2.300 at the end (step 3)."),
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.3], 0.0, "training", "lowered the rate to almost 0"),
        ([5.0, 2.0, 1.0], [3.0, 2.5, 2.9], 1e-3, None, "2.500 at its best (step 2)"),
    ],
)
def test_what_a_log_tells(tmp_path, ill, losses, evaluations, rate, check, words):
    lines = []
    for step, (loss, eval_loss) in enumerate(zip(losses, evaluations, strict=True), start=1):
        lines.append({"step": step, "loss": loss, "learning_rate": 1e-3 if step < 3 else rate})
        lines.append({"step": step, "eval_loss": eval_loss})
    (tmp_path / "training_settings.yaml").write_text("max_steps: 3\n", "utf-8")
    # A run that was killed leaves half a line.
    log = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo'
    (tmp_path / "training_log.jsonl").write_text(log, "utf-8")
    findings = check_log(RunLog.of(tmp_path))
    assert list(ill(findings)) == ([] if check is None else [check])
    assert words in findings[0].found
    (tmp_path / "training_log.jsonl").unlink()
    assert RunLog.of(tmp_path) is None

"""What the doctor prints."""

import pytest

from chatformer.evaluation.doctor.diagnosis import Diagnosis
from chatformer.evaluation.doctor.findings import Finding
from chatformer.evaluation.doctor.report import show


@pytest.mark.parametrize("width", [*range(60, 100, 3), 80])
def test_no_letter_of_a_text_is_lost_where_a_line_ends(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    answer = "온 가족이 모두 마음에 드는 곳으로 가보세요. " * 6
    finding = Finding(check="answers", severity="good", title="No answer is too frequent", found=answer)
    diagnosis = Diagnosis(subject="data.tsv")
    diagnosis.sections["The data"] = [finding]
    show(diagnosis)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "".join(printed.split()).count("온가족이모두마음에드는곳으로가보세요.") == 6

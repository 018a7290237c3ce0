from chatformer.evaluation.doctor.size import check_size, check_vocabulary_size


def test_a_model_too_large_for_its_data():
    assert check_size(4_000_000, 77_000)[0].severity == "good"
    assert check_size(60_000_000, 77_000)[0].severity == "hint"
    assert check_size(60_000_000, 7_000)[0].severity == "problem"


def test_a_vocabulary_too_large_for_its_data():
    assert check_vocabulary_size(6000, 77_000)[0].severity == "good"
    finding = check_vocabulary_size(8000, 20_000)[0]
    assert finding.severity == "hint" and "--vocab-size 2000" in finding.what_to_do
    # A limit above what there is would change nothing.
    finding = check_vocabulary_size(505, 900)[0]
    assert finding.severity == "hint" and "--vocab-size" not in finding.what_to_do

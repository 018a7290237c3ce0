import numpy as np

from chatformer.evaluation.doctor.lengths import Lengths, check_lengths, draw_lengths, length_bins, lengths_of


def test_lengths_in_characters_and_in_tokens(conversations_of, healthy, ill, tokenizer, tmp_path):
    pairs = [*healthy(99), ("why?", "so " * 100)]
    conversations = conversations_of(pairs)
    lengths = lengths_of(conversations)
    assert lengths.unit == "characters"
    assert lengths.sources.tolist() == [len(question) for question, _ in pairs]
    assert lengths.targets.tolist() == [len(answer) for _, answer in pairs]
    finding = ill(check_lengths(conversations, lengths))["outliers"]
    assert "1 have more than" in finding.found and finding.examples[0].startswith("300 characters, conversation 100")

    lengths = lengths_of(conversations, tokenizer)
    assert lengths.unit == "tokens"
    assert lengths.targets.tolist() == [len(tokenizer(answer)["input_ids"]) for _, answer in pairs]
    limit = int(lengths.targets[-1]) - 1
    finding = ill(check_lengths(conversations, lengths, max_target_tokens=limit))["too long"]
    assert finding.severity == "hint" and f"1 of 100 replies (1%) are longer than --max-target-tokens {limit}" in (
        finding.found
    )
    assert f"--max-target-tokens {limit + 1} would be enough for all of them" in finding.what_to_do
    assert "too long" not in ill(check_lengths(conversations, lengths, max_target_tokens=limit + 1))
    finding = ill(check_lengths(conversations, lengths, max_source_tokens=3))["too long"]
    assert finding.severity == "problem" and "lose their beginning" in finding.found

    picture = tmp_path / "lengths.png"
    assert draw_lengths(lengths, picture, limits=(10, None))
    assert picture.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [picture]


def test_bins_hold_every_length_once():
    lengths = Lengths(unit="tokens", sources=np.array([3, 4, 5, 8, 9]), targets=np.array([2, 2, 3, 16, 17]))
    assert length_bins(lengths) == [(2, 2, 0, 2), (3, 4, 2, 1), (5, 8, 2, 0), (9, 16, 1, 1), (17, 32, 0, 1)]

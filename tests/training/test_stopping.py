from chatformer.training.stopping import divergence


def test_a_loss_that_rises_far_above_its_best_is_recognised():
    assert divergence([2.0, 2.1], best=1.9, vocab_size=8000) is None
    # At first a loss is that of guessing, log(8000) = 8.99.
    assert divergence([9.0], best=float("inf"), vocab_size=8000) is None
    assert divergence([6.0, 7.0], best=1.9, vocab_size=8000) == (
        1,
        "The loss has risen to 6.500, from 1.900 at its best",
    )
    assert divergence([2.0, float("inf"), 2.0], best=1.9, vocab_size=8000) == (1, "The loss is inf")

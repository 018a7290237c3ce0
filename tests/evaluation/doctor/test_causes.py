from chatformer.evaluation.doctor.causes import causes_of


def test_causes_are_named_by_what_the_log_and_the_data_say(model, words, log_of):
    def causes_by(log, share=None):
        return [cause.found for cause in causes_of(model, words[1], log, share)]

    assert causes_by(None) == causes_by(log_of([0.2, 0.5], steps=5000), 0.01) == []
    (young,) = causes_by(log_of([0.0, 0.01], steps=400))
    assert "only 400 steps" in young
    (rate,) = causes_by(log_of([0.0, 0.01], steps=4000))
    assert "was too high" in rate
    (stopped,) = causes_by(log_of([0.4, 0.1], steps=4000))
    assert "had listened before (17% of the loss)" in stopped
    (data,) = causes_by(None, 0.3)
    assert "30% of the training's answers" in data

import pytest
import torch

from chatformer import SIZES, ChatformerConfig, ChatformerForConditionalGeneration, sized_config


def test_the_defaults_are_the_papers_base_model():
    config = ChatformerConfig()
    base = {"d_model": 512, "d_ff": 2048, "num_heads": 8, "encoder_layers": 6, "decoder_layers": 6, "dropout": 0.1}
    assert {name: getattr(config, name) for name in base} == base
    assert config.attention_dropout == config.activation_dropout == 0
    assert config.activation == "relu" and not config.output_bias
    assert sized_config("base").to_dict() == config.to_dict()


@pytest.mark.parametrize(("size", "millions"), [("base", 65), ("big", 213)])
def test_base_and_big_have_the_papers_number_of_parameters(size, millions):
    with torch.device("meta"):
        model = ChatformerForConditionalGeneration(sized_config(size, vocab_size=37000))
    # The paper rounds, and says neither its exact vocabulary nor whether projections have biases.
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(millions * 1e6, abs=2e6)


def test_every_size_makes_a_configuration_that_has_its_numbers():
    for size, fields in SIZES.items():
        config = sized_config(size)
        assert {name: getattr(config, name) for name in fields} == fields


def test_a_size_can_be_changed_and_none_changes_nothing():
    config = sized_config("big", d_model=256, num_heads=None, dropout=0)
    assert (config.d_model, config.d_ff, config.num_heads, config.dropout) == (256, 1024, 16, 0)


@pytest.mark.parametrize(("size", "nearest"), [("bse", "base"), ("Tiny", "tiny"), ("smal", "small")])
def test_an_unknown_size_is_refused_with_the_sizes_and_the_nearest(size, nearest):
    with pytest.raises(ValueError, match=rf"no size '{size}'.*tiny, mini, small, base, big.*Did you mean '{nearest}'"):
        sized_config(size)


@pytest.mark.parametrize("width", ["d_model", "hidden_size"])
def test_d_ff_is_four_times_d_model_unless_given(width):
    assert ChatformerConfig(**{width: 96}).d_ff == 384
    assert ChatformerConfig(**{width: 96}, d_ff=100).d_ff == 100


def test_stride_and_summary_follow_from_the_positions_unless_given():
    def sparse(**fields):
        config = ChatformerConfig(**fields)
        return config.stride, config.summary_size

    assert sparse() == (None, None)
    assert sparse(self_attention="strided") == (32, None)
    assert sparse(self_attention="strided", max_position_embeddings=1025) == (33, None)
    assert sparse(self_attention="fixed") == (32, 8)
    assert sparse(self_attention="fixed", stride=12) == (12, 3)
    assert sparse(self_attention="fixed", stride=2) == (2, 1)


def test_the_ecosystems_names_read_and_set_the_papers():
    config = ChatformerConfig(hidden_size=96, num_attention_heads=6, num_hidden_layers=5, decoder_layers=2)
    assert (config.d_model, config.num_heads, config.encoder_layers, config.decoder_layers) == (96, 6, 5, 2)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (96, 6, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 7}, r"d_model \(512\) must be a multiple of num_heads \(7\)"),
        ({"d_model": 15, "num_heads": 3}, r"d_model \(15\) must be even"),
        ({"d_model": "512"}, r"d_model must be a whole number of at least 1, but it is '512'"),
        ({"d_ff": 0}, r"d_ff must be a whole number of at least 1, but it is 0"),
        ({"vocab_size": -5}, r"vocab_size must be .* at least 1, but it is -5"),
        ({"num_heads": 0}, r"num_heads must be .* at least 1, but it is 0"),
        ({"encoder_layers": 0}, r"encoder_layers must be .* at least 1, but it is 0"),
        ({"decoder_layers": 2.5}, r"decoder_layers must be a whole number of at least 1, but it is 2\.5"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings must be .* at least 1, but it is 0"),
        ({"dropout": 1.0}, r"dropout is a probability: 0 <= dropout < 1, but it is 1\.0"),
        ({"attention_dropout": -0.1}, r"0 <= attention_dropout < 1, but it is -0\.1"),
        ({"activation_dropout": "0.1"}, r"0 <= activation_dropout < 1, but it is '0\.1'"),
        ({"activation": "rellu"}, r"activation must be one of relu, silu, swish, gelu, but it is 'rellu'"),
        ({"self_attention": "sparse"}, r"self_attention must be one of full, strided, fixed, but it is 'sparse'"),
        ({"self_attention": "strided", "stride": 0}, r"stride must be a whole number of at least 1, but it is 0"),
        ({"self_attention": "fixed", "summary_size": 0}, r"summary_size must be .* at least 1, but it is 0"),
        (
            {"self_attention": "fixed", "stride": 4, "summary_size": 5},
            r"summary_size \(5\) must be at most stride \(4\)",
        ),
        ({"is_encoder_decoder": False}, r"is_encoder_decoder must stay True"),
        ({"vocab_size": 100, "pad_token_id": 100}, r"pad_token_id \(100\) must be a row .* 0 to .*\(99\)"),
        ({"vocab_size": 100, "decoder_start_token_id": -1}, r"decoder_start_token_id \(-1\) must be a row .*\(99\)"),
        ({"vocab_size": 100, "eos_token_id": [2, 700]}, r"eos_token_id \(700\) must be a row .*\(99\)"),
    ],
)
def test_a_contradiction_is_refused_with_the_rule_and_what_was_found(fields, message):
    with pytest.raises(ValueError, match=message):
        ChatformerConfig(**fields)


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [("num_head", "num_heads"), ("drop_out", "dropout"), ("encoder_layer", "encoder_layers"), ("dmodel", "d_model")],
)
def test_a_misspelt_field_is_refused_with_the_nearest(misspelt, nearest):
    with pytest.raises(ValueError, match=f"no field '{misspelt}'. Did you mean '{nearest}'"):
        ChatformerConfig(**{misspelt: 4})


def test_what_is_saved_is_what_is_loaded(tmp_path):
    config = ChatformerConfig(
        vocab_size=1234,
        d_model=96,
        d_ff=100,
        num_heads=3,
        encoder_layers=5,
        decoder_layers=2,
        dropout=0,
        eos_token_id=[2, 3],
    )
    config.save_pretrained(tmp_path)
    assert ChatformerConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()

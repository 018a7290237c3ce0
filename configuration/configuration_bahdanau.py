"""The configuration of a recurrent encoder-decoder, with or without the attention of Bahdanau et al. (2014)."""

from .configuration_seq2seq import Seq2SeqConfig

AUTO_MAP = {
    "AutoConfig": "configuration_bahdanau.BahdanauConfig",
    "AutoModel": "modeling_bahdanau.BahdanauModel",
    "AutoModelForSeq2SeqLM": "modeling_bahdanau.BahdanauForConditionalGeneration",
}


class BahdanauConfig(Seq2SeqConfig):
    r"""
    Describe a recurrent encoder-decoder, in the symbols of "Neural Machine Translation by Jointly Learning to Align and
    Translate" (arXiv:1409.0473).

    vocab_size (`int`): Rows of the embedding that source, target and output share.
    d_model (`int`): Width of the decoder's state and of each direction of the encoder, the paper's n.
    d_embedding (`int`, *optional*): Width of the embedding, the paper's m; `d_model` unless given.
    d_attention (`int`, *optional*): Width of the layer inside the attention, the paper's n'; `d_model` unless given.
    attention (`bool`): Whether the decoder looks back at the source for each token; without, it knows the encoder's
        last states alone.
    dropout (`float`): Probability of dropping an element of embeddings, annotations and output vectors.
    embedding_initializer_range (`float`, *optional*): Standard deviation of the embedding's random first weights;
        `d_embedding**-0.5` unless given.
    pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id (`int`): Rows of the control tokens.

    Raises a `ValueError` that states the rule and what was found when values contradict each other.
    """

    model_type = "bahdanau"
    own_code = AUTO_MAP
    attribute_map = {"hidden_size": "d_model"}
    # Not a field: the caches of `generate()` ask for it.
    num_hidden_layers = 1

    d_model: int = 512
    d_embedding: int | None = None
    d_attention: int | None = None
    attention: bool = True
    dropout: float | int = 0.1
    embedding_initializer_range: float | int | None = None

    def set_open_widths(self):
        """Widths that are not given are `d_model`."""
        if self.d_embedding is None:
            self.d_embedding = self.d_model
        if self.d_attention is None:
            self.d_attention = self.d_model

    def validate_architecture(self):
        """Check every rule that the numbers of a recurrent encoder-decoder must keep."""
        self._check_widths("vocab_size", "d_model", "d_embedding", "d_attention")
        self._check_probabilities("dropout")
        if not self.is_encoder_decoder:
            raise ValueError("Bahdanau's model is an encoder-decoder: is_encoder_decoder must stay True.")
        self._check_control_tokens()


__all__ = ["BahdanauConfig"]

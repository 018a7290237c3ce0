import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration

# The models here are small, and threads would only contend.
torch.set_num_threads(1)

VOCAB_SIZE = 101
CONTROL = ["<pad>", "<start>", "<end>", "<unk>"]


def randomized(model):
    """Fill in weights, biases and norms included, whose replies are no endless repetition."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_((0.1 if "shared" in name or parameter.dim() == 1 else 0.5) * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def make_model():
    def make(**fields):
        shape = {"d_model": 48, "d_ff": 70, "num_heads": 3, "encoder_layers": 1, "decoder_layers": 2}
        torch.manual_seed(0)
        config = ChatformerConfig(**{"vocab_size": VOCAB_SIZE, "max_position_embeddings": 4, **shape, **fields})
        return randomized(ChatformerForConditionalGeneration(config))

    return make


@pytest.fixture
def make_marian():
    def make(**fields):
        shape = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 64}
        shape |= {f"{stack}_ffn_dim": 70 for stack in ("encoder", "decoder")}
        shape |= {f"{stack}_attention_heads": 3 for stack in ("encoder", "decoder")}
        tokens = {"vocab_size": VOCAB_SIZE, "pad_token_id": 100, "decoder_start_token_id": 100, "eos_token_id": 0}
        switches = {"activation_function": "swish", "scale_embedding": True}
        torch.manual_seed(0)
        marian = randomized(MarianMTModel(MarianConfig(**{**shape, **tokens, **switches, **fields})))
        marian.final_logits_bias.normal_()
        return marian

    return make


@pytest.fixture
def tokenizer():
    """A tokenizer of characters with fewer tokens than the model has rows, its padding first."""
    letters = [chr(code) for code in range(33, 33 + 90)]
    vocabulary = {token: row for row, token in enumerate([*CONTROL, *letters])}
    whole = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    whole.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>"
    )


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    """Return a function that writes a model and its tokenizer, and returns the folder and the model."""

    def save(**fields):
        model = make_model(**fields)
        folder = tmp_path / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder, model

    return save

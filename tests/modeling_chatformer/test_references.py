import math

import pytest
import torch
from torch import nn
from transformers import MarianConfig, MarianMTModel

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration

VOCAB_SIZE, D_MODEL, D_FF, PAD, START = 101, 48, 80, 0, 1

SUBLAYERS_OF_TORCH = {
    "encoder": {
        "attention": "self_attn",
        "attention_norm": "norm1",
        "feed_forward.inner": "linear1",
        "feed_forward.output": "linear2",
        "feed_forward_norm": "norm2",
    },
    "decoder": {
        "self_attention": "self_attn",
        "self_attention_norm": "norm1",
        "cross_attention": "multihead_attn",
        "cross_attention_norm": "norm2",
        "feed_forward.inner": "linear1",
        "feed_forward.output": "linear2",
        "feed_forward_norm": "norm3",
    },
}
SUBLAYERS_OF_MARIAN = {
    "encoder": {
        "attention": "self_attn",
        "attention_norm": "self_attn_layer_norm",
        "feed_forward.inner": "fc1",
        "feed_forward.output": "fc2",
        "feed_forward_norm": "final_layer_norm",
    },
    "decoder": {
        "self_attention": "self_attn",
        "self_attention_norm": "self_attn_layer_norm",
        "cross_attention": "encoder_attn",
        "cross_attention_norm": "encoder_attn_layer_norm",
        "feed_forward.inner": "fc1",
        "feed_forward.output": "fc2",
        "feed_forward_norm": "final_layer_norm",
    },
}
PROJECTIONS_OF_MARIAN = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


def places(model):
    """Yield each parameter's name in `model`, then stack, layer, sub-layer, projection ("" outside attention), kind."""
    for name, _ in model.named_parameters():
        if name not in ("model.shared.weight", "lm_head.bias"):
            _, stack, _, layer, *sublayer, kind = name.split(".")
            projection = sublayer.pop() if sublayer[0].endswith("attention") else ""
            yield name, stack, layer, ".".join(sublayer), projection, kind


def torchs_under_our_names(model, tensors, embedding):
    """Return the tensors of an `nn.Transformer`, weights or their gradients, as Chatformer names them."""
    ours = {"model.shared.weight": embedding}
    for name, stack, layer, sublayer, projection, kind in places(model):
        prefix = f"{stack}.layers.{layer}.{SUBLAYERS_OF_TORCH[stack][sublayer]}"
        if projection in ("query", "key", "value"):
            third = ("query", "key", "value").index(projection)
            ours[name] = tensors[f"{prefix}.in_proj_{kind}"].chunk(3)[third]
        elif projection == "output":
            ours[name] = tensors[f"{prefix}.out_proj.{kind}"]
        else:
            ours[name] = tensors[f"{prefix}.{kind}"]
    return ours


def marians_under_our_names(model, tensors):
    """
    Return the tensors of a Marian model, weights or their gradients, as Chatformer names them.

    Marian's positions have all sines before all cosines, the paper's alternate; the residual stream is reordered alike.
    """
    order = torch.arange(D_MODEL).view(2, -1).T.flatten()
    ours = {"model.shared.weight": tensors["model.shared.weight"][:, order]}
    if model.config.output_bias:
        ours["lm_head.bias"] = tensors["final_logits_bias"][0]
    for name, stack, layer, sublayer, projection, kind in places(model):
        prefix = f"model.{stack}.layers.{layer}.{SUBLAYERS_OF_MARIAN[stack][sublayer]}"
        tensor = tensors[".".join(filter(None, (prefix, PROJECTIONS_OF_MARIAN.get(projection), kind)))]
        reads_the_stream = projection in ("query", "key", "value") or sublayer == "feed_forward.inner"
        if not reads_the_stream:
            tensor = tensor[order]
        elif kind == "weight":
            tensor = tensor[:, order]
        ours[name] = tensor
    return ours


def randomize(module):
    # Biases of zero and norms that are the identity would hide mistakes.
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def load(model, weights):
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= set(model.all_tied_weights_keys)


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.requires_grad}


def assert_equal_gradients(model, expected):
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("num_heads", "encoder_layers", "decoder_layers", "source_lengths"),
    [(4, 2, 3, [9, 5, 7]), (3, 3, 1, [6, 9, 2]), (1, 1, 1, [1]), (6, 1, 2, [1, 4, 1])],
    ids=["more decoder layers", "three heads", "a batch of one token and one layer", "sources of one token"],
)
def test_the_model_is_torchs_transformer(attention, num_heads, encoder_layers, decoder_layers, source_lengths):
    torch.manual_seed(0)
    torchs = nn.Transformer(
        D_MODEL, num_heads, encoder_layers, decoder_layers, D_FF, dropout=0.0, norm_first=False, batch_first=True
    )
    # It has one norm more behind each stack than the paper.
    torchs.encoder.norm = torchs.decoder.norm = None
    randomize(torchs)
    embedding = nn.Parameter(torch.randn(VOCAB_SIZE, D_MODEL) / math.sqrt(D_MODEL))

    model = ChatformerForConditionalGeneration(
        ChatformerConfig(
            vocab_size=VOCAB_SIZE,
            d_model=D_MODEL,
            d_ff=D_FF,
            num_heads=num_heads,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            dropout=0.0,
            pad_token_id=PAD,
            decoder_start_token_id=START,
            max_position_embeddings=4,
            attn_implementation=attention,
        )
    )
    load(model, torchs_under_our_names(model, dict(torchs.named_parameters()), embedding))

    num_rows, num_source = len(source_lengths), max(source_lengths)
    source = torch.randint(2, VOCAB_SIZE, (num_rows, num_source))
    # The second row is padded on the left, the others on the right.
    first = torch.tensor([num_source - length if row == 1 else 0 for row, length in enumerate(source_lengths)])[:, None]
    last = first + torch.tensor(source_lengths)[:, None]
    mask = (torch.arange(num_source) >= first) & (torch.arange(num_source) < last)
    labels = torch.randint(2, VOCAB_SIZE, (num_rows, 8))
    labels[-1, 5:] = -100

    def embed(ids, first=0):
        # With left padding this has negative positions in the padding, which nothing looks at.
        position = torch.arange(ids.shape[1], dtype=torch.float64).expand(ids.shape)[..., None] - first
        column = torch.arange(D_MODEL, dtype=torch.float64)
        angle = position / 10000 ** (2 * (column // 2) / D_MODEL)
        return embedding[ids] * math.sqrt(D_MODEL) + torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()

    decoder_input = torch.cat([torch.full((num_rows, 1), START), labels[:, :-1].clamp(min=PAD)], 1)
    decoded = torchs(
        embed(source, first[..., None]),
        embed(decoder_input),
        tgt_mask=torch.ones(8, 8, dtype=torch.bool).triu(1),
        src_key_padding_mask=~mask,
        memory_key_padding_mask=~mask,
    )
    expected_logits = decoded @ embedding.T
    expected_loss = nn.functional.cross_entropy(expected_logits.transpose(1, 2), labels, label_smoothing=0.1)
    expected_loss.backward()

    found = model(source, mask.long(), labels=labels, label_smoothing=0.1)
    found.loss.backward()
    torch.testing.assert_close(found.logits, expected_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.loss, expected_loss, rtol=1e-6, atol=0)
    assert_equal_gradients(model, torchs_under_our_names(model, gradients(torchs), embedding.grad))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("encoder_layers", "decoder_layers", "activation", "output_bias"),
    [(3, 2, "relu", False), (1, 4, "relu", False), (2, 1, "swish", True)],
)
def test_the_model_is_marian(attention, encoder_layers, decoder_layers, activation, output_bias):
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB_SIZE, "d_model": D_MODEL, "encoder_layers": encoder_layers, "dropout": 0.0}
    shape |= {"decoder_layers": decoder_layers, "attn_implementation": attention}
    tokens = {"pad_token_id": PAD, "decoder_start_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}
    marian = MarianMTModel(
        MarianConfig(
            **shape,
            **tokens,
            encoder_ffn_dim=D_FF,
            decoder_ffn_dim=D_FF,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            activation_function=activation,
            scale_embedding=True,
            forced_eos_token_id=None,
        )
    )
    for module in marian.modules():
        if isinstance(module, nn.Embedding):
            # Its row for padding learns nothing as an input, though that row is its start token too.
            module.padding_idx = None
    if output_bias:
        # Marian has zeros there, which it does not train.
        bias = marian.final_logits_bias
        del marian.final_logits_bias
        marian.final_logits_bias = nn.Parameter(bias)
    randomize(marian)
    model = ChatformerForConditionalGeneration(
        ChatformerConfig(**shape, **tokens, d_ff=D_FF, num_heads=4, activation=activation, output_bias=output_bias)
    )
    load(model, marians_under_our_names(model, dict(marian.named_parameters())))

    source, labels = torch.randint(3, VOCAB_SIZE, (3, 9)), torch.randint(3, VOCAB_SIZE, (3, 8))
    mask = torch.arange(9) < torch.tensor([[9], [4], [6]])
    labels[1, 3:] = labels[2, 7:] = -100
    expected = marian(source, mask.long(), labels=labels)
    expected.loss.backward()
    found = model(source, mask.long(), labels=labels)
    found.loss.backward()
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)
    assert_equal_gradients(model, marians_under_our_names(model, gradients(marian)))

"""The sets of the Sparse Transformer, and attention in groups, which must equal attention under a mask of the sets."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from chatformer import ChatformerConfig
from chatformer.fast_training import speed_up
from chatformer.sparse_attention import (
    Fixed,
    LastToken,
    StridedFar,
    StridedNear,
    cut_out,
    groups_of,
    open_pairs,
    patterns_of,
    sparse_masks,
)

LENGTHS = (1, 2, 5, 8, 13)
PATTERNS = [
    *(
        kind(stride, is_causal)
        for kind in (StridedNear, StridedFar)
        for stride in (1, 3)
        for is_causal in (True, False)
    ),
    *(Fixed(stride, is_causal, c) for stride, c in ((1, 1), (3, 1), (4, 2), (3, 3)) for is_causal in (True, False)),
]


def set_of(pattern, i, length):
    """Return A_i as Section 4.3 writes it, and as the docstrings do for the encoder."""
    stride = pattern.stride
    match pattern:
        case StridedNear():
            t = max(0, i - stride)
            looks = set(range(t, i + 1)) if pattern.is_causal else set(range(t, i + stride + 1))
        case StridedFar():
            looks = {j for j in range(length) if (i - j) % stride == 0}
        case Fixed(summary_size=c):
            places = range(stride - c, stride) if pattern.is_causal else range(c)
            own = {j for j in range(length) if j // stride == i // stride}
            looks = own | {j for j in range(length) if j % stride in places}
    return {j for j in looks if j < length and (j <= i or not pattern.is_causal)}


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_sets_are_the_papers(pattern):
    for length in LENGTHS:
        position = torch.arange(length)
        found = pattern.may_look(position.unsqueeze(1), position)
        for i in range(length):
            assert set(found[i].nonzero().flatten().tolist()) == set_of(pattern, i, length)


@pytest.mark.parametrize("self_attention", ["strided", "fixed"])
def test_two_layers_lead_from_every_token_to_every_token(self_attention):
    config = ChatformerConfig(self_attention=self_attention, stride=4, summary_size=1)
    for length in range(1, 23):
        for is_causal in (True, False):
            first, second = (open_pairs(config, length, is_causal=is_causal) * 2)[:2]
            reached = (second.float() @ first.float()).bool()
            assert torch.equal(reached, torch.ones_like(reached).tril() if is_causal else torch.ones_like(reached))


def masks_of(length):
    """Yield no mask, and masks of three rows with padding behind, before and among the tokens."""
    place = torch.arange(length)
    last = torch.tensor([[length], [length // 2 + 1], [1]])
    yield None
    yield (place < last).long()
    yield (place >= length - last).long()
    yield (place >= length - last).long().flip(0) | (place % 3 == 1)


@pytest.mark.parametrize("as_numbers", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_groups_give_what_a_mask_of_the_sets_gives(pattern, as_numbers):
    def attend(query, key, value, mask):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2), None

    torch.manual_seed(0)
    for length in LENGTHS:
        query, key, value = (torch.randn(3, 2, length, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
        for mask in masks_of(length):
            (groups,) = groups_of([pattern], query[:, 0], mask, as_numbers=as_numbers)
            found, _ = groups.attend(attend, query, key, value)
            is_token = torch.ones(3, length, dtype=torch.bool) if mask is None else mask.bool()
            position = (is_token.cumsum(1) - 1).clamp(min=0)
            looks = pattern.may_look(position.unsqueeze(2), position.unsqueeze(1)) & is_token.unsqueeze(1)
            expected, _ = attend(query, key, value, looks.unsqueeze(1))
            torch.testing.assert_close(found[is_token], expected[is_token], rtol=0, atol=1e-10)
            weights = torch.randn_like(found[is_token])
            gradients = [
                torch.autograd.grad((each[is_token] * weights).sum(), (query, key, value)) for each in (found, expected)
            ]
            torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)
            # Causal or not, the plain path makes the same of the masks of full attention.
            full = is_token[:, None, None].expand(-1, 1, length, -1)
            full = full.tril() if pattern.is_causal else full
            plain, _ = attend(query, key, value, cut_out(pattern, full))
            torch.testing.assert_close(plain[is_token], expected[is_token], rtol=0, atol=1e-10)


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if pattern.is_causal], ids=str)
def test_the_last_token_reads_its_set_of_the_cache_and_nothing_else(pattern):
    for length in LENGTHS:
        cache = torch.arange(length).view(1, 1, length, 1)
        seen = pattern.seen_by_last(cache).flatten().tolist()
        assert len(seen) == len(set(seen)) and set(seen) == set_of(pattern, length - 1, length)


def test_what_is_computed_grows_with_the_length_times_its_root():
    def pairs(config, length):
        masks = groups_of(patterns_of(config, is_causal=True), torch.empty(1, length, 2), None, as_numbers=False)
        return [each.mask_N1QK.numel() for each in masks]

    for length in (256, 1024, 4096):
        root = round(length**0.5)
        assert pairs(ChatformerConfig(self_attention="strided", stride=root), length) == [
            2 * length * root,
            length * root,
        ]
        # c summaries for each of the blocks, but those of the own block are no more than it has.
        fixed = ChatformerConfig(self_attention="fixed", stride=root, summary_size=2)
        assert pairs(fixed, length) == [length * (2 * root + root - 2)]


def test_few_tokens_take_a_mask_and_one_token_a_part_of_the_cache():
    config = ChatformerConfig(self_attention="strided", stride=4, attn_implementation="sdpa")

    def kinds(length, mask=None):
        return {type(each) for each in sparse_masks(config, torch.zeros(1, length, 8), mask, is_causal=True)}

    assert kinds(1) == {LastToken} and kinds(4) == kinds(1, torch.ones(1, 1)) == {torch.Tensor}
    assert torch.Tensor not in kinds(5)


# transformers 5.23 has a new name for it, which 5.17 does not know.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing")
@pytest.mark.parametrize("self_attention", ["strided", "fixed"])
def test_every_way_to_train_gives_the_same_gradients(make_model, self_attention):
    source, labels = torch.randint(3, 101, (3, 17)), torch.randint(3, 101, (3, 11))
    mask = torch.ones_like(source)
    mask[0, 5:] = mask[1, :8] = 0
    found = []
    for way in ("sdpa", "eager", "on a CPU", "checkpoints", "reentrant checkpoints", "plain"):
        implementation = "sdpa" if way == "sdpa" else "eager"
        model = make_model(implementation, self_attention=self_attention, stride=3, dropout=0.0).train()
        if way == "on a CPU":
            speed_up(model)
        elif "checkpoints" in way:
            model.gradient_checkpointing_enable({"use_reentrant": way.startswith("reentrant")})
        model(source, mask, labels=labels, output_attentions=way == "plain").loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0], rtol=1e-4, atol=1e-6)


def test_only_attentions_that_take_its_masks_are_used(make_model):
    model = make_model("flex_attention", self_attention="strided")
    with pytest.raises(
        ValueError, match=r"self_attention='strided' needs .*'eager' or 'sdpa', but .* 'flex_attention'"
    ):
        model(torch.tensor([[5]]), decoder_input_ids=torch.tensor([[5]]))

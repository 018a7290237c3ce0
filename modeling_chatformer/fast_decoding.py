"""
One token more: the decoder's arithmetic again, as `generate()` repeats it for each token of a reply.

For a single token the modules of `decoder.py`, with their masks and outputs, take longer than the products that they
stand around; here is what is left without them. Where a module does more than that file says, for it trains, has a
hook, an adapter or quantized weights, and where it is not on a CPU, it is not used and the modules run.

Letters behind a tensor's name are its axes: B batch, D d_model, V vocabulary, K keys, C channels of one head, N batch
times heads.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache

from .attention import CrossAttention, MaskedSelfAttention
from .decoder import Decoder, DecoderLayer
from .embedding import ScaledEmbedding, SinusoidalPositions
from .fast_products import HAS_ONEDNN, onednn_product
from .feed_forward import FeedForward

PLAIN_MODULES = {
    *(Decoder, DecoderLayer, MaskedSelfAttention, CrossAttention, FeedForward, ScaledEmbedding, SinusoidalPositions),
    *(nn.Linear, nn.LayerNorm, nn.Dropout, nn.ModuleList),
}
LEAST_ONEDNN_WORK = 2**20
"""Multiplications of a product from which on oneDNN is faster than torch's own choice, whatever its shape."""


def next_token_of(model, cache, memory_BSD, attention_mask_BS):
    """
    Return the `NextToken` that goes on with `cache`, or None where the modules themselves have to run.

    memory_BSD: what the encoder made of the source, whose mask is the same object at each token of a generation: the
    work that is one for all tokens is done once.
    """
    if model.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return None
    if not isinstance(cache, EncoderDecoderCache):
        return None
    known_mask, next_token = getattr(cache, "next_token", (None, None))
    # A cache that was reset has to read its next source, perhaps under the same mask.
    if next_token is None or known_mask is not attention_mask_BS or not cache.is_updated.get(0):
        next_token = NextToken(model, cache, memory_BSD, attention_mask_BS) if is_plain(model, cache) else False
        cache.next_token = attention_mask_BS, next_token
    return next_token or None


def is_plain(model, cache):
    """Return whether the model's decoder and output layer do what `NextToken` does, and no more."""
    decoder = model.model.decoder
    caches = cache.self_attention_cache, cache.cross_attention_cache
    if (
        any(each.offloading or {type(layer) for layer in each.layers} != {DynamicLayer} for each in caches)
        or not decoder.has_plain_masks(cache.self_attention_cache)
        or decoder.config.output_attentions
        or decoder.config.output_hidden_states
        or nn.modules.module._has_any_global_hook()
    ):
        return False
    known = {*PLAIN_MODULES, type(model.model), type(decoder.layers[0].feed_forward.activation)}
    for module in (model.model, model.lm_head, *decoder.modules()):
        has_more = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
        if type(module) not in known or module.training or has_more:
            return False
        weights = [weight for weight in module._parameters.values() if weight is not None]
        if any(type(weight) is not nn.Parameter or weight.device.type != "cpu" for weight in weights):
            return False
    return True


class NextToken:
    """The decoder and the output layer for one new token of each reply, their weights at hand."""

    def __init__(self, model, cache, memory_BSD, attention_mask_BS):
        decoder = model.model.decoder
        self.embedding, self.positions = decoder.embedding, decoder.positions
        self.layers = [NextTokenLayer(layer, len(memory_BSD)) for layer in decoder.layers]
        self.output = product_with(model.lm_head, len(memory_BSD))
        self.no_mask = self.memory_mask = decoder.embedding.weight.new_zeros(1)
        mask = decoder.memory_mask(memory_BSD[:, :1], attention_mask_BS, memory_BSD, cache)
        if mask is not None:
            if mask.dtype == torch.bool:
                lowest = torch.finfo(self.no_mask.dtype).min
                mask = self.no_mask.new_zeros(mask.shape).masked_fill(~mask, lowest)
            self.memory_mask = mask.expand(-1, decoder.config.num_heads, -1, -1).flatten(0, 1)
        for layer in decoder.layers:
            layer.cross_attention.keys_and_values(memory_BSD, cache)

    def __deepcopy__(self, memo):
        """A copy of the cache belongs to the same model."""
        return self

    def __call__(self, input_ids_B1, cache):
        """Return the logits of what comes after `input_ids_B1`, (B, 1, V), and add these tokens to the cache."""
        own_layers, memory_layers = cache.self_attention_cache.layers, cache.cross_attention_cache.layers
        position = own_layers[0].get_seq_length()
        x_BD = self.embedding(input_ids_B1.squeeze(1)) + self.positions(position, position + 1)
        for layer, own, memory in zip(self.layers, own_layers, memory_layers, strict=True):
            x_BD = layer(x_BD, own, self.no_mask, memory, self.memory_mask)
        return self.output(x_BD).unsqueeze(1)


class NextTokenLayer:
    """A layer of the decoder, for one new token of each reply."""

    def __init__(self, layer, num_rows):
        own, cross, feed_forward = layer.self_attention, layer.cross_attention, layer.feed_forward
        self.own_products = [product_with(each, num_rows) for each in (own.query, own.key, own.value, own.output)]
        self.cross_products = [product_with(each, num_rows) for each in (cross.query, cross.output)]
        self.inner, self.outer = (product_with(each, num_rows) for each in (feed_forward.inner, feed_forward.output))
        self.activation = feed_forward.activation
        self.norms = [
            (norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            for norm in (layer.self_attention_norm, layer.cross_attention_norm, layer.feed_forward_norm)
        ]
        self.scaling = own.scaling
        self.shape_BH1C = -1, own.num_heads, 1, own.config.d_model // own.num_heads

    def __call__(self, x_BD, own_cache, own_mask, memory_cache, memory_mask):
        query, key, value, output = self.own_products
        keys_BHKC, values_BHKC = own_cache.update(key(x_BD).view(self.shape_BH1C), value(x_BD).view(self.shape_BH1C))
        attended_BD = attend(query(x_BD), keys_BHKC, values_BHKC, own_mask, self.scaling)
        x_BD = functional.layer_norm(x_BD + output(attended_BD), *self.norms[0])
        query, output = self.cross_products
        attended_BD = attend(query(x_BD), memory_cache.keys, memory_cache.values, memory_mask, self.scaling)
        x_BD = functional.layer_norm(x_BD + output(attended_BD), *self.norms[1])
        return functional.layer_norm(x_BD + self.outer(self.activation(self.inner(x_BD))), *self.norms[2])


def attend(query_BD, keys_BHKC, values_BHKC, mask_N1K, scaling):
    """Return what one query of each head attends to, (B, D): Equation 1, `mask_N1K` added to the scores."""
    keys_NKC, values_NKC = keys_BHKC.flatten(0, 1), values_BHKC.flatten(0, 1)
    query_N1C = query_BD.view(keys_NKC.shape[0], 1, -1)
    weights_N1K = torch.baddbmm(mask_N1K, query_N1C, keys_NKC.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights_N1K, values_NKC).view_as(query_BD)


def product_with(linear, num_rows):
    """Return the function of (B, D) that the layer is, by whoever computes it faster for `num_rows` rows."""
    weight, bias = linear.weight, linear.bias
    if weight.dtype == torch.float32 and num_rows * weight.numel() >= LEAST_ONEDNN_WORK and HAS_ONEDNN:
        return lambda x: onednn_product(x, weight, bias)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed)
    return lambda x: torch.addmm(bias, x, transposed)

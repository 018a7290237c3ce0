"""
transformers' own common tests, which ship in its source distribution, run on Chatformer.

    pip download --no-deps --no-binary transformers transformers==VERSION && tar xzf transformers-VERSION.tar.gz
    TRANSFORMERS_SOURCE=transformers-VERSION pytest tests/modeling_chatformer/test_transformers_common.py
"""

import importlib
import os
import sys
import types
import unittest.mock
import warnings
from pathlib import Path

import pytest
import torch
import transformers

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration, ChatformerModel

SOURCE = os.environ.get("TRANSFORMERS_SOURCE")
if SOURCE is None:
    pytest.skip("needs TRANSFORMERS_SOURCE, an unpacked source distribution of transformers", allow_module_level=True)

PACKAGE = "transformers_tests"


def stub(name, **content):
    """Stand in for a module that the source distribution leaves out."""
    module = types.ModuleType(f"{PACKAGE}.{name}")
    module.__path__ = []
    vars(module).update(content)
    sys.modules[module.__name__] = module


def common_tests():
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(Path(SOURCE).absolute() / "tests")]
    sys.modules[PACKAGE] = package
    stub("exporters")
    stub("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    stub("generation")
    stub("generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    stub("utils")
    stub("utils.test_configuration_utils", config_common_kwargs=COMMON_KEYWORDS)
    with (
        # It would look for the tests' own package, which is left out too.
        unittest.mock.patch("transformers.utils.direct_transformers_import", return_value=transformers),
        warnings.catch_warnings(action="ignore", category=pytest.PytestUnknownMarkWarning),
    ):
        return tuple(
            importlib.import_module(f"{PACKAGE}.{name}")
            for name in ("test_modeling_common", "test_configuration_common", "test_training_mixin")
        )


# Of each keyword that all configurations share, another value than the usual one.
COMMON_KEYWORDS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["ChatformerModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}

modeling, configuration, training = common_tests()

# The common tests find out by name which classes take labels.
modeling.MODEL_MAPPING_NAMES["chatformer"] = "ChatformerModel"
modeling.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["chatformer"] = "ChatformerForConditionalGeneration"


class ChatformerTester:
    """Makes the small models and inputs that the common tests run on."""

    is_training = True
    batch_size = 13
    seq_length = encoder_seq_length = decoder_seq_length = 7
    hidden_size = 64
    num_hidden_layers = encoder_layers = decoder_layers = 2
    num_attention_heads = encoder_attention_heads = decoder_attention_heads = 4
    causal_lm_class = ChatformerForConditionalGeneration

    def __init__(self, parent):
        self.parent = parent

    def get_config(self, dropout=0.0):
        return ChatformerConfig(
            vocab_size=99,
            d_model=64,
            d_ff=128,
            num_heads=4,
            encoder_layers=2,
            decoder_layers=2,
            max_position_embeddings=100,
            dropout=dropout,
        )

    def prepare_config_and_inputs_for_common(self):
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, self.seq_length)
        input_ids, decoder_input_ids = (torch.randint(3, 99, shape, generator=generator) for _ in range(2))
        return self.get_config(dropout=0.1), {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": torch.ones_like(decoder_input_ids),
        }


class TestChatformerModel(
    modeling.ModelTesterMixin, modeling.GenerationTesterMixin, training.TrainingTesterMixin, unittest.TestCase
):
    all_model_classes = (ChatformerModel, ChatformerForConditionalGeneration)
    is_encoder_decoder = True
    model_tester = None

    def setUp(self):
        self.model_tester = ChatformerTester(self)

    def _get_trainable_model_class(self):
        batch = self._create_text_training_batch(1, self.training_overfit_seq_length, 99)

        class Overfitted(ChatformerForConditionalGeneration):
            """Asked as a decoder-only model is, for what follows the first token, it is given the whole source."""

            def generate(self, prompt_ids, *, max_new_tokens, **options):
                replies = super().generate(
                    batch["input_ids"], max_new_tokens=prompt_ids.shape[1] + max_new_tokens, **options
                )
                return replies[:, 1:]

        return Overfitted


class TestChatformerConfig(unittest.TestCase):
    def test_common_properties(self):
        tester = configuration.ConfigTester(self, config_class=ChatformerConfig, vocab_size=99, d_model=64, num_heads=4)
        # It compares by the methods of this test: what was given to what is saved, and that to what is read again.
        with unittest.mock.patch.object(self, "assertEqual", wraps=self.assertEqual) as compared:
            tester.run_common_tests()
        pairs = [call.args[:2] for call in compared.call_args_list]
        self.assertLessEqual({(99, 99), (64, 64), (4, 4)}, {pair for pair in pairs if isinstance(pair[0], int)})
        self.assertTrue(any(isinstance(read, dict) and read["d_model"] == 64 for read, _ in pairs))

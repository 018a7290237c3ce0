"""The stock Seq2SeqTrainer trains a Chatformer as it does a stock model, and peft adapts one."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.data.tokenizer import train_tokenizer

DIGITS = "0123456789"

WITHOUT_CHATFORMER = """
import sys
sys.modules["chatformer"] = None  # any import of it fails
import json
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer(json.loads(sys.argv[2]), return_tensors="pt", padding=True)
replies = tokenizer.batch_decode(model.generate(**batch, max_new_tokens=8), skip_special_tokens=True)
print(); print("RESULT", json.dumps({"model": type(model).__module__, "replies": replies}))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(DIGITS)] * 2, 600)


def some_numbers(count, seed):
    generator = random.Random(seed)
    return [" ".join(generator.choices(DIGITS, k=generator.randint(1, 4))) for _ in range(count)]


def examples(tokenizer, sources, answer=lambda source: source):
    return [{**tokenizer(source), "labels": tokenizer(answer(source)).input_ids} for source in sources]


def tiny_model(tokenizer, seed=0, **fields):
    shape = {"d_model": 64, "d_ff": 128, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.0}
    torch.manual_seed(seed)
    return ChatformerForConditionalGeneration(ChatformerConfig(vocab_size=len(tokenizer), **{**shape, **fields}))


def tiny_marian(tokenizer):
    layers = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    heads = {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    widths = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    tokens = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None}
    torch.manual_seed(0)
    return MarianMTModel(MarianConfig(vocab_size=len(tokenizer), **layers, **heads, **widths, **tokens, dropout=0.0))


def stock_trainer(model, tokenizer, folder, rows, eval_rows=None, collator_knows_model=True, **settings):
    """Return transformers' own trainer with its own collator; `settings` are its own arguments."""

    def share_of_right_predictions(evaluated):
        found, expected = (
            tokenizer.batch_decode(np.where(ids == -100, tokenizer.pad_token_id, ids), skip_special_tokens=True)
            for ids in (evaluated.predictions, evaluated.label_ids)
        )
        return {"right": np.mean([one == other for one, other in zip(found, expected, strict=True)])}

    settings = {"per_device_train_batch_size": 8, "save_strategy": "no", "logging_steps": 1, **settings}
    arguments = Seq2SeqTrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, generation_max_length=8, **settings
    )
    return Seq2SeqTrainer(
        model,
        arguments,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model if collator_knows_model else None),
        train_dataset=rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        compute_metrics=share_of_right_predictions if arguments.predict_with_generate else None,
    )


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def batch_of(tokenizer, rows):
    """Return the rows as the collator makes a batch of them, with what the decoder reads written out by hand."""
    batch = dict(DataCollatorForSeq2Seq(tokenizer)(rows))
    width = batch["labels"].shape[1]
    shifted = [[tokenizer.bos_token_id, *row["labels"][:-1]] for row in rows]
    padded = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in shifted]
    return {**batch, "decoder_input_ids": torch.tensor(padded)}


def assert_tied(model):
    matrices = (model.model.encoder.embedding, model.model.decoder.embedding, model.lm_head)
    assert all(matrix.weight is model.model.shared.weight for matrix in matrices)
    assert model.config.tie_word_embeddings


@pytest.fixture(scope="module")
def copying(tokenizer, tmp_path_factory):
    """Return a stock trainer that has taught a model to repeat one to four digits."""
    trainer = stock_trainer(
        tiny_model(tokenizer),
        tokenizer,
        tmp_path_factory.mktemp("copying"),
        examples(tokenizer, some_numbers(3000, seed=0)),
        examples(tokenizer, some_numbers(50, seed=1)),
        predict_with_generate=True,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=20,
        learning_rate=5e-3,
        warmup_steps=50,
        adam_beta2=0.98,
        max_steps=270,
        eval_strategy="steps",
        eval_steps=135,
        save_strategy="steps",
        save_steps=135,
    )
    trainer.train()
    trainer.model.eval()
    return trainer


def test_it_learns_and_evaluates(copying, tokenizer):
    losses = logged(copying, "loss")
    assert len(losses) == 270 and losses[-1] < 0.1 < 4 < losses[0]
    assert len(logged(copying, "eval_loss")) == 2 and logged(copying, "eval_loss")[-1] < 0.1
    assert len(logged(copying, "eval_right")) == 2 and logged(copying, "eval_right")[-1] == 1
    numbers = some_numbers(60, seed=2)
    for way in ({}, {"num_beams": 3}):
        predicted = copying.predict(examples(tokenizer, numbers), **way)
        replies = tokenizer.batch_decode(predicted.predictions, skip_special_tokens=True)
        assert replies == numbers and predicted.metrics["test_right"] == 1
        assert predicted.metrics["test_loss"] < 0.1


def test_its_checkpoints_load(copying, tokenizer):
    batch = batch_of(tokenizer, examples(tokenizer, some_numbers(6, seed=3)))
    loaded = AutoModelForSeq2SeqLM.from_pretrained(os.path.join(copying.args.output_dir, "checkpoint-270"))
    assert isinstance(loaded, ChatformerForConditionalGeneration)
    assert_tied(loaded)
    assert torch.equal(loaded(**batch).logits, copying.model(**batch).logits)
    earlier = AutoModelForSeq2SeqLM.from_pretrained(os.path.join(copying.args.output_dir, "checkpoint-135"))
    assert not torch.equal(earlier(**batch).logits, copying.model(**batch).logits)


def test_its_checkpoints_load_without_chatformer(copying, environment, tmp_path):
    numbers = some_numbers(6, seed=4)
    folder = os.path.join(copying.args.output_dir, "checkpoint-270")
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_CHATFORMER, folder, json.dumps(numbers)],
        capture_output=True,
        text=True,
        env={**environment, "HF_HOME": str(tmp_path)},
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.rpartition("RESULT ")[2])
    assert result["model"].startswith("transformers_modules.") and result["replies"] == numbers


def test_resumed_equals_uninterrupted(tokenizer, tmp_path):
    rows = examples(tokenizer, some_numbers(40, seed=0))
    # Eight steps end in the second epoch, and the checkpoint lies inside the first.
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    uninterrupted = stock_trainer(tiny_model(tokenizer, dropout=0.1), tokenizer, tmp_path, rows, **settings)
    uninterrupted.train()
    resumed = stock_trainer(tiny_model(tokenizer, seed=1, dropout=0.1), tokenizer, tmp_path, rows, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(weights(resumed.model), weights(uninterrupted.model), rtol=0, atol=0)
    assert_tied(resumed.model)


def test_the_best_model_is_loaded_at_the_end(tokenizer, tmp_path):
    rows = examples(tokenizer, some_numbers(8, seed=0))
    every_two_steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = stock_trainer(
        tiny_model(tokenizer),
        tokenizer,
        tmp_path,
        rows,
        rows,
        max_steps=4,
        learning_rate=1e-2,
        load_best_model_at_end=True,
        # Here the highest loss is the best one, so that the best model is not the last.
        greater_is_better=True,
        **every_two_steps,
    )
    trainer.train()
    first, last = (AutoModelForSeq2SeqLM.from_pretrained(tmp_path / f"checkpoint-{step}") for step in (2, 4))
    torch.testing.assert_close(weights(trainer.model), weights(first), rtol=0, atol=0)
    assert not torch.equal(first.lm_head.weight, last.lm_head.weight)
    assert_tied(trainer.model)


def test_the_collator_need_not_know_the_model(tokenizer, tmp_path):
    rows = examples(tokenizer, some_numbers(24, seed=0))
    found = []
    for collator_knows_model in (True, False):
        trainer = stock_trainer(
            tiny_model(tokenizer), tokenizer, tmp_path, rows, rows[:5], collator_knows_model, max_steps=3
        )
        assert ("decoder_input_ids" in next(iter(trainer.get_train_dataloader()))) == collator_knows_model
        trainer.train()
        found.append((weights(trainer.model), trainer.evaluate()["eval_loss"]))
    assert found[0][1] == found[1][1]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)


def one_plain_step(model, tokenizer, folder, rows, num_micro_batches=1, **settings):
    """Train on all rows in a single step of gradient descent, in so many batches."""
    trainer = stock_trainer(
        model,
        tokenizer,
        folder,
        rows,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        max_steps=1,
        per_device_train_batch_size=len(rows) // num_micro_batches,
        gradient_accumulation_steps=num_micro_batches,
        **settings,
    )
    before = weights(model)
    trainer.train()
    return {name: after - before[name] for name, after in weights(model).items()}, logged(trainer, "loss")[0]


def adapted(model, target_modules=("query", "value"), **fields):
    torch.manual_seed(0)
    return get_peft_model(
        model, LoraConfig(TaskType.SEQ_2_SEQ_LM, target_modules=target_modules, r=8, lora_alpha=16, **fields)
    )


ROWS_OF_UNEQUAL_LENGTHS = ["1", "2 3 4 5 6 7 8 9 0", "3 4", "4 4 4", "5", "6 1 2 3 4", "7 7", "8 9 8 9 8 9"]


def accumulation_error(make_model, tokenizer, folder, **settings):
    """Return how far eight batches of one row lead from one batch of eight, as a share of that batch's own step."""
    rows = examples(tokenizer, ROWS_OF_UNEQUAL_LENGTHS)
    (one, loss_of_one), (eight, loss_of_eight) = (
        one_plain_step(make_model(tokenizer), tokenizer, folder, rows, num_micro_batches, **settings)
        for num_micro_batches in (1, 8)
    )
    error = sum((eight[name] - one[name]).square().sum() for name in one).sqrt()
    step = sum(change.square().sum() for change in one.values()).sqrt()
    return error / step, abs(loss_of_eight - loss_of_one) / loss_of_one


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("adapt", [lambda model: model, adapted], ids=["all weights", "LoRA"])
def test_accumulating_single_rows_equals_one_batch(tokenizer, tmp_path, adapt, smoothing):
    errors = accumulation_error(
        lambda tokenizer: adapt(tiny_model(tokenizer)), tokenizer, tmp_path, label_smoothing_factor=smoothing
    )
    assert max(errors) < 1e-5


def test_accumulating_single_rows_misleads_stock_marian(tokenizer, tmp_path):
    """The test before this one would see it: Marian takes `num_items_in_batch` and divides by the batch's own."""
    assert accumulation_error(tiny_marian, tokenizer, tmp_path)[0] > 1


@pytest.mark.parametrize("predict_with_generate", [False, True])
def test_label_smoothing_is_torch_s_own_over_all_target_tokens(tokenizer, tmp_path, predict_with_generate):
    rows = examples(tokenizer, ROWS_OF_UNEQUAL_LENGTHS)
    batch = batch_of(tokenizer, rows)
    expected = tiny_model(tokenizer)

    def smoothed_loss():
        labels = batch["labels"].flatten()
        logits = expected(**{name: value for name, value in batch.items() if name != "labels"}).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], label_smoothing=0.2)

    found = tiny_model(tokenizer)
    changes, loss = one_plain_step(found, tokenizer, tmp_path, rows, 2, label_smoothing_factor=0.2)
    reference = smoothed_loss()
    assert loss == pytest.approx(reference.item(), rel=1e-6)
    reference.backward()
    torch.testing.assert_close(
        changes, {name: -parameter.grad for name, parameter in expected.named_parameters()}, rtol=0, atol=1e-6
    )
    expected.load_state_dict(found.state_dict())
    trainer = stock_trainer(
        found, tokenizer, tmp_path, rows, label_smoothing_factor=0.2, predict_with_generate=predict_with_generate
    )
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(smoothed_loss().item(), rel=1e-6)


def test_label_smoothing_says_what_it_needs_of_the_collator(tokenizer, tmp_path):
    rows = examples(tokenizer, some_numbers(8, seed=0))
    trainer = stock_trainer(
        tiny_model(tokenizer), tokenizer, tmp_path, rows, collator_knows_model=False, label_smoothing_factor=0.1
    )
    with pytest.raises(ValueError, match=r"label_smoothing_factor.*DataCollatorForSeq2Seq\(tokenizer, model=model\)"):
        trainer.train()


def test_labels_are_shifted_once_and_minus_100_does_not_count(tokenizer):
    model = tiny_model(tokenizer, seed=1)
    batch = batch_of(tokenizer, examples(tokenizer, ROWS_OF_UNEQUAL_LENGTHS))
    labels = batch.pop("labels")
    logits = model(**batch).logits
    losses = [
        -logits[row, place].log_softmax(-1)[label]
        for row, place in (labels != -100).nonzero().tolist()
        for label in [labels[row, place]]
    ]
    assert len(losses) == sum(len(text.split()) + 1 for text in ROWS_OF_UNEQUAL_LENGTHS)
    expected = torch.stack(losses).mean()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for found in (model(**source, labels=labels), model(**batch, labels=labels)):
        torch.testing.assert_close(found.loss, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.logits[labels != -100], logits[labels != -100], rtol=0, atol=1e-5)


def test_keywords_that_neither_model_nor_loss_knows_are_refused(tokenizer):
    model = tiny_model(tokenizer)
    batch = batch_of(tokenizer, examples(tokenizer, ["1 2"]))
    with pytest.raises(TypeError, match="atention_mask"):
        model(**batch, atention_mask=None)
    labels = batch.pop("labels")
    for unknown in ({"atention_mask": None}, {"label_smoothing": 0.1}):
        with pytest.raises(TypeError, match=next(iter(unknown))):
            model(**batch, **unknown)
    with pytest.raises(ValueError, match="label_smoothing"):
        model(batch["input_ids"])
    assert model(batch["input_ids"], labels=labels, label_smoothing=0.1).loss > 0


def test_it_trains_in_bfloat16_autocast(tokenizer, tmp_path):
    rows = examples(tokenizer, some_numbers(64, seed=0))
    settings = {"max_steps": 40, "learning_rate": 5e-3, "predict_with_generate": True}
    trainer = stock_trainer(tiny_model(tokenizer), tokenizer, tmp_path, rows, rows[:8], bf16=True, **settings)
    dtypes = set()
    trainer.model.model.decoder.layers[0].feed_forward.register_forward_hook(
        lambda _module, _inputs, output: dtypes.add((output.dtype, torch.is_grad_enabled()))
    )
    trainer.train()
    assert (torch.bfloat16, True) in dtypes and trainer.model.dtype == torch.float32
    assert logged(trainer, "loss")[-1] < 0.5 * logged(trainer, "loss")[0]
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_compiled_training_equals_uncompiled(tokenizer, tmp_path, monkeypatch):
    rows = examples(tokenizer, some_numbers(24, seed=0))
    # The trainer writes it into the environment, where the next test would find it.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    found = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = stock_trainer(tiny_model(tokenizer), tokenizer, tmp_path, rows, max_steps=3, **settings)
        trainer.train()
        found.append(weights(trainer.model))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


@pytest.fixture
def base(copying, tmp_path):
    """Return the folder of the model that repeats digits."""
    copying.model.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def first_digit(source):
    return source[0]


@pytest.mark.parametrize("target_modules", [["query", "value"], "all-linear"], ids=["query and value", "all-linear"])
def test_lora_trains_saves_and_merges(base, tokenizer, tmp_path, target_modules):
    numbers = some_numbers(20, seed=5)
    source = tokenizer(numbers, return_tensors="pt", padding=True)
    batch = batch_of(tokenizer, examples(tokenizer, numbers, first_digit))
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    before = weights(model)
    lora = adapted(model, target_modules)
    rows = examples(tokenizer, some_numbers(640, seed=0), first_digit)
    settings = {"per_device_train_batch_size": 32, "max_steps": 60, "learning_rate": 1e-2}
    trainer = stock_trainer(lora, tokenizer, tmp_path / "trainer", rows, save_strategy="epoch", **settings)
    trainer.train()
    lora.eval()
    assert logged(trainer, "loss")[-1] < 0.1 * logged(trainer, "loss")[0]
    after = {name.replace(".base_layer", ""): value for name, value in weights(model).items()}
    assert {name for name in after if name not in before} == {name for name in after if ".lora_" in name} != set()
    torch.testing.assert_close({name: after[name] for name in before}, before, rtol=0, atol=0)

    logits = lora(**batch).logits
    replies = lora.generate(**source, max_new_tokens=8)
    assert tokenizer.batch_decode(replies, skip_special_tokens=True) == [first_digit(number) for number in numbers]
    lora.save_pretrained(tmp_path / "adapters")
    assert not list((tmp_path / "adapters").glob("model*.safetensors"))
    for folder in (tmp_path / "adapters", tmp_path / "trainer" / "checkpoint-60"):
        loaded = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), folder)
        assert torch.equal(loaded(**batch).logits, logits)

    merged = lora.merge_and_unload()
    assert type(merged) is ChatformerForConditionalGeneration and set(weights(merged)) == set(before)
    merged.save_pretrained(tmp_path / "merged")
    for model in (merged, AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")):
        assert_tied(model)
        torch.testing.assert_close(model(**batch).logits, logits, rtol=0, atol=1e-5)
        assert torch.equal(model.generate(**source, max_new_tokens=8), replies)


def test_adapters_of_the_model_s_own_methods(base, tokenizer, tmp_path):
    batch = batch_of(tokenizer, examples(tokenizer, some_numbers(20, seed=5), first_digit))
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    without = model(**batch).logits
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(target_modules=["query", "value"], r=8))
    optimizer = torch.optim.Adam((parameter for parameter in model.parameters() if parameter.requires_grad), lr=1e-2)
    for _ in range(5):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logits = model(**batch).logits
    assert not torch.allclose(logits, without, atol=0.1)
    model.save_pretrained(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    fresh = AutoModelForSeq2SeqLM.from_pretrained(base)
    fresh.load_adapter(str(tmp_path / "adapter"))
    # The folder of an adapter names the model that it belongs to.
    for loaded in (fresh, AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter")):
        assert torch.equal(loaded(**batch).logits, logits)
        loaded.disable_adapters()
        assert torch.equal(loaded(**batch).logits, without)


def test_an_output_layer_trained_apart_leaves_the_embedding_alone(base, tokenizer, tmp_path):
    batch = batch_of(tokenizer, examples(tokenizer, some_numbers(20, seed=5), first_digit))
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    embedding = model.model.shared.weight.detach().clone()
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        lora = adapted(model, modules_to_save=["lm_head"])
    optimizer = torch.optim.Adam((parameter for parameter in lora.parameters() if parameter.requires_grad), lr=1e-2)
    for _ in range(5):
        lora(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logits = lora(**batch).logits
    lora.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        loaded = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), tmp_path)
    assert torch.equal(loaded(**batch).logits, logits)
    with pytest.warns(UserWarning, match="no longer tied"):
        merged = lora.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, logits, rtol=0, atol=1e-4)
    for matrix in (merged.model.shared, merged.model.encoder.embedding, merged.model.decoder.embedding):
        assert torch.equal(matrix.weight, embedding)
    assert not torch.allclose(merged.lm_head.weight, embedding, atol=1e-2)


def test_rows_of_the_embedding_can_be_trained_alone(base, tokenizer):
    batch = batch_of(tokenizer, examples(tokenizer, some_numbers(20, seed=5), first_digit))
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    logits = model(**batch).logits
    rows = sorted({int(token) for token in batch["labels"].flatten() if token > 10})[:2]
    lora = adapted(model, trainable_token_indices=rows).eval()
    # peft looks those rows up itself, and must scale them as the model does.
    torch.testing.assert_close(lora(**batch).logits, logits, rtol=0, atol=1e-5)
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=1.0)
    lora(**batch).loss.backward()
    optimizer.step()
    trained = lora(**batch).logits
    assert (trained - logits).abs().max() > 1e-2
    torch.testing.assert_close(lora.merge_and_unload()(**batch).logits, trained, rtol=0, atol=1e-4)

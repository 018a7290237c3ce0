"""
The recipe `korean` and a peer of the lecture's size, on the same split, measured by the same evaluation.

    python benchmarks/korean.py peer --data ChatbotData.csv --output-dir runs/peer
    chatformer train --recipe korean --data ChatbotData.csv --output-dir runs/korean
    python benchmarks/korean.py table runs/peer runs/korean

The peer is transformers' MarianMTModel with 2 + 2 layers, d_model 256, 8 heads, d_ff 512, a vocabulary of 8,000 and
dropout 0.1, in a bare loop: batches of 64 random exchanges, padded, float32, Adam with the paper's betas, the paper's
schedule with 4,000 steps of warm-up, label smoothing 0.1.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from machine import markdown_head, markdown_row
from transformers import MarianConfig, MarianMTModel

from chatformer.data.batches import collate
from chatformer.data.conversations import load_conversations
from chatformer.data.exchanges import encode_exchanges
from chatformer.data.preparation import message_texts
from chatformer.data.splitting import split_conversations
from chatformer.data.tokenizer import train_tokenizer
from chatformer.evaluation.figures import evaluate
from chatformer.storage.names import LOG_FILE
from chatformer.storage.reading import read_json_lines
from chatformer.storage.writing import append_json_line
from chatformer.training.reporting import evaluation_figures, evaluation_line
from chatformer.training.schedules import make_scheduler


@dataclass(frozen=True, kw_only=True)
class PeerSettings:
    """Train the peer."""

    data: str
    """The conversations."""
    output_dir: Path
    """Folder of the log."""
    num_train_epochs: int = 15
    """Passes over the data; evaluated after each."""
    seed: int = 42
    """Of the split and of all that is random."""


def peer(settings: tyro.conf.OmitArgPrefixes[PeerSettings]) -> None:
    torch.manual_seed(settings.seed)
    settings.output_dir.mkdir(parents=True)
    training, validation = split_conversations(
        load_conversations(settings.data).conversations, validation_fraction=0.05, seed=settings.seed
    )
    tokenizer = train_tokenizer(message_texts(training), 8000)
    train_exchanges = encode_exchanges(training, tokenizer, 128, 128)
    eval_exchanges = encode_exchanges(validation, tokenizer, 128, 128)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(tokenizer),
            d_model=256,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=512,
            decoder_ffn_dim=512,
            activation_function="relu",
            dropout=0.1,
            scale_embedding=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
            forced_eos_token_id=None,
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
    scheduler = make_scheduler("noam", optimizer, d_model=256, warmup_steps=4000, num_steps=0)
    seconds, step = 0.0, 0
    for epoch in range(settings.num_train_epochs):
        model.train()
        began = time.perf_counter()
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(train_exchanges))
        for indices in np.array_split(order, len(order) // 64):
            batch = collate(train_exchanges, indices, tokenizer.pad_token_id)
            logits = model(**batch).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, label_smoothing=0.1
            )
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
        seconds += time.perf_counter() - began
        evaluation, _ = evaluate(model, tokenizer, eval_exchanges, max_replies=1000)
        line = {"step": step, "seconds": seconds, **evaluation_figures(evaluation)}
        append_json_line(settings.output_dir / LOG_FILE, line)
        print(f"{seconds:.0f} s, {evaluation_line(step, evaluation, is_best=False)}", flush=True)


def table(runs: Annotated[tuple[Path, ...], tyro.conf.Positional]) -> None:
    """Print each run's evaluation of the best loss and that of the best score."""
    columns = ["run", "chosen by", "seconds", "bits per character", "chrF", "exact match", "distinct replies"]
    print(markdown_head(columns, texts=2))
    for run in runs:
        lines = read_json_lines(run / LOG_FILE)
        evaluations = [line for line in lines if "eval_chrf" in line]
        for name, figure in (("loss", lambda line: -line["eval_loss"]), ("score", lambda line: line["eval_score"])):
            best = max(evaluations, key=figure)
            row = [run.name, name, f"{best['seconds']:.0f}", f"{best['eval_bits_per_character']:.2f}"]
            row += [f"{best['eval_chrf']:.1f}", f"{best['eval_exact_match']:.1f}%", str(best["eval_distinct_replies"])]
            print(markdown_row(row))


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"peer": peer, "table": table})

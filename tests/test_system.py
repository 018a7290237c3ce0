"""From a file of conversations to a chatbot that knows its task: the whole way, from a seed drawn anew each time."""

import json
import random
import subprocess
import sys


def test_it_learns_to_copy_and_to_sort_digits(environment, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)

    def exchange():
        digits = [str(chance.randrange(10)) for _ in range(chance.randint(1, 5))]
        task = chance.choice(("copy", "sort"))
        answer = digits if task == "copy" else sorted(digits)
        return {"question": f"{task} {' '.join(digits)}", "answer": " ".join(answer)}

    data, folder = tmp_path / "digits.jsonl", tmp_path / "model"
    exchanges = [exchange() for _ in range(4000)]
    data.write_text("".join(json.dumps(made) + "\n" for made in exchanges), "utf-8")
    shape = "--size tiny --d-model 64 --d-ff 128 --num-heads 4 --encoder-layers 1 --decoder-layers 1 --dropout 0"
    plan = "--max-steps 1000 --tokens-per-step 1000 --learning-rate 3e-3 --warmup-steps 100 --mixed-precision no"
    files = ["--data", str(data), "--output-dir", str(folder), "--seed", str(seed)]
    chatformer = [sys.executable, "-m", "chatformer.cli.main"]
    trained = subprocess.run(
        [*chatformer, "train", *files, *shape.split(), *plan.split(), "--vocab-size", "600", "--eval-steps", "500"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr
    best = json.loads((folder / "training_record.json").read_text("utf-8"))["best"]
    assert best["eval_exact_match"] > 90, f"seed {seed}: {best}"

    known = {made["question"] for made in exchanges}
    asked = [made for made in (exchange() for _ in range(400)) if made["question"] not in known][:50]
    questions = "".join(made["question"] + "\n" for made in asked)
    answered = subprocess.run(
        [*chatformer, "chat", str(folder)], input=questions, env=environment, capture_output=True, text=True
    )
    assert answered.returncode == 0, answered.stderr
    replies = answered.stdout.splitlines()
    right = sum(reply == made["answer"] for reply, made in zip(replies, asked, strict=True))
    assert right > 0.8 * len(asked) > 30, f"seed {seed}: {list(zip(asked, replies, strict=True))}"

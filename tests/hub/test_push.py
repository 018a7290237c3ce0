"""`chatformer push` against a Hub: what travels, in which commits, what is sent again, and what is said."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from chatformer.hub.bundle import gather
from chatformer.hub.errors import HubError
from chatformer.hub.privacy import public_name, without_places

CODE = {
    path.name
    for path in (Path(__file__).parents[2] / "modeling_chatformer").glob("*.py")
    # The model itself does not import them.
    if path.stem
    not in {
        *("__init__", "padding", "fast_packing", "fast_training", "fast_gpu_training"),
        *("short_attention", "fused_add_norm", "fused_linear"),
        *("import_hooks", "registration", "tunes"),
    }
    and not any(other in path.name for other in ("bahdanau", "ensemble"))
} | {"configuration_seq2seq.py"}
MODEL = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}
RECORDS = {"training_settings.yaml", "training_record.json", "training_log.jsonl", "training_curves.png"}
ALL = CODE | MODEL | RECORDS | {"README.md", ".gitattributes"}


@pytest.fixture
def folder(trained, tmp_path):
    """Return a copy of a trained model's folder, with a name that is in no pushed file."""
    return Path(shutil.copytree(trained, tmp_path / "secret place" / "my bot"))


@pytest.fixture
def push(chatformer, hub_server):
    def run(*arguments, token=hub_server.ALICE):
        return chatformer.run("push", *arguments, token=token)

    return run


@pytest.fixture
def pushed(push, folder, request):
    """Return the name of a repository that the folder was pushed to."""
    name = re.sub(r"\W+", "-", request.node.name)[-60:].strip("-")
    status, _, err = push(folder, "--hub-model-id", name)
    assert status == 0, err
    return f"alice/{name}"


def commits(hub, name, revision="main"):
    """Return the commits that lead to a revision, the last first."""
    repo = hub.repos["models", name]
    found = [repo.at(revision)]
    while found[-1].parent:
        found.append(repo.commits[found[-1].parent])
    return found


def changed_weights(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor + 0.001 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def test_a_whole_repository_in_one_commit_and_a_card_that_names_it(push, hub, folder):
    status, out, err = push(folder, "--hub-model-id", "whole", "--commit-message", "My bot")
    assert status == 0, err
    assert out.splitlines()[-1] == f"{hub.url}/alice/whole"
    second, first, initial = commits(hub, "alice/whole")
    assert set(second.tree) == set(first.tree) == ALL
    assert set(initial.tree) == {".gitattributes"}
    assert first.title == "My bot"
    # At no commit does main lack anything, and the card tells to load what then exists.
    cards = [hub.content_of(commit.tree["README.md"]).decode() for commit in (first, second)]
    assert 'revision="main"' in cards[0]
    assert f'revision="{first.sha}"' in cards[1]
    assert {path for path in ALL if first.tree[path] != second.tree[path]} == {"README.md"}
    for name in MODEL - {"config.json"}:
        assert hub.content("models", "alice/whole", name) == (folder / name).read_bytes()


def test_nothing_of_the_author_and_his_machine_travels(push, hub, hub_server, folder):
    settings = yaml.safe_load((folder / "training_settings.yaml").read_text("utf-8"))
    assert Path(settings["data"][0]).is_absolute() and Path(settings["output_dir"]).is_absolute()
    for name in ("training_args.bin", "optimizer.pt", "model.ckpt", ".env", "notes.txt", "token", "script.py", "x.pkl"):
        (folder / name).write_text(f"HF_TOKEN={hub_server.ALICE}")
    for name in ("checkpoint-5", ".cache", "runs"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "model.safetensors").write_bytes(b"state")
    figures = {"all": {"loss": 1.0}, "seen": None, "unseen": None}
    (folder / "evaluation.json").write_text(
        json.dumps(
            {
                "figures": figures,
                "settings": {"model": str(folder), "data": [f"{folder}/private.csv"]},
                "notes": [f"{folder}/private.csv is not there"],
                "items": [{"history": [{"role": "user", "content": "my own secret"}]}],
            }
        )
    )
    log = folder / "training_log.jsonl"
    log.write_text(log.read_text("utf-8") + json.dumps({"step": 9, "note": f"left {folder}/bad_rows.jsonl"}) + "\n")
    assert push(folder, "--hub-model-id", "clean")[0] == 0
    files = hub.files("models", "alice/clean")
    assert set(files) == ALL | {"evaluation.json"}
    secrets = [hub_server.ALICE, str(folder), "secret place", str(Path.home()), str(Path(settings["data"][0]).parent)]
    for name, content in files.items():
        for secret in [*secrets, "/tmp/", "my own secret"]:
            assert secret.encode() not in content, (name, secret)
    pushed = yaml.safe_load(files["training_settings.yaml"])
    # Whoever runs the recipe again pushes nothing to the author's repository.
    where = {"push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_samples", "log_with"}
    assert where < set(settings) and pushed == {name: settings[name] for name in settings if name not in where} | {
        "data": [Path(settings["data"][0]).name],
        "output_dir": Path(settings["output_dir"]).name,
    }
    assert json.loads(files["evaluation.json"])["figures"] == figures
    assert json.loads(files["training_log.jsonl"].splitlines()[-1])["note"] == "left bad_rows.jsonl"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/me/chats.csv", "chats.csv"),
        ("~/chats.csv", "chats.csv"),
        ("../data/chats.csv", "chats.csv"),
        ("data/chats.csv", "chats.csv"),
        ("C:\\Users\\me\\chats.csv", "chats.csv"),
        ("https://me:word@example.org/chats.csv?token=1", "https://example.org/chats.csv"),
        ("user/chats", "user/chats"),
        ("starter", "starter"),
        ("~하고 싶어", "~하고 싶어"),
        ("Q: and/or. What?", "Q: and/or. What?"),
    ],
)
def test_of_a_path_its_name_is_left_and_of_other_texts_all(text, public):
    assert public_name(text) == public


def test_paths_within_sentences_are_shortened_too(tmp_path):
    file = tmp_path / "model" / "log.jsonl"
    file.parent.mkdir()
    assert without_places(f'"{tmp_path}/model/a b", {Path.home()}/x/y.csv: 1/2', file) == '"a b", y.csv: 1/2'


def test_code_that_a_configuration_borrows_becomes_its_own(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {name: f"somebody/else--{entry}" for name, entry in config["auto_map"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    assert b"somebody" not in gather(str(folder))["config.json"]


@pytest.mark.parametrize("name", ["README.md", "training_log.jsonl", "tokenizer_config.json"])
def test_a_text_that_holds_a_token_is_refused(push, hub, folder, name):
    (folder / name).write_text('{"x": 1}\n{"x": "hf_' + "a1" * 17 + '"}')
    hub.requests.clear()
    if name == "README.md":
        status, _, err = push(folder, "--hub-model-id", "token")
        assert (status, err) == (
            2,
            "error: README.md holds what looks like an access token in line 2: remove it, and revoke it.\n",
        )
    else:
        with pytest.raises(HubError, match=f"{name} holds what looks like an access token in line 2"):
            gather(str(folder))
    assert hub.requests == []


def test_a_second_push_sends_what_has_changed_and_else_nothing(push, hub, folder, pushed):
    before = commits(hub, pushed)
    hub.requests.clear()
    status, out, err = push(folder, "--hub-model-id", pushed)
    assert (status, out.splitlines()[-1]) == (0, f"{hub.url}/{pushed}")
    assert "Nothing to do" in err
    assert commits(hub, pushed) == before
    assert not [method for method, _, _ in hub.requests if method != "GET" and method != "HEAD"]

    changed_weights(folder)
    (folder / "training_curves.png").unlink()
    assert push(folder, "--hub-model-id", pushed)[0] == 0
    assert len(hub.asked("PUT", "/lfs/")) == 1
    third, second, *rest = commits(hub, pushed)
    assert rest == before
    assert hub.content("models", pushed, "model.safetensors") == (folder / "model.safetensors").read_bytes()
    assert f'revision="{second.sha}"'.encode() in hub.content("models", pushed, "README.md")
    # Pictures may be the reader's own; records of another training are not.
    assert "training_curves.png" in third.tree


def test_a_card_alone_is_pushed_in_one_commit(push, hub, folder, pushed):
    before = commits(hub, pushed)
    assert push(folder, "--hub-model-id", pushed, "--license", "mit", "--language", "ko", "en")[0] == 0
    _, *rest = commits(hub, pushed)
    assert rest == before
    card = hub.content("models", pushed, "README.md").decode()
    assert "license: mit" in card and f'revision="{before[1].sha}"' in card


def test_what_an_earlier_push_left_over_is_removed(push, hub, folder, pushed):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, kept in parts.items():
        save_file({name: weights[name] for name in kept}, folder / file, {"format": "pt"})
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, kept in parts.items() for name in kept}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert push(folder, "--hub-model-id", pushed)[0] == 0
    tree = hub.repos["models", pushed].at("main").tree
    assert set(parts) < set(tree) and "model.safetensors" not in tree

    for file in (*parts, "model.safetensors.index.json"):
        (folder / file).unlink()
    (folder / "model.safetensors").write_bytes(whole)
    assert push(folder, "--hub-model-id", pushed)[0] == 0
    assert set(hub.repos["models", pushed].at("main").tree) == ALL


def test_code_of_an_earlier_version_is_replaced_and_travels_where_it_is_needed(push, hub, folder, pushed):
    successors = {"next_token.py": "fast_decoding.py", "products.py": "fast_products.py"}
    for name, successor in successors.items():
        shutil.copy(folder / successor, folder / name)
    # Beside their successors nothing imports them.
    assert not set(successors) & set(gather(str(folder)))
    for successor in successors.values():
        (folder / successor).rename(folder / f"{successor}.new")
    assert push(folder, "--hub-model-id", pushed)[0] == 0
    assert set(hub.repos["models", pushed].at("main").tree) == ALL - set(successors.values()) | set(successors)
    for successor in successors.values():
        (folder / f"{successor}.new").rename(folder / successor)
    assert push(folder, "--hub-model-id", pushed)[0] == 0
    assert set(hub.repos["models", pushed].at("main").tree) == ALL


@pytest.mark.parametrize(
    ("method", "path", "how", "uploads_left"),
    [("PUT", "/lfs/", 400, 1), ("POST", "/commit/", 500, 0), ("POST", "/commit/", "drop", 0)],
)
def test_a_push_that_fails_halfway_shows_nothing_and_goes_on_later(push, hub, folder, method, path, how, uploads_left):
    name = f"alice/fails-{method}-{how}"
    hub.large.clear()
    hub.requests.clear()
    hub.fail(method, path, how, skip=1 if method == "PUT" else 0)
    status, out, err = push(folder, "--hub-model-id", name)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ") and "Nothing half pushed shows; push again" in err
    assert "Traceback" not in err
    assert set(hub.repos["models", name].at("main").tree) == {".gitattributes"}

    hub.requests.clear()
    assert push(folder, "--hub-model-id", name)[0] == 0
    assert len(hub.asked("PUT", "/lfs/")) == uploads_left
    assert set(hub.repos["models", name].at("main").tree) == ALL


def test_a_push_that_is_killed_halfway_shows_nothing_and_goes_on_later(
    push, hub, hub_server, folder, make_command_line
):
    hub.large.clear()
    hub.is_hanging.clear()
    hub.fail("PUT", "/lfs/", "hang", skip=1)
    killed = make_command_line()
    killed.begin("push", folder, "--hub-model-id", "killed", token=hub_server.ALICE)
    assert hub.is_hanging.wait(120)
    # The other one of the two large files is through.
    while not hub.large:
        assert killed.process.poll() is None
    killed.process.kill()
    assert set(hub.repos["models", "alice/killed"].at("main").tree) == {".gitattributes"}
    hub.requests.clear()
    assert push(folder, "--hub-model-id", "killed")[0] == 0
    assert len(hub.asked("PUT", "/lfs/")) == 1
    assert set(hub.repos["models", "alice/killed"].at("main").tree) == ALL


def test_a_server_that_is_busy_for_a_moment_is_asked_again(push, hub, folder):
    hub.large.clear()
    hub.fail("PUT", "/lfs/", 503)
    status, _, err = push(folder, "--hub-model-id", "busy")
    assert status == 0, err
    assert set(hub.repos["models", "alice/busy"].at("main").tree) == ALL


def test_a_push_into_what_has_changed_meanwhile_is_refused(push, hub, folder, pushed):
    repo = hub.repos["models", pushed]

    def somebody_else_pushes():
        parent = repo.at("main")
        repo.commit("refs/heads/main", parent.tree | {"note.txt": hub.stored(b"hi")}, "Note", "carol", parent.sha)

    changed_weights(folder)
    hub.fail("POST", "/commit/", somebody_else_pushes)
    status, _, err = push(folder, "--hub-model-id", pushed)
    assert status == 2
    assert err.splitlines()[-1] == (
        f"error: Somebody else has pushed to {pushed} in the meantime. Look at it, and push again."
    )
    assert commits(hub, pushed)[0].title == "Note"
    assert push(folder, "--hub-model-id", pushed)[0] == 0
    assert "note.txt" in repo.at("main").tree


def test_a_card_that_could_not_be_pinned_is_pinned_by_the_next_push(push, hub, folder):
    hub.fail("POST", "/commit/", 500, skip=1)
    status, out, err = push(folder, "--hub-model-id", "unpinned")
    assert (status, out.splitlines()[-1]) == (0, f"{hub.url}/alice/unpinned")
    assert "its card does not name the commit yet" in err
    first, _ = commits(hub, "alice/unpinned")
    assert 'revision="main"' in hub.content("models", "alice/unpinned", "README.md").decode()
    assert push(folder, "--hub-model-id", "unpinned")[0] == 0
    assert f'revision="{first.sha}"' in hub.content("models", "alice/unpinned", "README.md").decode()


def test_branches_and_pull_requests_leave_main_alone(push, hub, hub_server, folder, pushed):
    main = commits(hub, pushed)[0]
    changed_weights(folder)
    status, out, _ = push(folder, "--hub-model-id", pushed, "--revision", "next/try")
    assert (status, out.splitlines()[-1]) == (0, f"{hub.url}/{pushed}/tree/next%2Ftry")
    assert hub.content("models", pushed, "model.safetensors", "next/try") == (folder / "model.safetensors").read_bytes()

    status, out, err = push(folder, "--hub-model-id", pushed, "--create-pr", token=hub_server.BOB)
    assert (status, out.splitlines()[-1]) == (0, f"{hub.url}/{pushed}/discussions/1"), err
    proposed = commits(hub, pushed, "refs/pr/1")
    assert [commit.author for commit in proposed[:2]] == ["bob", "bob"] and proposed[2] == main
    assert f'revision="{proposed[1].sha}"'.encode() in hub.content("models", pushed, "README.md", "refs/pr/1")
    assert commits(hub, pushed)[0] == main


def test_private_means_private(push, hub, folder, pushed):
    assert push(folder, "--hub-model-id", "closed", "--hub-private-repo")[0] == 0
    assert hub.repos["models", "alice/closed"].private
    assert not hub.repos["models", pushed].private
    assert push(folder, "--hub-model-id", "closed", "--hub-private-repo")[0] == 0
    changed_weights(folder)
    hub.requests.clear()
    status, _, err = push(folder, "--hub-model-id", pushed, "--hub-private-repo")
    assert status == 2 and "exists already and is public" in err
    assert not hub.asked("PUT", "") and not hub.asked("POST", "")


def test_a_card_that_a_person_wrote_is_kept(push, hub, folder, pushed):
    card = "---\nlicense: mit\n---\n# Mine\n"
    (folder / "README.md").write_text(card, "utf-8")
    assert push(folder, "--hub-model-id", pushed)[0] == 0
    assert hub.content("models", pushed, "README.md").decode() == card
    (folder / "README.md").unlink()

    # As well where it was edited on the Hub, and where what lies in the folder was written by a push.
    repo = hub.repos["models", pushed]
    edited = hub.content_of(commits(hub, pushed)[1].tree["README.md"]) + b"\nI have edited this.\n"
    tree = repo.at("main").tree | {"README.md": hub.stored(edited)}
    repo.commit("refs/heads/main", tree, "Edit", "alice", repo.at("main").sha)
    status, _, err = push(folder, "--hub-model-id", pushed)
    assert status == 0 and "was edited there, and stays" in err
    assert hub.content("models", pushed, "README.md") == edited
    assert push(folder, "--hub-model-id", pushed, "--replace-card")[0] == 0
    assert b"I have edited this." not in hub.content("models", pushed, "README.md")


def test_a_dry_run_lists_and_an_output_folder_holds_what_would_travel(push, hub, folder, tmp_path):
    hub.requests.clear()
    status, out, _ = push(folder, "--hub-model-id", "bot", "--dry-run", token=None)
    assert status == 0
    sizes = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in out.splitlines()[:-1]}
    assert set(sizes) == ALL - {".gitattributes"}
    assert sizes["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert out.splitlines()[-1] == f"Would go to bot: {sum(sizes.values()):,} bytes. Nothing was pushed."

    status, out, _ = push(folder, "--hub-model-id", "bot", "--output-dir", tmp_path / "out", token=None)
    assert status == 0 and out.splitlines()[-1].startswith(f"Written to {tmp_path / 'out'}")
    assert {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()} == sizes
    assert "# bot" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert hub.requests == []


def test_mistakes_are_told_in_a_line_before_anything_is_made(push, hub, hub_server, folder, pushed):
    repositories, to = set(hub.repos), "--hub-model-id"
    for arguments, token, message in [
        ([to, "new"], None, "You are not logged in to the Hugging Face Hub: log in with `hf auth login`"),
        ([to, "new"], "hf_nobody", "does not know your token, which may be mistyped, expired or revoked"),
        (
            [to, "new"],
            hub_server.ALICE_READS,
            "alice's token can only read. Make one with the role write",
        ),
        (
            [to, pushed],
            hub_server.ALICE_READS,
            "alice's token can only read. Make one with the role write",
        ),
        (
            [to, "bob/new"],
            hub_server.ALICE,
            "bob/new belongs to bob, where alice may not write. Choose a name",
        ),
        (
            [to, pushed],
            hub_server.BOB,
            f"{pushed} belongs to alice, where bob may not write. Choose a name",
        ),
        (
            [to, "a/b/c"],
            hub_server.ALICE,
            f"{to} a/b/c must be a name such as my-bot or my-name/my-bot",
        ),
        (
            [to, "new", "--create-pr", "--revision", "x"],
            hub_server.ALICE,
            "--create-pr proposes a change",
        ),
    ]:
        if pushed in arguments:
            changed_weights(folder)
        status, out, err = push(folder, *arguments, token=token)
        assert (status, out) == (2, ""), arguments
        # Other lines are bars of progress.
        assert err.splitlines()[-1].startswith("error: ") and message in err.splitlines()[-1], (arguments, err)
    hub.fail("GET", "whoami", "drop")
    status, _, err = push(folder, "--hub-model-id", "new")
    assert status == 2 and f"error: The Hugging Face Hub ({hub.url}) cannot be reached: " in err
    assert set(hub.repos) == repositories
    # The owner of a name is told apart from a repository that is nobody's.
    assert "carol" not in {name.split("/")[0] for _, name in hub.repos}


def test_a_hub_that_lets_nobody_in_for_now_says_what_to_do(push, hub, hub_server, folder, pushed):
    changed_weights(folder)
    for method, path, status in [
        ("GET", "whoami", 429),
        ("GET", f"/api/models/{pushed}$", 429),
        ("POST", "/commit/", 429),
    ]:
        hub.fail(method, path, status)
        before = commits(hub, pushed)
        status, out, err = push(folder, "--hub-model-id", pushed)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1] == (
            "error: The Hub has had too many requests from you or your network (429): try again in 55 seconds."
        )
        assert commits(hub, pushed) == before
    hub.repos["models", pushed].gated = True
    status, out, err = push(folder, "--hub-model-id", pushed, "--create-pr", token=hub_server.BOB)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"error: {hub.url}/{pushed} is gated: its authors must let you in first. Log in with `hf auth login`, ask for "
        "access on that page, and try again once it is granted."
    )
    # Its owner is not kept out.
    assert push(folder, "--hub-model-id", pushed)[0] == 0


def conversations_in(log):
    return [sample for line in log.decode().split("\n")[:-1] for sample in json.loads(line).get("samples", [])]


def test_what_people_said_travels_only_where_the_card_shows_it(push, hub, folder):
    said = conversations_in((folder / "training_log.jsonl").read_bytes())
    assert any("reference" in sample for sample in said) and len({sample["source"] for sample in said}) > 6
    # In a text it may stand where other programs end a line.
    with (folder / "training_log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 150, "note": "one\u2028line"}\n{"step": 151, "samples": [{"source": "my own torn secr')

    err = push(folder, "--hub-model-id", "shown", "--dry-run")[2]
    assert "The card shows 6 questions of the validation data: --no-hub-samples leaves none." in err
    assert push(folder, "--hub-model-id", "shown")[0] == 0
    card = hub.content("models", "alice/shown", "README.md").decode()
    published = hub.content("models", "alice/shown", "training_log.jsonl")
    assert all(f"| {sample['source']} |" in card for sample in conversations_in(published))
    assert len({sample["source"] for sample in conversations_in(published)}) == 6
    assert b"reference" not in published and b"torn" not in published
    assert json.loads(published.decode().split("\n")[-2]) == {"step": 150, "note": "one\u2028line"}

    assert push(folder, "--hub-model-id", "shown", "--no-hub-samples")[0] == 0
    files = hub.files("models", "alice/shown")
    assert conversations_in(files["training_log.jsonl"]) == []
    assert files["training_log.jsonl"].count(b"eval_loss") == published.count(b"eval_loss") > 0
    for sample in said:
        assert f"| {sample['source']} |" not in files["README.md"].decode()
    assert "| 안녕하세요! |" in files["README.md"].decode()

    # A person's card decides what it shows; the log then shows nothing.
    (folder / "README.md").write_text("# Mine", "utf-8")
    assert push(folder, "--hub-model-id", "mine")[0] == 0
    assert b'"samples"' not in hub.content("models", "alice/mine", "training_log.jsonl")


def lose_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_a_shard(folder):
    lose_weights(folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def be_another_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bart"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "There is no folder"),
        (lambda folder: (folder / "config.json").unlink(), "holds no model: it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json could not be read"),
        (lambda folder: (folder / "training_record.json").write_text("[]"), "must hold names and values"),
        (lose_weights, "model.safetensors is missing, and pickles are not published"),
        (lose_a_shard, "incomplete: model-00001-of-00002.safetensors is missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda folder: (folder / "pipeline_chatformer.py").unlink(), "lacks the code .*pipeline_chatformer.py"),
        (be_another_model, "must hold a Chatformer model, but its config.json says 'bart'"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(folder, spoil, message):
    spoil(folder)
    with pytest.raises(HubError, match=message):
        gather(str(folder))


def test_weights_that_do_not_load_are_not_pushed(push, hub, folder):
    weights = load_file(folder / "model.safetensors")
    weights[min(weights)] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    status, _, err = push(folder, "--hub-model-id", "broken")
    assert status == 2 and "error: The weights of" in err
    assert ("models", "alice/broken") not in hub.repos

"""The command `chatformer`: a verb, and what is behind it."""

import difflib
import importlib
import sys

from chatformer.storage.printing import print_in_any_encoding

VERBS = {
    "quickstart": ("chatformer.cli.quickstart", "train a small chatbot on the starter corpus, then talk to it"),
    "train": ("chatformer.cli.train", "train a model on your conversations"),
    "evaluate": ("chatformer.cli.evaluate", "measure a trained model on conversations"),
    "doctor": ("chatformer.cli.doctor", "say what is wrong with data or a model, and what to do"),
    "chat": ("chatformer.cli.chat", "talk to a trained model"),
    "generate": ("chatformer.cli.generate", "reply to each line of a text, or translate it"),
    "import": ("chatformer.cli.import_", "turn a MarianMT checkpoint into a Chatformer model"),
    "push": ("chatformer.cli.push", "publish a model on the Hugging Face Hub"),
    "space": ("chatformer.cli.space", "write a web page to talk to a model, for Hugging Face Spaces"),
    "export": ("chatformer.cli.export", "write a model for Marian, CTranslate2 or ONNX"),
}


def main() -> int:
    """Run the verb that the command line names; return the exit status."""
    print_in_any_encoding()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from chatformer import __version__

        print(f"chatformer {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        nearest = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean `chatformer {nearest[0]}`?" if nearest else ""
        print(f"error: there is no verb {verb!r}.{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(VERBS[verb][0]).main(rest)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; nobody is left to tell.
        sys.stderr.close()
        return 141


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {purpose}" for verb, (_, purpose) in VERBS.items())
    return (
        "usage: chatformer VERB ...\n\n"
        "The original Transformer as a chatbot you train yourself.\n\n"
        f"{verbs}\n\n"
        "`chatformer VERB --help` shows a verb's flags, `chatformer --version` the version."
    )


if __name__ == "__main__":
    sys.exit(main())

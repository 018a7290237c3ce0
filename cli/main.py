"""The command `chatformer`: its verbs, and the way from a command line to an exit status."""

import pkgutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from chatformer.configuration.command_line import parsed
from chatformer.configuration.declaring import check, did_you_mean, without_effect
from chatformer.import_hooks import when_imported
from chatformer.storage.printing import print_in_any_encoding, warn


class Verb(NamedTuple):
    """What a verb does. Nothing is imported before the verb is used: torch alone takes seconds."""

    settings: str
    """The class of its settings, or a function that makes them of a command line."""
    function: str
    """What it calls with its settings; it returns an exit status, or None for 0."""
    purpose: str


VERBS = {
    "quickstart": Verb(
        "chatformer.configuration.training:QuickstartSettings",
        "chatformer.cli.quickstart:quickstart",
        "train a small chatbot on the starter corpus, then talk to it",
    ),
    "train": Verb(
        "chatformer.configuration.recipes:parse_settings",
        "chatformer.cli.train:train",
        "train a model on your conversations",
    ),
    "evaluate": Verb(
        "chatformer.configuration.evaluation:EvaluationSettings",
        "chatformer.evaluation.evaluating:evaluate_in_all_processes",
        "measure a trained model on conversations",
    ),
    "doctor": Verb(
        "chatformer.configuration.evaluation:DoctorSettings",
        "chatformer.evaluation.doctor.examination:examine",
        "say what is wrong with data or a model, and what to do",
    ),
    "chat": Verb(
        "chatformer.configuration.replies:ChatSettings",
        "chatformer.chat.terminal:chat",
        "talk to a trained model",
    ),
    "generate": Verb(
        "chatformer.configuration.replies:GenerationSettings",
        "chatformer.chat.lines:generate",
        "reply to each line of a text, or translate it",
    ),
    "serve": Verb(
        "chatformer.configuration.replies:ServeSettings",
        "chatformer.chat.serving.server:serve",
        "serve a trained model to any client of OpenAI's protocol",
    ),
    "web": Verb(
        "chatformer.configuration.replies:WebSettings",
        "chatformer.chat.web.serving:web",
        "talk to a trained model on a web page, and see inside",
    ),
    "plot": Verb(
        "chatformer.configuration.pictures:PlotSettings",
        "chatformer.cli.plot:plot",
        "draw a reply from the inside, a run's curves, or what the paper describes",
    ),
    "ensemble": Verb(
        "chatformer.configuration.sharing:EnsembleSettings",
        "chatformer.hub.formats.ensembling:ensemble",
        "make one model of several, which predict each token together",
    ),
    "import": Verb(
        "chatformer.configuration.sharing:ImportSettings",
        "chatformer.hub.formats.importing:import_marian",
        "turn a MarianMT checkpoint into a Chatformer model",
    ),
    "push": Verb(
        "chatformer.configuration.sharing:PushSettings",
        "chatformer.hub.pushing:publish",
        "publish a model on the Hugging Face Hub",
    ),
    "space": Verb(
        "chatformer.configuration.sharing:SpaceSettings",
        "chatformer.hub.spaces:space",
        "write a web page to talk to a model, for Hugging Face Spaces",
    ),
    "export": Verb(
        "chatformer.configuration.sharing:ExportSettings",
        "chatformer.hub.formats.exporting:export",
        "write a model for Marian, CTranslate2 or ONNX",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb that the command line names; return the exit status."""
    print_in_any_encoding()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from chatformer import __version__

        print(f"chatformer {__version__}")
        return 0
    name = arguments[0]
    if name not in VERBS:
        hint = did_you_mean(name, VERBS, shown_as="`chatformer {}`")
        print(f"error: there is no verb {name!r}.{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    return run(VERBS[name], arguments[1:], program=f"chatformer {name}")


def run(verb: Verb, arguments: Sequence[str], *, program: str) -> int:
    """Run a verb with the settings of a command line; return the exit status."""
    try:
        settings = settings_of(verb, arguments, program)
        check(settings)
        warn(*without_effect(settings))
        mute_transformers()
        return pkgutil.resolve_name(verb.function)(settings) or 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has gone, as `head` does, and may have been the reader of the errors too.
        sys.stderr.close()
        return 141
    # All errors for people are of these classes.
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def settings_of(verb: Verb, arguments: Sequence[str], program: str) -> Any:
    """The settings of a command line; flags that are unknown or incomplete end the process with status 2."""
    made_by = pkgutil.resolve_name(verb.settings)
    if isinstance(made_by, type):
        return parsed(made_by, arguments, program=program)
    return made_by(arguments, program=program)


def mute_transformers() -> None:
    """Switch off the bars of transformers, whenever it is imported: commands show their own."""
    when_imported("transformers.utils.logging", lambda logging: logging.disable_progress_bar())


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.purpose}" for name, verb in VERBS.items())
    return (
        "usage: chatformer VERB ...\n\n"
        "The original Transformer as a chatbot you train yourself.\n\n"
        f"{verbs}\n\n"
        "`chatformer VERB --help` shows a verb's flags, `chatformer --version` the version."
    )


if __name__ == "__main__":
    sys.exit(main())

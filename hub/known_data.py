"""What is known about the data that a model was trained on: its names, its languages and its licence."""

from dataclasses import dataclass

from chatformer.storage.run_folder import Records, samples_in

from .privacy import public_name


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The facts about data that Chatformer has a recipe for."""

    name: str
    url: str | None
    license: str
    languages: tuple[str, ...]


KNOWN_DATA = {
    "starter": Origin(
        name="the starter corpus that comes with Chatformer",
        url=None,
        license="apache-2.0",
        languages=("ko", "en"),
    ),
    "digits": Origin(
        name="the handwritten digits of the UCI repository, as scikit-learn has them",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        license="cc-by-4.0",
        languages=("ko", "en"),
    ),
    "emoji": Origin(
        name="OpenMoji's emoji, with their names from the package emoji",
        url="https://openmoji.org",
        license="cc-by-sa-4.0",
        languages=("ko", "en"),
    ),
    "tunes": Origin(
        name="the tunes of O'Neill, Ryan and Aird, as the package music21 has them",
        url="https://www.music21.org",
        license="other",
        languages=("ko", "en"),
    ),
    "essen": Origin(
        name="the Essen folk songs, as the package music21 has them; not for commercial use",
        url="https://www.esac-data.org",
        license="other",
        languages=("ko", "en"),
    ),
    "https://raw.githubusercontent.com/songys/Chatbot_data/master/ChatbotData.csv": Origin(
        name="songys/Chatbot_data",
        url="https://github.com/songys/Chatbot_data",
        license="mit",
        languages=("ko",),
    ),
}


def sources_of(records: Records) -> list[str]:
    """The names of the training data, without what is private in them."""
    # A repository on the Hub may hold anything there.
    data = records.record.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    if not isinstance(sources, (list, tuple)):
        return []
    return [public_name(source) for source in sources if isinstance(source, str)]


def languages_of(records: Records) -> tuple[str, ...]:
    """The languages of known data; for other data Korean if a tenth of the samples' letters is Hangul, or none."""
    known_sources = [source for source in sources_of(records) if source in KNOWN_DATA]
    languages = [language for source in known_sources for language in KNOWN_DATA[source].languages]
    if languages:
        return tuple(dict.fromkeys(languages))
    texts = [text for line in records.log for sample in samples_in(line) for text in sample.values()]
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    hangul = sum("가" <= letter <= "힣" or "ㄱ" <= letter <= "ㅣ" for letter in letters)
    # Many languages share the other scripts, and a wrong language is worse than none.
    return ("ko",) if letters and hangul >= len(letters) / 10 else ()


def license_of(records: Records) -> str | None:
    """The licence of the training data, if it is known and the same for all of the data."""
    sources = sources_of(records)
    licenses = {KNOWN_DATA[source].license for source in sources if source in KNOWN_DATA}
    return licenses.pop() if len(licenses) == 1 and all(source in KNOWN_DATA for source in sources) else None

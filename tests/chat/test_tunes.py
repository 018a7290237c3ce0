"""Replies that are tunes: their sound, their score, in files, on the page, from the server and on a card."""

import base64
import io
import wave

import numpy as np
import pytest

from chatformer.chat import media, playing
from chatformer.chat.errors import ChatError
from chatformer.chat.media import MediaFolder, as_html, media_in
from chatformer.hub.samples import media_files, with_media_files

TUNE = "[M:4/4][L:1/8][K:A] |: A4 a4 :| c8 | c8 | c8 |]"
TEXT = f"여기: {TUNE} <b>"


@pytest.fixture
def needs_music():
    for package in playing.PACKAGES:
        pytest.importorskip(package)


def samples_of(file):
    with wave.open(file) as sound:
        assert sound.getframerate() == playing.SAMPLE_RATE
        return np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2").astype(float)


@pytest.mark.parametrize("is_fluidsynth", [False, True], ids=["overtones", "fluidsynth"])
def test_notes_sound_as_high_and_as_long_as_they_are_written(needs_music, monkeypatch, is_fluidsynth):
    import pretty_midi

    if is_fluidsynth:
        # It needs a library of the system as well.
        pytest.importorskip("fluidsynth", exc_type=ImportError)
    else:

        def not_installed(*arguments, **options):
            raise ImportError("no FluidSynth")

        monkeypatch.setattr(pretty_midi.Instrument, "fluidsynth", not_installed)
    playing.wav_of.cache_clear()
    samples = samples_of(io.BytesIO(playing.wav_of(TUNE)))
    # Twice a bar of two notes, three of one note, and a second in which the last one fades.
    half = 2 * playing.SECONDS["4/4"]
    assert len(samples) / playing.SAMPLE_RATE == pytest.approx(10 * half + 1, abs=0.1)
    for index, frequency in enumerate((440, 880, 440, 880)):
        note = samples[int((index + 0.2) * half * playing.SAMPLE_RATE) :][: int(0.6 * half * playing.SAMPLE_RATE)]
        spectrum = np.abs(np.fft.rfft(note))
        assert np.fft.rfftfreq(len(note), 1 / playing.SAMPLE_RATE)[spectrum.argmax()] == pytest.approx(frequency, abs=4)


def test_a_folder_gets_the_text_the_sound_and_the_score(needs_music, tmp_path):
    assert [path.name for path in MediaFolder(tmp_path).save(TEXT)] == ["1.abc", "1.wav", "1.svg"]
    assert (tmp_path / "1.abc").read_text("utf-8").endswith("K:A\n|: A4 a4 :| c8 | c8 | c8 |]\n")
    score = (tmp_path / "1.svg").read_text("utf-8")
    assert score.count('class="note"') == 5 and score.count('class="ending') == 0
    assert playing.score_of("[M:4/4][L:1/8][K:A] A8 |1 a8 :|2 c8 |]").decode().count('class="ending') == 2


def test_a_score_that_makes_its_process_crash_is_a_sentence(needs_music, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(playing, "DRAW", "import os; os.abort()")
    playing.score_of.cache_clear()
    with pytest.raises(ChatError, match="verovio cannot draw the score"):
        playing.score_of(TUNE)
    assert [path.suffix for path in MediaFolder(tmp_path).save(TEXT)] == [".abc", ".wav"]
    assert "verovio cannot draw" in caplog.text
    assert "verovio cannot draw" in as_html(TEXT)
    assert with_media_files([("a reel", TUNE)]) == [("a reel", TUNE)]


def test_the_page_plays_what_is_complete(needs_music):
    text = "여기: [M:4/4][L:1/8][K:A] |: A4 a4 :| c8 | c8 | c8 |] &lt;b&gt;"
    assert as_html(TEXT, is_growing=True) == text
    shown = as_html(TEXT)
    assert shown.startswith(f'{text}<br><audio controls src="data:audio/wav;base64,')
    assert 'alt="[a tune of 4 bars in A, 4/4]">' in shown and "data:image/svg+xml;base64," in shown


def test_a_server_gives_sound_and_score_where_they_are_asked_for(needs_music):
    from chatformer.chat.serving.illustrating import message_of

    plain, heard, read = (message_of(TEXT, asked) for asked in (["text"], ["text", "audio"], ["text", "image"]))
    assert "audio" not in plain.model_dump() and heard.images == [] and read.audio is None
    assert samples_of(io.BytesIO(base64.b64decode(heard.audio.data))).any() and heard.audio.transcript == TUNE
    assert read.images[0].image_url.url.startswith("data:image/svg+xml;base64,")


def test_a_card_shows_scores_behind_their_tunes(needs_music):
    samples = [("a tune", TUNE), ("hello", "hi")]
    assert list(media_files(samples)) == ["reply_1.svg"]
    assert with_media_files(samples) == [
        ("a tune", f"{TUNE} ![a tune of 4 bars in A, 4/4](reply_1.svg)"),
        ("hello", "hi"),
    ]


def test_without_the_packages_a_tune_is_text_and_saving_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(playing, "find_spec", lambda package: None)
    assert as_html(TUNE) == TUNE and media_files([("a tune", TUNE)]) == {}
    with pytest.raises(ChatError, match=r"pip install 'chatformer\[music\]'"):
        MediaFolder(tmp_path).save(TEXT)
    assert [medium.text for medium in media_in(TEXT)] == [TUNE] and media.can_play is playing.can_play

"""The page's parts: a conversation, the settings of replies, and the views of the last reply."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
from transformers import GenerationConfig

from chatformer.chat.chatbot import Answer, Chatbot, Replier
from chatformer.chat.errors import ChatError
from chatformer.chat.media import as_html
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import Message, NotText, turn

from .replies import growing_reply
from .views import VIEWS, Choice, drawn, model_of, num_layers_and_heads
from .words import ENGLISH, words_for

STYLE = """
footer { display: none !important }
.inside { overflow-x: auto }
.inside .js-plotly-plot { min-width: max-content }
#conversation .md { white-space: pre-wrap; overflow-wrap: anywhere }
#conversation .md img { image-rendering: pixelated }
input[type=radio]:checked:hover { background-color: var(--checkbox-background-color-selected) !important }
"""
DARKEN = "() => { document.body.classList.toggle('dark') }"
MAX_LETTERS = 20_000
MAX_WAITING = 64


@dataclass(frozen=True, kw_only=True)
class Page:
    """A chatbot, and what its page says of it."""

    chatbot: Replier
    title: str
    examples: Sequence[str]
    about: Mapping[str, str] = field(default_factory=dict)
    """By language, what to say of the model instead of the general words."""
    settings: ReplySettings = field(default_factory=ReplySettings)
    system: str | None = None
    log: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """The lines of the training's log, if there is one."""

    def blocks(self) -> gr.Blocks:
        """The page as Gradio serves it."""
        # The language is known when a browser asks: until then the words are English.
        words = ENGLISH
        with gr.Blocks(title=self.title, analytics_enabled=False, fill_width=True) as page:
            # As they were said. The component that shows them changes spaces, and would take HTML for markup.
            messages = gr.State([])
            seen = gr.State(None)
            with gr.Row():
                intro = gr.HTML(self.introduction(words))
                theme = gr.Button("◐", scale=0, min_width=48, elem_id="theme")
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    shown = gr.Chatbot(
                        show_label=False,
                        render_markdown=False,
                        # Copied by the button, a message would have its signs in HTML's spelling.
                        buttons=[],
                        height="60vh",
                        examples=[{"text": example} for example in self.examples],
                        elem_id="conversation",
                    )
                    textbox = gr.Textbox(
                        placeholder=words["say"],
                        show_label=False,
                        submit_btn=True,
                        max_length=MAX_LETTERS,
                        elem_id="say",
                    )
                    # Gradio cannot change the label of an accordion later.
                    with gr.Accordion("Settings · 설정", open=False, elem_id="settings"):
                        controls = self.controls(words)
                with gr.Column(scale=1, min_width=320):
                    view, choices, note, plot = self.inside(words)

            inputs, outputs = [messages, *controls], [textbox, shown, messages, seen]
            # A model computes one reply at a time.
            turn_taking: Any = {"concurrency_id": "reply", "concurrency_limit": 1, "show_progress": "hidden"}
            # Where nobody sees it: Gradio covers what an event that failed writes to.
            turn_taking["show_progress_on"] = messages
            replies: list[Any] = [
                textbox.submit(self.say, [textbox, *inputs], outputs, api_name="chat", **turn_taking),
                shown.example_select(self.say_example, inputs, outputs, api_visibility="private", **turn_taking),
                shown.retry(self.say_again, inputs, outputs, api_visibility="private", **turn_taking),
            ]
            for reply in replies:
                reply.then(self.ready, None, textbox, api_visibility="private", queue=False)
            textbox.stop(self.ready, None, textbox, cancels=replies, api_visibility="private", queue=False)
            shown.undo(self.undo, messages, [textbox, shown, messages], api_visibility="private", queue=False)
            shown.clear(lambda: ([], None), None, [messages, seen], api_visibility="private", queue=False)
            gr.on(
                [seen.change, view.change, *(choice.change for choice in choices)],
                self.look,
                [seen, view, *choices, *controls],
                [note, plot, *choices],
                concurrency_limit=2,
                show_progress="hidden",
                trigger_mode="always_last",
                api_visibility="private",
            )
            theme.click(None, js=DARKEN)
            labelled = [intro, textbox, *controls, view, *choices, note]
            page.load(self.localized, None, labelled, api_visibility="private", show_progress="hidden")
        return page

    def launch(
        self, host: str | None = None, port: int | None = None, *, prevent_thread_lock: bool = True
    ) -> gr.Blocks:
        """Serve the page, by a thread of its own; without a host and a port, where Gradio's variables say."""
        blocks = self.blocks()
        blocks.queue(max_size=MAX_WAITING, api_open=False)
        blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=prevent_thread_lock,
            share=False,
            quiet=True,
            show_error=True,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            max_file_size="1mb",
            footer_links=[],
            # Fonts of the system: the others would be asked from Google.
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=STYLE,
        )
        return blocks

    def introduction(self, words: Mapping[str, str]) -> str:
        notes = [self.about.get(words["language"], words["intro"])]
        if not self.chatbot.reads_history:
            notes.append(words["no_history"])
        return f"<h1>{html.escape(self.title)}</h1><p>{html.escape(' '.join(notes))}</p>"

    def first_note(self, words: Mapping[str, str]) -> str:
        """The text in the place of a view, before the first reply."""
        return words["no_inside"] if model_of(self.chatbot) is None else words["nothing"]

    def controls(self, words: Mapping[str, str]) -> list[gr.components.Component]:
        """The settings of replies, in the order that `reply` takes them."""
        given = self.settings
        own = self.chatbot.engine.own_search if isinstance(self.chatbot, Chatbot) else GenerationConfig()
        top_k = next(limit for limit in (given.top_k, own.top_k, 50) if limit is not None)
        search = "beams" if given.num_beams > 1 else "sampling" if given.draws(own) else "greedy"
        # A server of the protocol takes neither beams nor top-k.
        is_local = isinstance(self.chatbot, Chatbot)

        def slider(name: str, low: float, high: float, value: float, step: float, **options: Any) -> gr.Slider:
            # A value outside, which a flag may give, would be refused with each message.
            return gr.Slider(min(low, value), max(high, value), value, step=step, label=words[name], **options)

        return [
            gr.Radio(self.searches(words), value=search, label=words["search"], elem_id="search"),
            slider("temperature", 0.1, 2, given.temperature or own.temperature or 0.8, 0.1),
            slider("top_p", 0.05, 1, given.top_p or own.top_p or 1.0, 0.05),
            slider("top_k", 0, 200, top_k, 1, visible=is_local),
            slider("num_beams", 2, 10, given.num_beams if given.num_beams > 1 else 4, 1, visible=is_local),
            slider("max_new_tokens", 0, 256, given.max_new_tokens or 0, 1),
        ]

    def searches(self, words: Mapping[str, str]) -> list[tuple[str, str]]:
        """The ways to search for a reply, each under its name."""
        names = {"greedy": "greedy", "sampling": "sampling"}
        if isinstance(self.chatbot, Chatbot):
            names["beams"] = "beams_search"
        return [(words[name], search) for search, name in names.items()]

    def inside(self, words: Mapping[str, str]) -> tuple[Any, list[Any], Any, Any]:
        """The choice of a view, what can be chosen in it, a note, and the view."""
        num_layers, num_heads = num_layers_and_heads(self.chatbot, "cross")
        view = gr.Radio(named(VIEWS, words), value="attention", label=words["view"], elem_id="view")
        attentions = named(("cross", "encoder", "decoder"), words)
        which = gr.Radio(attentions, value="cross", label=words["which"])
        with gr.Row():
            # A slider would need more than one layer.
            layer = gr.Radio(counted(num_layers), value=num_layers, label=words["layer"], min_width=140)
            head = gr.Slider(0, num_heads, 0, step=1, label=words["head"], min_width=140)
        special = gr.Checkbox(True, label=words["special"])
        note = gr.Textbox(self.first_note(words), show_label=False, container=False, interactive=False, elem_id="note")
        plot = gr.Plot(show_label=False, visible=False, elem_classes="inside", elem_id="inside")
        return view, [which, layer, head, special], note, plot

    def say(
        self, request: gr.Request, text: str, messages: list[Message], *controls: Any
    ) -> Iterator[tuple[Any, Any, list[Message], Any]]:
        """Yield the parts of the page while the model replies to a text."""
        try:
            question = turn("user", text)
        except NotText as error:
            raise refusal(str(error)) from error
        if not question["content"]:
            raise refusal(words_for(request.headers)["empty"])
        if messages and messages[-1]["role"] == "user":
            # It was stopped before its reply began, and so is no part of the conversation.
            messages = messages[:-1]
        yield from self.answered([*messages, question], *controls)

    def say_example(
        self, request: gr.Request, example: gr.SelectData, messages: list[Message], *controls: Any
    ) -> Iterator[tuple[Any, Any, list[Message], Any]]:
        yield from self.say(request, example.value["text"], messages, *controls)

    def say_again(self, messages: list[Message], *controls: Any) -> Iterator[tuple[Any, Any, list[Message], Any]]:
        """Yield the parts of the page while the model replies to the last question again."""
        yield from self.answered(up_to_question(messages), *controls)

    def undo(self, messages: list[Message]) -> tuple[str, list[Message], list[Message]]:
        """Take the last question back into the box, and its reply away."""
        *before, question = up_to_question(messages)
        return question["content"], as_shown(before), before

    def ready(self) -> Any:
        """The box, ready for the next message."""
        return gr.update(submit_btn=True, stop_btn=False)

    def chosen(
        self,
        search: str,
        temperature: float,
        top_p: float,
        top_k: float,
        num_beams: float,
        max_new_tokens: float,
    ) -> ReplySettings:
        """The settings of a reply that the controls say."""
        return replace(
            self.settings,
            temperature=temperature if search == "sampling" else 0.0,
            top_p=top_p,
            top_k=int(top_k),
            num_beams=int(num_beams) if search == "beams" else 1,
            max_new_tokens=int(max_new_tokens) or None,
        )

    def answered(self, messages: list[Message], *controls: Any) -> Iterator[tuple[Any, Any, list[Message], Any]]:
        """Yield the parts of the page as a reply grows, and at the end what can be looked into."""
        settings = self.chosen(*controls)
        yield gr.update(value="", submit_btn=False, stop_btn=True), as_shown(messages), messages, gr.skip()
        system = [turn("system", self.system)] if self.system else []
        try:
            for news in growing_reply(self.chatbot, [*system, *messages], settings):
                text = news.text if isinstance(news, Answer) else news
                said = [*messages, {"role": "assistant", "content": text}]
                shown = as_shown(said, is_growing=not isinstance(news, Answer))
                yield gr.skip(), shown, said, news if isinstance(news, Answer) else gr.skip()
        except Exception as error:
            # Gradio runs nothing after an event that failed. The question goes back into the box, to be said again.
            *before, question = messages
            box = gr.update(value=question["content"], submit_btn=True, stop_btn=False)
            yield box, as_shown(before), before, gr.skip()
            if isinstance(error, ChatError):
                raise refusal(str(error)) from error
            raise

    def look(
        self,
        request: gr.Request,
        answer: Answer | None,
        view: str,
        which: Any,
        layer: float,
        head: float,
        with_special: bool,
        *controls: Any,
    ) -> list[Any]:
        """The note, the view, and which of its choices are shown."""
        # Encoder and decoder may differ in depth.
        num_layers, _ = num_layers_and_heads(self.chatbot, which)
        choice = Choice(
            view=view,
            attention=which,
            layer=min(int(layer), num_layers),
            head=int(head),
            with_special=with_special,
            # However the reply was found: the search with beams that the controls describe.
            beams=self.chosen("beams", *controls[1:]),
        )
        figure = drawn(self.chatbot, answer, choice, self.log, words_for(request.headers))
        is_note, is_attention = isinstance(figure, str), view == "attention"
        return [
            gr.update(value=figure if is_note else "", visible=is_note),
            gr.update(value=None if is_note else figure, visible=not is_note),
            gr.update(visible=is_attention),
            gr.update(visible=is_attention, choices=counted(num_layers), value=choice.layer),
            *[gr.update(visible=is_attention)] * 2,
        ]

    def localized(self, request: gr.Request) -> list[Any]:
        """The words of the page in the language of a browser."""
        words = words_for(request.headers)
        names = ("temperature", "top_p", "top_k", "num_beams", "max_new_tokens")
        return [
            self.introduction(words),
            gr.update(placeholder=words["say"]),
            gr.update(choices=self.searches(words), label=words["search"]),
            *(gr.update(label=words[name]) for name in names),
            gr.update(choices=named(VIEWS, words), label=words["view"]),
            gr.update(choices=named(("cross", "encoder", "decoder"), words), label=words["which"]),
            *(gr.update(label=words[name]) for name in ("layer", "head", "special")),
            self.first_note(words),
        ]


def named(values: Sequence[str], words: Mapping[str, str]) -> list[tuple[str, str]]:
    """Values to choose from, each under its name."""
    return [(words[value], value) for value in values]


def counted(num_layers: int) -> list[int]:
    """The layers to choose from."""
    return list(range(1, num_layers + 1))


def as_shown(messages: Sequence[Message], *, is_growing: bool = False) -> list[Message]:
    """Messages as the page takes them: text as HTML that shows it, and something to see for an empty reply."""
    return [
        {**said, "content": as_html(said["content"], is_growing=is_growing and said is messages[-1]) or "…"}
        for said in messages
    ]


def refusal(reason: str) -> gr.Error:
    """What the page says of a message that gets no reply; the terminal of the server need not hear of it."""
    return gr.Error(reason, print_exception=False)


def up_to_question(messages: list[Message]) -> list[Message]:
    """The messages without what follows the last question."""
    while messages and messages[-1]["role"] != "user":
        messages = messages[:-1]
    return messages

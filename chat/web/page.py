"""The page's parts: a conversation, the settings of replies, and the views of the last reply."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from chatformer.chat.chatbot import Answer, Chatbot, Replier
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import NotText, turn

from .replies import growing_reply
from .views import VIEWS, Choice, drawn, model_of
from .words import ENGLISH, words_for

STYLE = """
footer { display: none !important }
.inside { overflow-x: auto }
.inside .js-plotly-plot { min-width: max-content }
"""
DARKEN = "() => { document.body.classList.toggle('dark') }"
# Gradio cannot change the label of an accordion later.
SETTINGS = "Settings · 설정"
MAX_LETTERS = 20_000
MAX_WAITING = 64


@dataclass(frozen=True, kw_only=True)
class Page:
    """A chatbot, and what its page says of it."""

    chatbot: Replier
    title: str
    examples: Sequence[str]
    settings: ReplySettings = field(default_factory=ReplySettings)
    system: str | None = None
    log: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """The lines of the training's log, if there is one."""

    def blocks(self) -> gr.Blocks:
        """The page as Gradio serves it."""
        # The language is known when a browser asks: until then the words are English.
        words = ENGLISH
        with gr.Blocks(title=self.title, analytics_enabled=False, fill_width=True) as page:
            with gr.Row():
                intro = gr.HTML(self.introduction(words))
                theme = gr.Button("◐", scale=0, min_width=48, elem_id="theme")
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    controls = self.controls(words)
                    accordion = gr.Accordion(SETTINGS, open=False, render=False, elem_id="settings")
                    seen = gr.State(None)
                    textbox = gr.Textbox(
                        placeholder=words["say"],
                        show_label=False,
                        submit_btn=True,
                        stop_btn=True,
                        max_length=MAX_LETTERS,
                        elem_id="say",
                    )
                    chat = gr.ChatInterface(
                        self.reply,
                        chatbot=gr.Chatbot(
                            show_label=False,
                            # Messages are text: Markdown and HTML in them stay as they were typed.
                            render_markdown=False,
                            buttons=["copy"],
                            height="60vh",
                        ),
                        textbox=textbox,
                        examples=[[example] for example in self.examples],
                        examples_label=words["examples"],
                        cache_examples=False,
                        run_examples_on_click=True,
                        additional_inputs=controls,
                        additional_inputs_accordion=accordion,
                        additional_outputs=[seen],
                        # A model computes one reply at a time.
                        concurrency_limit=1,
                        analytics_enabled=False,
                        api_name="chat",
                    )
                with gr.Column(scale=1, min_width=320):
                    view, choices, note, plot = self.inside(words)
            inputs = [seen, view, *choices, controls[4]]
            # Not the state's change alone: the same reply twice is no change.
            gr.on(
                [seen.change, view.change, *(choice.change for choice in choices), chat.chatbot.change],
                self.look,
                inputs,
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
        notes = [words["intro"]]
        if not self.chatbot.reads_history:
            notes.append(words["no_history"])
        return f"<h1>{html.escape(self.title)}</h1><p>{html.escape(' '.join(notes))}</p>"

    def controls(self, words: Mapping[str, str]) -> list[gr.components.Component]:
        """The settings of replies, in the order that `reply` takes them."""
        given = self.settings
        search = "beams" if given.num_beams > 1 else "sampling" if given.temperature > 0 else "greedy"
        # A server of the protocol takes neither beams nor top-k.
        is_local = isinstance(self.chatbot, Chatbot)

        def slider(name: str, low: float, high: float, value: float, step: float, **options: Any) -> gr.Slider:
            return gr.Slider(low, high, value, step=step, label=words[name], render=False, **options)

        return [
            gr.Radio(self.searches(words), value=search, label=words["search"], render=False, elem_id="search"),
            slider("temperature", 0.1, 2, given.temperature or 0.8, 0.1),
            slider("top_p", 0.05, 1, given.top_p, 0.05),
            slider("top_k", 0, 200, given.top_k, 1, visible=is_local),
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
        model = model_of(self.chatbot)
        num_layers = model.config.num_hidden_layers if model is not None else 1
        num_heads = model.config.num_attention_heads if model is not None else 1
        view = gr.Radio(named(VIEWS, words), value="attention", label=words["view"], elem_id="view")
        attentions = named(("cross", "encoder", "decoder"), words)
        which = gr.Radio(attentions, value="cross", label=words["which"])
        with gr.Row():
            # A slider would need more than one layer.
            layer = gr.Radio(list(range(1, num_layers + 1)), value=num_layers, label=words["layer"], min_width=140)
            head = gr.Slider(0, num_heads, 0, step=1, label=words["head"], min_width=140)
        special = gr.Checkbox(True, label=words["special"])
        note = gr.Textbox(words["nothing"], show_label=False, container=False, interactive=False, elem_id="note")
        plot = gr.Plot(show_label=False, visible=False, elem_classes="inside", elem_id="inside")
        return view, [which, layer, head, special], note, plot

    def reply(
        self,
        message: str,
        history: Sequence[Mapping[str, Any]],
        search: str,
        temperature: float,
        top_p: float,
        top_k: float,
        num_beams: float,
        max_new_tokens: float,
        request: gr.Request,
    ) -> Iterator[tuple[str, Answer | None]]:
        """Yield the reply to a message as it grows, and at the end what can be looked into."""
        settings = replace(
            self.settings,
            temperature=temperature if search == "sampling" else 0.0,
            top_p=top_p,
            top_k=int(top_k),
            num_beams=int(num_beams) if search == "beams" else 1,
            max_new_tokens=int(max_new_tokens) or None,
        )
        try:
            messages = [turn("system", self.system)] if self.system else []
            messages += [turn(said["role"], said["content"]) for said in history]
            messages.append(turn("user", message))
        except NotText as error:
            raise gr.Error(str(error)) from error
        if not messages[-1]["content"]:
            raise gr.Error(words_for(request.headers)["empty"])
        for news in growing_reply(self.chatbot, messages, settings):
            if isinstance(news, Answer):
                # A page shows no empty message.
                yield news.text or "…", news
            else:
                yield news, None

    def look(
        self,
        answer: Answer | None,
        view: str,
        which: Any,
        layer: float,
        head: float,
        with_special: bool,
        num_beams: float,
        request: gr.Request,
    ) -> list[Any]:
        """The note, the view, and which of its choices are shown."""
        choice = Choice(
            view=view,
            attention=which,
            layer=int(layer),
            head=int(head),
            with_special=with_special,
            num_beams=int(num_beams),
        )
        figure = drawn(self.chatbot, answer, choice, self.log, words_for(request.headers))
        is_note = isinstance(figure, str)
        return [
            gr.update(value=figure if is_note else "", visible=is_note),
            gr.update(value=None if is_note else figure, visible=not is_note),
            *[gr.update(visible=view == "attention")] * 4,
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
            words["nothing"],
        ]


def named(values: Sequence[str], words: Mapping[str, str]) -> list[tuple[str, str]]:
    """Values to choose from, each under its name."""
    return [(words[value], value) for value in values]
